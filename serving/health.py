"""Health: whether the process lives, and whether it can answer; if not, which dependency is missing and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.errors import status_and_sentence
from serving.platform import Platform

__all__ = ["Readiness", "readiness"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """`ready` once every endpoint can answer; `missing` maps each dependency that is not there to a sentence."""

    ready: bool
    models: dict[str, str] = field(default_factory=dict)
    """The version in use of each model."""
    missing: dict[str, str] = field(default_factory=dict)


def readiness(platform: Platform) -> Readiness:
    """Ask every dependency now. Never raises."""
    missing: dict[str, str] = {}
    try:
        platform.stores().client.ping()
    except Exception as error:
        missing["redis" if status_and_sentence(error)[0] == 503 else "stores"] = status_and_sentence(error)[1]
    missing.update({f"model {name}": f"{why}." for name, why in platform.models.missing().items()})
    return Readiness(not missing, platform.models.versions(), missing)
