"""docs/add-a-model.md, followed to the letter: its code joins the shop's models, is trained and keeps the contract."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import models
from aap.modeling.catalog import ModelDeclaration, declarations, evaluate, model_class
from aap.modeling.promotion_gate import decide
from aap.modeling.registry.artifacts import digests
from aap.modeling.registry.registry import Registry
from aap.modeling.temporal_split import global_split
from aap.modeling.training import train
from aap.modeling.training_config import TrainingSettings, parse_training_settings
from tests.docs.pages import DOCS, ROOT, blocks
from tests.unit.modeling.shop import START, Shop, purchases

PAGE = DOCS / "add-a-model.md"
AS_OF = START + timedelta(days=200)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Step 2: the file."""
    (source,) = blocks(PAGE, "python")
    path = tmp_path_factory.mktemp("models") / "lapsed.py"
    path.write_text(source)
    found = importlib.util.spec_from_file_location("page_lapsed", path)
    assert found is not None
    assert found.loader is not None
    module = sys.modules["page_lapsed"] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    yield module
    del sys.modules["page_lapsed"]


@pytest.fixture
def training(written: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainingSettings]:
    """Steps 3 and 4: its section and its place among the shop's models."""
    lapsed = ModelDeclaration(written.Lapsed, evaluate=written.evaluate)
    monkeypatch.setattr(models, "MODELS", (*models.MODELS, lapsed))
    declarations.cache_clear()
    content = yaml.safe_load((ROOT / "conf" / "training.yaml").read_text())
    (section,) = blocks(PAGE, "yaml")
    content["models"] |= yaml.safe_load(section)
    yield parse_training_settings(content)
    declarations.cache_clear()


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(purchases(people=150, items=40, days=200, seed=3))


def test_it_has_at_most_eight_steps() -> None:
    steps = re.findall(r"^(\d+)\. \*\*", PAGE.read_text(), re.MULTILINE)
    assert steps == [str(i) for i in range(1, len(steps) + 1)]
    assert len(steps) <= 8


def test_the_files_it_names_are_there() -> None:
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|yaml))`", PAGE.read_text())) - {"models/lapsed.py"}
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_its_model_keeps_the_contract(training: TrainingSettings, shop: Shop, tmp_path: Path) -> None:
    kind, parameters = model_class("lapsed"), training.models["lapsed"]
    split = global_split(AS_OF, horizon_days=parameters.horizon_days)
    past = kind.examples(shop, until=split.cut, as_of=AS_OF, parameters=parameters)
    later = kind.held_out(shop, cut=split.cut, until=split.until, as_of=AS_OF, parameters=parameters)
    folders = [tmp_path / name for name in ("one", "other", "again")]
    for folder in folders:
        folder.mkdir()
    one, other = (kind.fit(past, parameters=parameters, seed=7) for _ in "ab")
    one.save(folders[0])
    other.save(folders[1])
    back = kind.load(folders[0])
    back.save(folders[2])
    assert digests(folders[0]) == digests(folders[1]) == digests(folders[2])
    assert back.score(later.values).tolist() == one.score(later.values).tolist()
    assert evaluate(one, held_out=later, train=past, parameters=parameters, seed=7).metrics["auc"] > 0.5


def test_it_is_trained_registered_and_judged_by_the_gate_like_any_other(
    training: TrainingSettings, shop: Shop, tmp_path: Path
) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts")
    trained = train("lapsed", retrieval=shop, registry=registry, settings=training, as_of=AS_OF)
    decision = decide(trained.evaluation, None, features=trained.model.features, rules=training.gate)
    assert decision.reasons
    assert registry.load(trained.version).usual_days == trained.model.usual_days
