"""The watch on consent: whether what Redis says of it can be relied on now, and if not, why.

Answers rest on the projection in Redis, and the projection on a ledger, two secret keys and a clock. While one of these is
missing, altered or wrong nobody can say what a person's last word is; so everybody is denied, as `consent_unavailable`, and
no choice or event is taken, until a look finds everything in order again. Each look checks the ledger's newest record, its
signature and the clock, and some older records, so that all are looked at round after round; brings into force what Redis
missed; and holds the projections of some people against the ledger.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import redis

from aap.consent.errors import ConsentError, LedgerUnavailable
from aap.consent.ledger.clock_check import SKEW, require_clock
from aap.consent.ledger.verification import Round
from aap.consent.policy import Decision, unavailable
from aap.consent.service import ConsentDesk
from aap.features.declarations import Service
from aap.infra.errors import StorageError
from aap.infra.secret_files import load
from aap.serving.inference.deny_all import Denying
from aap.serving.inference.predictor import Predictor

__all__ = ["ConsentWatch"]

_SILENT_S = 30.0
"""Without a look for so long (a ledger that hangs gives up after 10 s) nothing is known any more."""
_PEOPLE = 20
"""Projections held against the ledger at each look, which with so many takes 7 ms of CPU; with one look every two seconds a
hundred thousand people take three hours."""

_RECORDS = 200
"""Records of the ledger looked at again at each look, which takes 5 ms of CPU; a hundred thousand take 17 minutes."""


class ConsentWatch:
    """What the last look found. `keys` are the files of the secret keys that must be there."""

    def __init__(self, *keys: Path) -> None:
        self._keys = keys
        self._trouble: str | None = None
        self._looked: float | None = None
        self._anchor: tuple[datetime, float] | None = None
        self._round = Round()
        self._place, self._mended, self._mended_before = "", 0, 0

    @property
    def trouble(self) -> str | None:
        """Why consent can't be relied on, as one sentence; None when it can."""
        if self._looked is not None and _ticks() - self._looked > _SILENT_S:
            return (
                self._trouble or "The consent ledger hasn't answered for half a minute: nobody can say what is allowed."
            )
        return self._trouble

    @property
    def mended(self) -> int:
        """People whose projection was missing or outdated in Redis and has been written anew, in this round or the last."""
        return self._mended + self._mended_before

    def require(self) -> None:
        """Raise `LedgerUnavailable` while consent can't be relied on."""
        if self.trouble is not None:
            raise LedgerUnavailable(self.trouble)

    def guard(self, predictor: Predictor) -> Predictor:
        """`predictor` as it may answer now: as it is, or with everybody denied."""
        return (
            predictor
            if self.trouble is None
            else replace(predictor, features=Denying(predictor.features, _nobody_knows))
        )

    def look(self, desk: ConsentDesk, *, now: datetime) -> None:
        """Check everything consent rests on, at `now`; then bring Redis level. Raises nothing for what is found wrong."""
        try:
            for key in self._keys:
                load(key)
            head = desk.ledger.check()
            if head is not None:
                self._round.go_on(desk.ledger, head=head, most=_RECORDS)
            self._check_clock(now, ledger_at=head.signed_at if head else None)
            desk.catch_up(now=now)
            self._mend(desk, now=now)
            self._trouble = None
        except (ConsentError, StorageError) as error:
            self._trouble = str(error)
        except redis.RedisError:
            pass  # without Redis nothing is answered anyhow, and health names it
        self._looked = _ticks()

    def _mend(self, desk: ConsentDesk, *, now: datetime) -> None:
        self._place, mended = desk.mend(after=self._place, most=_PEOPLE, now=now)
        self._mended += mended
        if not self._place:
            self._mended, self._mended_before = 0, self._mended

    def _check_clock(self, now: datetime, *, ledger_at: datetime | None) -> None:
        """Raise `LedgerUnavailable` for a clock that can't be right: before the ledger's last record, or jumped since.

        A grant that ran out would hold again on a clock set back; on one set forward a choice made now would outlive what is
        chosen later.
        """
        require_clock(now, ledger_at=ledger_at)
        ticks = _ticks()
        began, then = self._anchor = self._anchor or (now, ticks)
        expected = began + timedelta(seconds=ticks - then)
        if abs(now - expected) > SKEW:
            raise LedgerUnavailable(
                f"The clock says {now:%Y-%m-%d %H:%M} UTC where {expected:%Y-%m-%d %H:%M} was due: set it right, or, if it "
                "is right now, restart the service."
            )
        self._anchor = now, ticks  # a clock that is slowly steered is followed


def _nobody_knows(service: Service) -> Decision:
    return unavailable(service.answering_purposes[0])


def _ticks() -> float:
    """Seconds that nobody can set, and that go on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))  # macOS has only the second
