"""The clock a choice is dated by: not before what the ledger has on record already."""

from __future__ import annotations

from datetime import datetime, timedelta

from aap.consent.errors import LedgerUnavailable

__all__ = ["SKEW", "require_clock"]

SKEW = timedelta(minutes=1)
"""How far two right clocks may differ."""


def require_clock(now: datetime, *, ledger_at: datetime | None) -> None:
    """Raise `LedgerUnavailable` where `now` lies before `ledger_at`, the moment of the ledger's newest tree head.

    On such a clock a grant that ran out would hold again, and a choice made now would count as older than one before it.
    """
    if ledger_at is not None and now < ledger_at - SKEW:
        raise LedgerUnavailable(
            f"The clock says {now:%Y-%m-%d %H:%M} UTC, but the consent ledger's last record is of "
            f"{ledger_at:%Y-%m-%d %H:%M}: set the clock right."
        )
