"""Health: whether the process lives, and whether it can answer; if not, which dependency is missing and why, and what
needs a person though it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import cast

from aap.consent.errors import ConsentError
from aap.infra.errors import KeyFileError
from aap.serving.context import Platform
from aap.serving.errors import status_and_sentence

__all__ = ["Readiness", "readiness"]

_ASKED_S = 1.0
_LOADING = "still loading"


@dataclass(frozen=True, slots=True)
class Readiness:
    """`ready` once every endpoint can answer; `missing` maps each dependency that is not there to a sentence."""

    ready: bool
    models: dict[str, str] = field(default_factory=dict)
    """The version in use of each model."""
    missing: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    """What doesn't keep it from answering but needs a person: a flag file with a mistake."""

    def in_brief(self) -> Readiness:
        """What anybody may know: whether it is ready, and the names of what is missing."""
        return Readiness(self.ready, missing={name: _brief(why) for name, why in self.missing.items()})


async def readiness(platform: Platform) -> Readiness:
    """Ask every dependency now, and wait for none for long. Never raises."""
    missing: dict[str, str] = {}
    try:
        async with asyncio.timeout(_ASKED_S):
            await cast(Awaitable[bool], platform.impatient.ping())
            if platform.opened is None:
                await platform.choices.run(platform.stores)
        if trouble := platform.consent.trouble:
            missing["consent"] = trouble
    except TimeoutError:
        missing["stores"] = "They are still loading, or Redis doesn't answer: ask again in a moment."
    except Exception as error:
        missing[_at_fault(error)] = status_and_sentence(error)[1]
    missing.update({f"model {name}": f"{why}." for name, why in platform.models.missing().items()})
    warnings = {"flags": platform.flags.problem} if platform.flags.problem else {}
    if mended := platform.consent.mended:
        warnings["consent projection"] = (
            f"Redis had lost, or held from before, the consent of {mended} people; it was written anew from the ledger."
        )
    return Readiness(not missing, platform.models.versions(), missing, warnings)


def _brief(why: str) -> str:
    return why if _LOADING in why else "Ask with an API key to be told why."


def _at_fault(error: Exception) -> str:
    """Which dependency an error of opening the stores speaks of."""
    if isinstance(error, (ConsentError, KeyFileError)):
        return "consent"
    return "redis" if status_and_sentence(error)[0] == 503 else "stores"
