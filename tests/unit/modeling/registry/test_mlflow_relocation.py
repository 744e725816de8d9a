"""A home that is moved keeps its models, and one that is copied leaves those of the first alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from aap.config import Settings
from aap.modeling.errors import CorruptArtifact, StoreUnavailable
from aap.modeling.registry.registry import Registry, open_registry


def opened(home: Path) -> Registry:
    return open_registry(Settings(home=home))


def kept(registry: Registry, model: Any) -> int:
    with registry.run("kept") as run:
        run.log_dict({"rows": 3}, path="told.json")
        return registry.register(model, run=run).version


def files(home: Path) -> set[str]:
    return {str(p.relative_to(home)) for p in (home / "mlflow" / "artifacts").rglob("*") if p.is_file()}


@pytest.fixture
def first(tmp_path: Path, fitted: Mapping[str, Any]) -> Path:
    registry = opened(tmp_path / "first")
    registry.promote("popularity", kept(registry, fitted["popularity"]))
    return tmp_path / "first"


def test_a_moved_home_loads_its_models_and_keeps_new_ones_where_it_is(
    first: Path, tmp_path: Path, fitted: Mapping[str, Any]
) -> None:
    second = tmp_path / "elsewhere" / "second"
    second.parent.mkdir()
    first.rename(second)
    registry = opened(second)
    champion = registry.champion("popularity")
    assert champion is not None
    assert registry.load(champion).name == "popularity"
    assert registry.read(champion, "told.json") == b'{\n  "rows": 3\n}'
    assert registry.load(registry.versions("popularity")[0]).name == "popularity"
    before = files(second)
    assert kept(registry, fitted["popularity"]) == 2
    assert len(files(second)) == 2 * len(before)
    assert not first.exists()
    for run in MlflowClient(registry.tracking_uri).search_runs(["1"]):
        assert run.info.artifact_uri.startswith(second.as_uri() + "/")


def test_a_copy_leaves_the_files_of_the_first_alone(first: Path, tmp_path: Path, fitted: Mapping[str, Any]) -> None:
    copy = tmp_path / "first-copied"  # begins as the first does
    shutil.copytree(first, copy)
    before = files(first)
    registry = opened(copy)
    champion = registry.champion("popularity")
    assert champion is not None
    shutil.rmtree(copy / "mlflow" / "artifacts" / champion.run_id)
    with pytest.raises(CorruptArtifact, match="are gone"):
        registry.load(champion)
    kept(registry, fitted["popularity"])
    assert files(first) == before
    theirs = opened(first).champion("popularity")
    assert theirs is not None
    assert opened(first).load(theirs).name == "popularity"


def test_a_store_that_is_no_database_is_told_by_the_registry(tmp_path: Path) -> None:
    (tmp_path / "mlflow").mkdir(parents=True)
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreUnavailable, match="Can't use the model registry"):
        opened(tmp_path).champion("popularity")
