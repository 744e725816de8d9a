"""Rivals of a champion, made of it: one that is sound and answers otherwise, and one whose file was altered."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from aap.modeling.registry import lineage
from aap.modeling.registry.registry import ModelVersion, Registry

__all__ = ["rivals"]


def rivals(registry: Registry, champion: ModelVersion) -> tuple[ModelVersion, ModelVersion]:
    """A version with half of the trees of `champion`, of churn, and one whose file was altered after it was registered."""
    model: Any = registry.load(champion)
    fewer = dataclasses.replace(model, booster=model.booster[: max(1, model.booster.num_boosted_rounds() // 2)])
    sound, altered = (_register(registry, fewer, made_of=champion) for _ in range(2))
    file = Path(urlparse(altered.source).path) / "model.ubj"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    return sound, altered


def _register(registry: Registry, model: Any, *, made_of: ModelVersion) -> ModelVersion:
    """A version that says of itself what `made_of` does: one that says nothing would not be loaded."""
    manifest, people = (registry.read(made_of, path) for path in (lineage.MANIFEST, lineage.FILE))
    assert manifest is not None
    assert people is not None
    with registry.run("a rival") as run:
        run.log_bytes(manifest, path=lineage.MANIFEST)
        run.log_bytes(people, path=lineage.FILE)
        return registry.register(model, run=run, tags=lineage.made_of(manifest, people))
