"""One small made-up shop, its data per model, and a registry whose database was made once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aap.modeling.base import AnyModel
from aap.modeling.catalog import model_classes
from aap.modeling.registry.registry import Registry
from aap.modeling.temporal_split import global_split
from aap.modeling.training_config import TrainingSettings, load_training_settings
from tests.unit.modeling.shop import START, Shop, purchases

AS_OF = START + timedelta(days=220)


@dataclass(frozen=True, slots=True)
class Case:
    """A model class with data to learn from and to be judged on."""

    kind: type[AnyModel]
    parameters: Any
    train: Any
    held_out: Any

    def fit(self, seed: int = 7) -> AnyModel:
        return self.kind.fit(self.train, parameters=self.parameters, seed=seed)


QUICK: dict[str, dict[str, Any]] = {
    "recommendation": {"cuts": 2, "trees": 60},
    "segments": {"stability_draws": 3, "starts": 3, "most_clusters": 6},
}
"""What is smaller here than in training.yaml, so that the tests stay quick; what is computed is the same."""


@pytest.fixture(scope="session")
def settings() -> TrainingSettings:
    found = load_training_settings(Path(__file__).parents[3] / "conf" / "training.yaml")
    models: dict[str, Any] = dict(found.models)
    return replace(found, models=models | {name: replace(models[name], **less) for name, less in QUICK.items()})


@pytest.fixture(scope="session")
def shop() -> Shop:
    return Shop(purchases(people=300, items=120, days=220, seed=11))


@pytest.fixture(scope="session")
def cases(shop: Shop, settings: TrainingSettings) -> dict[str, Case]:
    found = {}
    for name, kind in model_classes().items():
        parameters: Any = settings.models[name]
        split = global_split(AS_OF, horizon_days=parameters.horizon_days)
        train = kind.examples(shop, until=split.cut, as_of=AS_OF, parameters=parameters)
        held_out = kind.held_out(shop, cut=split.cut, until=split.until, as_of=AS_OF, parameters=parameters)
        found[name] = Case(kind, parameters, train, held_out)
    return found


@pytest.fixture(scope="session")
def fitted(cases: dict[str, Case]) -> dict[str, AnyModel]:
    return {name: case.fit() for name, case in cases.items()}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    Registry(f"sqlite:///{folder}/mlflow.db", folder / "artifacts").versions("none")
    return folder / "mlflow.db"


@pytest.fixture
def registry(empty_store: Path, tmp_path: Path) -> Registry:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts")
