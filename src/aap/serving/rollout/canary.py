"""Canary: a challenger answers a share of people, that of the flag `<model>_version`; whom it fails, the champion answers.

The flag's variants are `champion` and `challenger`. So a canary is an experiment like any other: consent decides whether a
person is in it, the variant stays theirs, the share may grow by itself (`ramp`), and a broken guardrail ends it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from aap.experiments.assignment.assigner import Assignment
from aap.experiments.flags.definition import CHALLENGER, VERSION
from aap.serving.errors import ServingError
from aap.serving.model_cache import InUse

__all__ = ["Canary", "NoCanary", "Part", "Split"]

_log = logging.getLogger("aap.serving")

T = TypeVar("T")
Measured = Callable[[str, str, int], AbstractContextManager[None]]


class _Models(Protocol):
    def get(self, name: str) -> InUse: ...


class _Assignments(Protocol):
    def reads(self, user_keys: Sequence[str], *, flag: str) -> list[str]: ...
    def assign(self, user_keys: Sequence[str], *, flag: str, now: datetime) -> list[Assignment]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """People, by their place among those asked about, whom one version is to answer."""

    used: InUse
    champion: InUse
    people: Sequence[int] = ()
    flag: str | None = None
    variant: str | None = None
    """Set where all of them are in the canary."""

    def answered(self, ask: Callable[[Any], T], *, people: int, measured: Measured) -> tuple[InUse, T]:
        """Who answered so many of them, and what. What a challenger raises is counted, and the champion answers."""
        timed = measured(self.flag, self.variant, people) if self.flag and self.variant else nullcontext()
        if self.used is self.champion:
            with timed:
                return self.used, ask(self.used.model)
        try:
            with timed:
                self.used.require(self.champion.model.features)
                return self.used, ask(self.used.model)
        except Exception as error:
            _log.warning("Challenger %s %s failed: %s.", self.used.name, self.used.version, type(error).__name__)
            return self.champion, ask(self.champion.model)


@dataclass(frozen=True, slots=True)
class Split:
    """Everybody asked about, in parts, and the assignments of those in the canary by place."""

    parts: Sequence[Part]
    assigned: Mapping[int, Assignment]


class Canary:
    """Splits people between champion and challenger. `declared` gives the names of the flags in force."""

    def __init__(
        self, challengers: _Models, assignments: _Assignments, *, declared: Callable[[], Collection[str]]
    ) -> None:
        self._challengers, self._assignments, self._declared = challengers, assignments, declared

    def split(self, champion: InUse, user_keys: Sequence[str], *, now: datetime) -> Split:
        """Raises what the stores raise when they are down."""
        flag = f"{champion.name}{VERSION}"
        challenger = self._challenger(champion.name, flag)
        if challenger is None or not user_keys:
            return Split([Part(champion, champion, range(len(user_keys)))], {})
        made = self._assignments.assign(user_keys, flag=flag, now=now)
        arms: dict[tuple[str, bool], list[int]] = {}
        for place, one in enumerate(made):
            arms.setdefault((one.variant, one.exposed), []).append(place)
        parts = [
            Part(
                challenger if variant == CHALLENGER else champion,
                champion,
                people,
                *((flag, variant) if inside else ()),
            )
            for (variant, inside), people in arms.items()
        ]
        return Split(parts, {place: one for place, one in enumerate(made) if one.exposed})

    def reads(self, champion: InUse, user_keys: Sequence[str]) -> list[str]:
        """The keys that `split` reads together, none where it reads nothing."""
        flag = f"{champion.name}{VERSION}"
        return [] if self._challenger(champion.name, flag) is None else self._assignments.reads(user_keys, flag=flag)

    def _challenger(self, name: str, flag: str) -> InUse | None:
        try:
            return self._challengers.get(name) if flag in self._declared() else None
        except ServingError:
            return None


class NoCanary:
    """The champion answers everybody."""

    def split(self, champion: InUse, user_keys: Sequence[str], *, now: datetime) -> Split:
        """One part."""
        return Split([Part(champion, champion, range(len(user_keys)))], {})

    def reads(self, _champion: InUse, _user_keys: Sequence[str]) -> list[str]:
        """Nothing."""
        return []
