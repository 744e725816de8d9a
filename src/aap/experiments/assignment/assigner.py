"""Assignment: which variant of a flag a person gets, the same one every time.

The first time a person may be in an experiment, the split decides, and the variant is kept beside the person
(`aap.experiments.assignment.store`); from then on it is read, so changing the weights, or the library that splits, moves
nobody. It lives as long as the grant it was made under (`functional.service.improve`): after a withdrawal, a later grant
starts afresh. Without that grant a person gets the default variant, and no exposure is logged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from aap.consent.policy import Decision
from aap.consent.redis_projection import assignments_key, consent_key, decisions_and_starts
from aap.experiments.assignment import store
from aap.experiments.assignment.exposures import Exposures
from aap.experiments.assignment.store import PURPOSE, Claim
from aap.experiments.errors import MissingUser
from aap.experiments.flags.definition import Flag
from aap.experiments.flags.kill_switch import stop_key
from aap.experiments.flags.rollout import admits, ramp_key
from aap.experiments.flags.store import Flags

__all__ = ["PURPOSE", "Assigner", "Assignment"]

SegmentsOf = Callable[[Sequence[str], datetime], Sequence[str | None]]
"""The segment of each person, None where consent or the lack of data says so."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The variant of one flag for one person, in the shape of an OpenFeature evaluation."""

    flag: str
    variant: str
    reason: str
    """`split` the first time, `sticky` after; or why it is the default: `disabled`, `stopped`, `no_split`,
    `other_slot` or `other_flag` (of the layer), `other_segment`, `not_yet` (in the growing share), `variant_removed`,
    `unavailable`, `consent_…`.
    """

    @property
    def exposed(self) -> bool:
        """Whether the person is in the experiment."""
        return self.reason in ("split", "sticky")


class Assigner:
    """Assigns people to variants, and logs the first exposure of each.

    `segments_of` answers for flags that are for some segments only; without it nobody is in such a flag.
    """

    def __init__(
        self, client: redis.Redis, *, flags: Flags, exposures: Exposures, segments_of: SegmentsOf | None = None
    ) -> None:
        self._redis, self._flags, self._exposures = client, flags, exposures
        self._segments_of = segments_of

    def assign(self, user_keys: Sequence[str], *, flag: str, now: datetime) -> list[Assignment]:
        """One assignment a person, in order; call it only for people to whom the variant is then applied.

        One `MGET` when everybody was assigned before. Raises `MissingUser` for an empty user key, `UnknownFlag`, and
        redis-py's errors when Redis is down.
        """
        if not all(user_keys):
            raise MissingUser(f"Flag {flag!r} was asked for without a user: pass the user key of every person.")
        declared = self._flags.get(flag)
        if not user_keys:
            return []
        if not declared.enabled or not declared.split:
            return _default(declared, "no_split" if declared.enabled else "disabled", len(user_keys))
        found: Any = self._redis.mget(self.reads(user_keys, flag=flag))
        if found[-2] is not None:
            return _default(declared, "stopped", len(user_keys))
        blobs = [b.encode("latin-1") if isinstance(b, str) else b for b in found[:-2]]
        made, starts = decisions_and_starts(blobs[::2], purpose=PURPOSE, now=now)
        mates = self._flags.layer_mates(declared)
        answers: list[Assignment | None] = [
            _settled(declared, decision, store.read(blob, grant=start), mates, user_key=user_key)
            for decision, blob, start, user_key in zip(made, blobs[1::2], starts, user_keys, strict=True)
        ]
        for i, user_key in enumerate(user_keys):
            if answers[i] is None and not admits(declared, found[-1], user_key=user_key):
                answers[i] = Assignment(flag, declared.default, "not_yet")
        new = [i for i, answer in enumerate(answers) if answer is None]
        first = self._first(declared, [(user_keys[i], starts[i]) for i in new], mates=mates, now=now) if new else []
        for i, answer in zip(new, first, strict=True):
            answers[i] = answer
        return [answer for answer in answers if answer is not None]

    def reads(self, user_keys: Sequence[str], *, flag: str) -> list[str]:
        """The keys that `assign` reads, all at once, of a flag that splits people."""
        return [*(k for u in user_keys for k in (consent_key(u), assignments_key(u))), stop_key(flag), ramp_key(flag)]

    def forget(self, user_key: str) -> bool:
        """Delete what one person was assigned; returns whether there was anything."""
        return bool(self._redis.delete(assignments_key(user_key)))

    def _first(
        self, flag: Flag, people: Sequence[tuple[str, int]], *, mates: Sequence[str], now: datetime
    ) -> list[Assignment]:
        """Assign people `(user_key, start of their grant)` without a variant, and log those this call assigned."""
        wanted = self._wanted(flag, [user_key for user_key, _ in people], now=now)
        claims = [
            Claim(user_key, wish.variant, grant)
            for (user_key, grant), wish in zip(people, wanted, strict=True)
            if wish.reason == "split"
        ]
        micros = (now - _EPOCH) // timedelta(microseconds=1)
        held = store.claim(self._redis, claims, flag=flag.name, mates=mates, now_micros=micros) if claims else []
        said = iter(held)
        answers = []
        for (user_key, _), wish in zip(people, wanted, strict=True):
            answer = _claimed(flag, wish, next(said)) if wish.reason == "split" else wish
            if answer.reason == "split":
                self._exposures.log(user_key, flag=flag.name, variant=answer.variant, split=flag.weights, at=now)
            answers.append(answer)
        return answers

    def _wanted(self, flag: Flag, user_keys: Sequence[str], *, now: datetime) -> list[Assignment]:
        """What the split says of each person, `split`, or why it says nothing."""
        segments: Sequence[str | None] = [None] * len(user_keys)
        if flag.segments and self._segments_of is not None:
            segments = self._segments_of(user_keys, now)
        found = []
        for user_key, segment in zip(user_keys, segments, strict=True):
            if flag.segments and segment not in flag.segments:
                found.append(Assignment(flag.name, flag.default, "other_segment"))
                continue
            variant = self._flags.bucket(flag, user_key=user_key, segment=segment)
            if variant is None:
                found.append(Assignment(flag.name, flag.default, "unavailable"))
            else:
                found.append(Assignment(flag.name, variant, "split"))
        return found


def _default(flag: Flag, reason: str, count: int) -> list[Assignment]:
    return [Assignment(flag.name, flag.default, reason)] * count


def _settled(
    flag: Flag, decision: Decision, known: dict[str, str], mates: Sequence[str], *, user_key: str
) -> Assignment | None:
    """The assignment of a person who may not be in the experiment or was assigned before; None for a new one."""
    if not decision.allowed:
        reason = str(decision.reason)
        return Assignment(flag.name, flag.default, reason if reason.startswith("consent_") else f"consent_{reason}")
    if flag.name in known:
        return _sticky(flag, known[flag.name])
    if any(mate in known for mate in mates):
        return Assignment(flag.name, flag.default, "other_flag")
    if flag.place and not flag.place.holds(user_key):
        return Assignment(flag.name, flag.default, "other_slot")
    return None


def _claimed(flag: Flag, wish: Assignment, said: str | None) -> Assignment:
    """What became of a claim; another process may have been first, or consent have changed, since we read."""
    match said:
        case None:
            return wish
        case "m":
            return Assignment(flag.name, flag.default, "other_flag")
        case "c":
            return Assignment(flag.name, flag.default, "consent_changed")
        case known:
            return _sticky(flag, known[1:])


def _sticky(flag: Flag, variant: str) -> Assignment:
    if variant in flag.variants:
        return Assignment(flag.name, variant, "sticky")
    return Assignment(flag.name, flag.default, "variant_removed")
