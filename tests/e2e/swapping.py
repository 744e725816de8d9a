"""A registry for the replay of many answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aap.modeling.registry.registry import ModelVersion, Registry


@dataclass
class Loaded:
    """A registry that loads each version once, for the replay of many answers."""

    registry: Registry
    _versions: dict[tuple[str, int], ModelVersion] = field(default_factory=dict)
    _models: dict[tuple[str, int], Any] = field(default_factory=dict)

    def version(self, name: str, version: int) -> ModelVersion:
        if (name, version) not in self._versions:
            self._versions[name, version] = self.registry.version(name, version)
        return self._versions[name, version]

    def load(self, version: ModelVersion) -> Any:
        key = version.name, version.version
        if key not in self._models:
            self._models[key] = self.registry.load(version)
        return self._models[key]
