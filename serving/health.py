"""Health: whether the process lives, and whether it can answer; if not, which dependency is missing and why, and what
needs a person though it answers."""

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
    warnings: dict[str, str] = field(default_factory=dict)
    """What doesn't keep it from answering but needs a person: a flag file with a mistake."""


def readiness(platform: Platform) -> Readiness:
    """Ask every dependency now. Never raises."""
    missing: dict[str, str] = {}
    try:
        platform.stores().client.ping()
    except Exception as error:
        missing["redis" if status_and_sentence(error)[0] == 503 else "stores"] = status_and_sentence(error)[1]
    missing.update({f"model {name}": f"{why}." for name, why in platform.models.missing().items()})
    warnings = {"flags": platform.flags.problem} if platform.flags.problem else {}
    return Readiness(not missing, platform.models.versions(), missing, warnings)
