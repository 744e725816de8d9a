"""Modules of the project by the names they have there.

The library never imports a project: it asks here for what the project declares.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["project_conf", "project_module"]

_ROOT = Path(__file__).resolve().parents[3]


def project_module(name: str) -> ModuleType:
    """The module `name` of the project, such as `pipelines.retrain`. Raises `ImportError` where there is none."""
    for folder in (_ROOT, _ROOT / "feature_repo"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(name.removeprefix("feature_repo."))


def project_conf() -> Path:
    """The folder of the project's YAML: `training.yaml`, `flags.json`, `experiments.yaml`, and `demo/` with mappings."""
    return _ROOT / "conf"
