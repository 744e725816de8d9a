"""The consent desk: where a choice is taken, and acknowledged only once every reader obeys it.

Order matters. The ledger is written first (what a person said is never lost), then the projection in Redis and the
deletion of what a withdrawn purpose knew, in one atomic step; only then does `record` return.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import redis

from aap.config import Settings
from aap.consent import redis_projection
from aap.consent.errors import LedgerUnavailable, NotYetInForce, UnusableChoice
from aap.consent.ledger.ledger import Entry, Ledger, Record
from aap.consent.ledger.notices import Notice, superseded_at
from aap.consent.ledger.records import GPC_METHOD
from aap.consent.ledger.signing import load_signer
from aap.consent.ledger.tombstones import open_tombstones
from aap.consent.policy import Decision, Status, decide
from aap.consent.purposes import Purpose, spec
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect

__all__ = ["ConsentDesk", "open_desk", "open_ledger"]

# Another purpose makes another layout: then everyone is projected anew.
_PROJECTED = f"consent:projected:{redis_projection.ROW.itemsize}"


class ConsentDesk:
    """Takes choices, and keeps the projection level with the ledger."""

    def __init__(self, ledger: Ledger, client: redis.Redis) -> None:
        self.ledger = ledger
        self._redis = client

    def record(
        self,
        subject: str,
        purpose: Purpose,
        status: Status,
        *,
        said_by: str,
        method: str,
        indicated_at: datetime,
        received_at: datetime,
        notice_version: str = "1",
    ) -> int:
        """Record one choice about one purpose and return the ledger position; returning is the acknowledgement.

        Raises `UnusableChoice` for a grant that would count for nothing (its notice was replaced, or the person's Global
        Privacy Control is set), and `NotYetInForce` when the ledger has it but Redis could not be written: `catch_up`
        finishes it.
        """
        entry = Entry(subject, purpose, status, indicated_at, said_by, method, notice_version)
        if status.permits:
            self._check_grant(entry)
        self.record_many([entry], received_at=received_at)
        return self.ledger.size()

    def record_many(self, entries: Sequence[Entry], *, received_at: datetime) -> list[Record]:
        """Record many choices at once, each its own record; those already known are left out."""
        made = self.ledger.append(entries, received_at=received_at)
        self._project({e.subject for e in entries}, now=received_at)
        return made

    def set_gpc(self, subject: str, *, on: bool, said_by: str, indicated_at: datetime, received_at: datetime) -> None:
        """Set or lift a person's Global Privacy Control: while it is set, nothing permits the purposes it stops.

        Raises `NotYetInForce` as `record` does.
        """
        status = Status.WITHDRAWN if on else Status.UNKNOWN
        stopped = [p for p in Purpose if spec(p).stopped_by_gpc]
        entries = [Entry(subject, p, status, indicated_at, said_by, GPC_METHOD) for p in stopped]
        self.record_many(entries, received_at=received_at)

    def publish(self, notice: Notice, *, now: datetime) -> int:
        """Publish a notice; where it is material, what was granted under older ones ends now. Returns people projected."""
        self.ledger.publish(notice)
        return self.catch_up(now=now, everyone=True)

    def catch_up(self, *, now: datetime, everyone: bool = False) -> int:
        """Project what the ledger has and Redis may not; returns the number of people written.

        Redis remembers the position it is level with, so this costs one look when there is nothing to do. Raises
        `LedgerUnavailable` where Redis obeys more records than there are: what is missing may be a withdrawal.
        """
        level = int(self._redis.get(_PROJECTED) or 0)  # type: ignore[arg-type]
        size = self.ledger.size()
        if level > size:
            raise _cut_short(size, level)
        if level == size and not everyone:
            return 0
        level = 0 if everyone else level
        behind = {r.entry.subject for r in self.ledger.records(after=level)}
        self._project(behind, now=now)
        self._redis.set(_PROJECTED, size)
        return len(behind)

    def mend(self, *, after: str, most: int, now: datetime) -> tuple[str, int]:
        """Hold the projections of the next people against the ledger, and write anew those that are missing or differ.

        Returns whom to go on after, the empty string at the end of a round, and how many were mended.
        """
        people = self.ledger.subjects(after=after, most=most)
        if not people:
            return "", 0
        seq, standing = self.ledger.size(), self.ledger.standing(subjects=people)
        held: Any = self._redis.mget([redis_projection.consent_key(p) for p in people])
        expected = [redis_projection.pack(standing[p], seq=seq) for p in people]
        wrong = {p for p, blob, told in zip(people, held, expected, strict=True) if (blob or b"")[8:] != told[8:]}
        self._project(wrong, now=now)
        return people[-1], len(wrong)

    def decision(self, subject: str, purpose: Purpose, *, now: datetime) -> Decision:
        """What the ledger itself says now, for people who check on the projection."""
        standing = self.ledger.standing(subjects=[subject]).get(subject)
        seq = self.ledger.size()
        if standing is None:
            blobs: list[bytes | None] = [None]
            return redis_projection.decisions(blobs, purpose=purpose, now=now)[0]
        found, otherwise = standing[purpose]
        return decide(found, purpose=purpose, otherwise=otherwise, now=now, ledger_seq=seq)

    def _check_grant(self, entry: Entry) -> None:
        purpose = entry.purpose
        replaced = superseded_at(self.ledger.notices(), purpose, entry.notice_version)
        if replaced is not None and replaced <= entry.indicated_at:
            raise UnusableChoice(
                f"{purpose} can't be granted under notice {entry.notice_version!r}: it was replaced on {replaced:%Y-%m-%d}; "
                "show the person the one in force and name its version."
            )
        if spec(purpose).stopped_by_gpc and self.ledger.gpc_is_set(entry.subject, at=entry.indicated_at):
            raise UnusableChoice(
                f"{purpose} can't be granted while the person's Global Privacy Control is set: they can lift it first."
            )

    def _project(self, subjects: set[str], *, now: datetime) -> None:
        if not subjects:
            return
        seq = self.ledger.size()
        standing = self.ledger.standing(subjects=subjects if len(subjects) <= 500 else None)
        try:
            newer = redis_projection.write(self._redis, {s: standing[s] for s in subjects}, seq=seq, now=now)
            held: Any = self._redis.mget([redis_projection.consent_key(s) for s in newer]) if newer else []
        except redis.RedisError as error:
            raise NotYetInForce(
                "The choice is in the ledger but not yet in force, because Redis can't be written; it is applied as soon "
                "as Redis is back (`aap status` shows it)."
            ) from error
        # Another process may have projected a later record meanwhile; but one there is not yet can't have been.
        ahead = max((redis_projection.position(blob) for blob in held), default=0)
        if ahead > (size := self.ledger.size()):
            raise _cut_short(size, ahead)


def _cut_short(size: int, obeyed: int) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"The consent ledger ends at record {size}, but Redis obeys one that goes to {obeyed}: restore the newer ledger, or, "
        "if it is lost, empty Redis and bring features online again (`aap features materialize`)."
    )


def open_ledger(settings: Settings, *, checked: bool = True) -> Ledger:
    """The ledger these settings name, signed with this home's key.

    Raises `LedgerUnavailable` where its newest record isn't vouched for by that key; unless it is not to be `checked`, as
    by whoever looks at all of its records and names the wrong one.
    """
    layout = Layout(settings.home)
    signer, tombstones = load_signer(layout), open_tombstones(layout)
    if settings.ledger_url:
        ledger = Ledger(settings.ledger_url, signer=signer, tombstones=tombstones)
    else:
        ledger = Ledger.at(layout.ledger, signer=signer, tombstones=tombstones)
    if checked:
        ledger.check()
    return ledger


def open_desk(settings: Settings) -> ConsentDesk:
    """The desk over the ledger and the Redis these settings name."""
    return ConsentDesk(open_ledger(settings), connect(settings))
