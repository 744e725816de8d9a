"""Assignment: which variant of a flag a person gets, the same one every time.

The first time a person may be in an experiment, the split decides and the variant is kept in Redis under the
person's hash tag, `{u:KEY}:x:FLAG`; from then on it is read, so changing the weights moves nobody. It lives as long as
the grant it was made under (`functional.service.improve`): after a withdrawal, a later grant starts afresh. Without
that grant a person gets the default variant, and no exposure is logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import redis

from consent.policy import Decision
from consent.projection import consent_key, decisions, slot, unpack
from consent.purposes import Purpose, spec
from experiments.errors import MissingUser
from experiments.exposures import Exposures
from experiments.flags import Flag, Flags

__all__ = ["PURPOSE", "Assigner", "Assignment", "assignment_key"]

PURPOSE = Purpose.FUNCTIONAL_SERVICE_IMPROVE

# The first writer under a grant wins, in whichever process it is; everyone else reads what it wrote.
# KEYS: the assignment. ARGV: "variant grant", " grant", seconds to keep it.
_CLAIM = """
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, -string.len(ARGV[2])) == ARGV[2] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return false
"""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The variant of one flag for one person, in the shape of an OpenFeature evaluation."""

    flag: str
    variant: str
    reason: str
    """`split` the first time, `sticky` after; or why it is the default: `disabled`, `variant_removed`, `consent_…`."""


def assignment_key(user_key: str, flag: str) -> str:
    """Where a person's variant of a flag is kept."""
    return f"{{u:{user_key}}}:x:{flag}"


class Assigner:
    """Assigns people to variants, and logs the first exposure of each."""

    def __init__(self, client: redis.Redis, *, flags: Flags, exposures: Exposures) -> None:
        self._redis, self._flags, self._exposures = client, flags, exposures
        self._claim = client.register_script(_CLAIM)

    def assign(self, user_keys: Sequence[str], *, flag: str, now: datetime) -> list[Assignment]:
        """One assignment a person, in order; call it only for people to whom the variant is then applied.

        One `MGET` when everybody was assigned before. Raises `MissingUser` for an empty user key, `UnknownFlag`, and
        redis-py's errors when Redis is down.
        """
        if not all(user_keys):
            raise MissingUser(f"Flag {flag!r} was asked for without a user: pass the user key of every person.")
        declared = self._flags.get(flag)
        if not declared.enabled:
            return [Assignment(flag, declared.default, "disabled") for _ in user_keys]
        if not user_keys:
            return []
        found = self._redis.mget([k for u in user_keys for k in (consent_key(u), assignment_key(u, flag))])
        blobs = [None if b is None else _bytes(b) for b in found]  # type: ignore[union-attr]
        made = decisions(blobs[::2], purpose=PURPOSE, now=now)
        starts = unpack(blobs[::2])[0]["grants"]["start"][:, slot(PURPOSE)].tolist()
        known = [_known(blob, grant=start) for blob, start in zip(blobs[1::2], starts, strict=True)]
        answers: list[Assignment | None] = [
            _settled(declared, decision, variant) for decision, variant in zip(made, known, strict=True)
        ]
        new = [i for i, answer in enumerate(answers) if answer is None]
        for i, answer in zip(
            new, self._first(declared, [(user_keys[i], starts[i]) for i in new], now=now), strict=True
        ):
            answers[i] = answer
        return [answer for answer in answers if answer is not None]

    def forget(self, user_key: str) -> int:
        """Delete every assignment of one person; returns how many there were."""
        keys = [assignment_key(user_key, flag) for flag in self._flags.names()]
        return int(self._redis.delete(*keys)) if keys else 0  # type: ignore[arg-type]

    def _first(self, flag: Flag, people: Sequence[tuple[str, int]], *, now: datetime) -> list[Assignment]:
        """Assign people `(user_key, start of their grant)` without a variant, and log those this call assigned."""
        if not people:
            return []
        keep_s = int(spec(PURPOSE).retention.total_seconds())
        wanted = [self._flags.bucket(flag.name, user_key=user_key) for user_key, _ in people]
        with self._redis.pipeline(transaction=False) as pipe:
            for (user_key, grant), variant in zip(people, wanted, strict=True):
                key, mark = assignment_key(user_key, flag.name), f" {grant}"
                self._claim(keys=[key], args=[variant + mark, mark, keep_s], client=pipe)
            held = pipe.execute()
        answers: list[Assignment] = []
        for (user_key, grant), variant, other in zip(people, wanted, held, strict=True):
            if other is None:
                self._exposures.log(user_key, flag=flag.name, variant=variant, at=now)
                answers.append(Assignment(flag.name, variant, "split"))
            else:  # another process assigned the person between our read and our write
                answers.append(_sticky(flag, _known(_bytes(other), grant=grant) or flag.default))
        return answers


def _settled(flag: Flag, decision: Decision, known: str | None) -> Assignment | None:
    """The assignment of a person who may not be in the experiment or was assigned before; None for a new one."""
    if not decision.allowed:
        reason = str(decision.reason)
        return Assignment(flag.name, flag.default, reason if reason.startswith("consent_") else f"consent_{reason}")
    return None if known is None else _sticky(flag, known)


def _sticky(flag: Flag, variant: str) -> Assignment:
    if variant in flag.variants:
        return Assignment(flag.name, variant, "sticky")
    return Assignment(flag.name, flag.default, "variant_removed")


def _known(blob: bytes | None, *, grant: int) -> str | None:
    """The variant kept for a person, or None if there is none or it was made under an earlier grant."""
    if blob is None:
        return None
    variant, _, made_under = blob.decode(errors="replace").rpartition(" ")
    return variant if variant and made_under == str(grant) else None


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")
