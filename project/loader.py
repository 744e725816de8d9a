"""Modules of the project by the names they have there.

The library never imports a project: it asks here for what the project declares. Until library and project are apart,
the project's modules lie among the library's, under the names of `_TODAY`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

__all__ = ["project_conf", "project_module"]

_TODAY = {
    "feature_repo.features": "feature_repo.definitions",
    "models": "models.shop_models",
    "serving.endpoints": "serving.endpoints",
    "pipelines.backfill": "pipelines.past_weeks",
    "pipelines.demo.story": "pipelines.demo",
    "pipelines.demo.full_consent": "pipelines.all_data",
    "pipelines.anomaly_scoring.process": "pipelines.watching",
}


def project_module(name: str) -> ModuleType:
    """The module `name` of the project, such as `pipelines.retrain`. Raises `ImportError` where there is none."""
    return importlib.import_module(_TODAY.get(name, name))


def project_conf() -> Path:
    """The folder of the project's YAML: `training.yaml`, `flags.json`, `experiments.yaml`, and `demo/` with mappings."""
    return Path(__file__).resolve().parent.parent / "settings"
