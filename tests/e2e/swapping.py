"""Versions of a model to swap its champion for, and a registry for the replay of many answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from models import lineage
from models.registry import ModelVersion, Registry


def other_versions(registry: Registry) -> tuple[int, int]:
    """A version of churn with half of the champion's trees, and one whose file was altered after it was registered."""
    champion = registry.champion("churn")
    assert champion is not None
    model: Any = registry.load(champion)
    fewer = dataclasses.replace(model, booster=model.booster[: max(1, model.booster.num_boosted_rounds() // 2)])
    other, bad = (_register(registry, fewer, made_of=champion) for _ in range(2))
    file = Path(urlparse(bad.source).path) / "model.ubj"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    return other.version, bad.version


def _register(registry: Registry, model: Any, *, made_of: ModelVersion) -> ModelVersion:
    """A version that says of itself what `made_of` does: one that says nothing would not be loaded."""
    manifest, people = (registry.read(made_of, path) for path in (lineage.MANIFEST, lineage.FILE))
    assert manifest is not None
    assert people is not None
    with registry.run("swapped in a test") as run:
        run.log_bytes(manifest, path=lineage.MANIFEST)
        run.log_bytes(people, path=lineage.FILE)
        return registry.register(model, run=run, tags=lineage.made_of(manifest, people))


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
