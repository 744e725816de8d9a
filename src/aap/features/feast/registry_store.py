"""Feast's registry file, where this home's data is: so `feast -c feature_repo ...` writes below `AAP_HOME` like all else."""

from __future__ import annotations

from pathlib import Path

from feast.infra.registry.file import FileRegistryStore
from feast.repo_config import RegistryConfig

from aap.config import load_settings
from aap.infra.atomic_files import make_folder
from aap.infra.paths import Layout

__all__ = ["HomeRegistryStore"]


class HomeRegistryStore(FileRegistryStore):
    """A registry file at `Layout.feast_registry`; the configured path only has to be there."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        super().__init__(registry_config, repo_path)
        self._filepath = Layout(load_settings().home).feast_registry
        make_folder(self._filepath.parent)
