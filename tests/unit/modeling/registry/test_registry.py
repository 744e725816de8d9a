"""Training into, promoting in and reading from a real MLflow on SQLite."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from urllib.parse import urlparse

import pytest

from aap.infra.code_version import WRITTEN, code_revision
from aap.modeling.catalog import model_classes
from aap.modeling.errors import CorruptArtifact, NoChampion, StoreUnavailable, UnknownModel, UnknownVersion
from aap.modeling.registry.artifacts import digests
from aap.modeling.registry.registry import Registry
from aap.modeling.training import train
from tests.unit.modeling.conftest import AS_OF


def put(registry, model, count=1):
    for _ in range(count):
        with registry.run("test") as run:
            run.log_metrics({"ndcg_at_10": 0.5, "endless": float("inf"), "nothing": float("nan")})
            version = registry.register(model, run=run)
    return version


def files_of(version) -> Path:
    return Path(urlparse(version.source).path)


def test_versions_count_up_and_none_is_champion_before_it_is_promoted(registry, fitted):
    assert registry.versions("popularity") == []
    assert registry.champion("popularity") is None
    put(registry, fitted["popularity"], count=2)
    assert [v.version for v in registry.versions("popularity")] == [2, 1]
    assert registry.champion("popularity") is None
    assert registry.metrics(registry.versions("popularity")[0]) == {"ndcg_at_10": 0.5}


def test_promoting_moves_the_champion_to_previous_and_rolling_back_swaps_them(registry, fitted):
    put(registry, fitted["popularity"], count=3)
    registry.promote("popularity", 1)
    with pytest.raises(NoChampion, match="no previous champion"):
        registry.rollback("popularity")
    registry.promote("popularity", 3, reasons=("beats popularity",))
    assert (registry.champion("popularity").version, registry.previous("popularity").version) == (3, 1)
    assert json.loads(registry.champion("popularity").tags["promotion_reasons"]) == ["beats popularity"]
    assert registry.rollback("popularity").version == 1
    assert (registry.champion("popularity").version, registry.previous("popularity").version) == (1, 3)


def test_a_version_is_made_the_challenger_and_let_go_without_touching_the_champion(registry, fitted):
    put(registry, fitted["popularity"], count=2)
    registry.promote("popularity", 1)
    assert registry.challenger("popularity") is None
    registry.challenge("popularity", 2)
    assert (registry.challenger("popularity").version, registry.champion("popularity").version) == (2, 1)
    with pytest.raises(UnknownVersion, match="no version 9"):
        registry.challenge("popularity", 9)
    for _ in range(2):
        registry.challenge("popularity", None)
        assert registry.challenger("popularity") is None


def test_promoting_the_champion_again_keeps_the_way_back(registry, fitted):
    put(registry, fitted["popularity"], count=2)
    for version in (1, 2, 2):
        registry.promote("popularity", version)
    assert registry.previous("popularity").version == 1


def test_a_version_that_does_not_exist_is_refused_and_changes_nothing(registry, fitted):
    put(registry, fitted["popularity"])
    registry.promote("popularity", 1)
    with pytest.raises(UnknownVersion, match="popularity has no version 9"):
        registry.promote("popularity", 9)
    assert registry.champion("popularity").version == 1
    with pytest.raises(UnknownVersion):
        registry.version("nothing", 1)


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_what_is_loaded_is_what_was_registered(name, registry, fitted, tmp_path):
    version = put(registry, fitted[name])
    (tmp_path / "one").mkdir()
    registry.load(version).save(tmp_path / "one")
    assert digests(tmp_path / "one") == json.loads(version.tags["artifact_digests"])


@pytest.mark.parametrize("damage", ["changed", "added", "missing"])
def test_a_damaged_artifact_is_detected_before_it_is_read(damage, registry, fitted):
    version = put(registry, fitted["segments"])
    file = files_of(version) / "segments.npz"
    if damage == "changed":
        content = bytearray(file.read_bytes())
        content[-200] ^= 1
        file.write_bytes(content)
    elif damage == "added":
        (file.parent / "code.py").write_text("print('hello')")
    else:
        file.unlink()
    with pytest.raises(CorruptArtifact, match=f"{damage}"):
        registry.load(version)


def test_a_version_whose_folder_is_gone_is_corrupt(registry, fitted):
    version = put(registry, fitted["popularity"])
    (files_of(version) / "model.json").unlink()
    files_of(version).rmdir()
    with pytest.raises(CorruptArtifact, match="retrain or roll back"):
        registry.load(version)


def test_a_store_that_cannot_be_used_is_named_without_its_password(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database, and long enough to be read as one" * 100)
    with pytest.raises(StoreUnavailable, match=r"Can't use the model registry at .*mlflow\.db"):
        Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "a").champion("churn")


def test_a_run_that_raises_is_marked_failed_and_nested_below_its_parent(registry):
    with registry.run("retrain") as parent, pytest.raises(RuntimeError), registry.run("train", parent=parent) as child:
        raise RuntimeError("no")
    stored = child.client.get_run(child.id)
    assert stored.info.status == "FAILED"
    assert stored.data.tags["mlflow.parentRunId"] == parent.id
    assert parent.client.get_run(parent.id).info.status == "FINISHED"


@pytest.mark.parametrize("name", ["churn", "popularity"])
def test_training_judges_refits_and_registers_with_everything_it_was_made_of(name, registry, shop, settings):
    told: list[str] = []
    done = train(
        name, retrieval=shop, registry=registry, settings=settings, as_of=AS_OF, revision="abc", progress=told.append
    )
    assert told == ["read the past", "fit on the past", "judge on what came after", "refit on everything", "register"]
    assert list(done.seconds) == told
    version = registry.versions(name)[0]
    assert version == done.version
    assert registry.champion(name) is None
    assert version.tags["data_hash"] == done.manifest.rows_root
    assert version.tags["git_revision"] == "abc"
    assert json.loads(version.tags["features"]) == list(done.model.features)
    headline = done.evaluation.headline
    assert registry.metrics(version)[headline] == pytest.approx(done.evaluation.metrics[headline])
    kept = {path.relative_to(files_of(version).parent).as_posix() for path in files_of(version).parent.rglob("*.*")}
    assert {"manifest.json", "evaluation.json"} <= kept
    assert any(path.startswith("plots/") for path in kept)


def test_training_twice_registers_the_same_bytes(registry, shop, settings):
    for _ in range(2):
        train("anomaly", retrieval=shop, registry=registry, settings=settings, as_of=AS_OF)
    second, first = registry.versions("anomaly")
    assert first.tags["artifact_digests"] == second.tags["artifact_digests"]
    assert first.tags["data_hash"] == second.tags["data_hash"]


def test_an_unknown_model_is_refused_by_name(registry, shop, settings):
    with pytest.raises(UnknownModel, match=r"No model 'astrology'; choose one of: anomaly, churn"):
        train("astrology", retrieval=shop, registry=registry, settings=settings, as_of=AS_OF)


def test_the_code_revision_is_that_of_the_checkout_or_nothing(tmp_path):
    assert code_revision(tmp_path) is None
    found = code_revision(Path(__file__).parent)
    assert found is None or len(found.removesuffix("+changes")) == 40


def test_without_git_the_code_revision_is_what_the_build_wrote(tmp_path):
    (tmp_path / WRITTEN).write_text("4f1c\n")
    assert code_revision(tmp_path) == "4f1c"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / WRITTEN).write_text("\n")
    assert code_revision(tmp_path / "empty") is None


def test_new_segments_take_over_the_numbers_of_the_champions(registry, fitted, shop, settings):
    renumbered = dataclasses.replace(fitted["segments"], numbers=tuple(n + 40 for n in fitted["segments"].numbers))
    registry.promote("segments", put(registry, dataclasses.replace(renumbered, unused=90)).version)
    done = train("segments", retrieval=shop, registry=registry, settings=settings, as_of=AS_OF)
    assert all(number >= 40 for number in registry.load(done.version).numbers)


def test_why_the_service_refuses_a_version_is_kept_until_it_answers_with_it(registry, fitted):
    version = put(registry, fitted["popularity"])
    assert version.refusal is None
    registry.note_serving(version, refusal="File model.json was changed")
    assert registry.version("popularity", 1).refusal == "File model.json was changed"
    registry.note_serving(registry.version("popularity", 1), refusal=None)
    assert registry.version("popularity", 1).refusal is None


def test_its_state_tells_after_every_write_and_not_before_two_writes_can_be_told_apart(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts")
    assert registry.state() is None, "there is nothing yet"
    with registry.run("one"):
        pass
    assert registry.state() is None, "it was written just now"
    seen = []
    for hours in (2, 1):
        with registry.run("another"):
            pass
        then = time.time() - 3_600 * hours
        os.utime(tmp_path / "mlflow.db", (then, then))
        seen.append(registry.state())
        assert registry.state() == seen[-1] is not None
    assert seen[0] != seen[1]
    assert Registry("http://127.0.0.1:1", tmp_path).state() is None, "a server must be asked"
