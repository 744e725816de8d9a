"""Admission: from which moment on a person's events of one type may be stored, judged against the ledger.

An event is stored only if some purpose that may touch every field of its type is granted now, by the same unbroken grant
that covers the event. So for each person and type one moment decides: the start of the earliest such grant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from aap.consent.policy import Grant, Reason
from aap.consent.purposes import Purpose
from aap.events.schema import event_type

__all__ = ["Admission", "admissions", "since_when"]


@dataclass(frozen=True, slots=True)
class Admission:
    """`since` is when storing begins; None means nothing of this person may be stored, for `reason`."""

    subject: str
    event: str
    since: datetime | None
    reason: Reason


def admissions(
    standing: Mapping[str, Mapping[Purpose, tuple[list[Grant], Reason]]], *, events: Iterable[str], now: datetime
) -> list[Admission]:
    """One admission a person and event type. People without any record are not among them: they are refused."""
    made = []
    for event in events:
        purposes = event_type(event).purposes
        for subject, by_purpose in standing.items():
            since = since_when(by_purpose, purposes, now=now)
            made.append(
                Admission(subject, event, since, _reason(by_purpose, purposes) if since is None else Reason.GRANTED)
            )
    return made


def since_when(
    by_purpose: Mapping[Purpose, tuple[list[Grant], Reason]], purposes: Iterable[Purpose], *, now: datetime
) -> datetime | None:
    """Since when what may serve any of `purposes` may be stored of a person; None if it may not."""
    return min((g.start for p in purposes for g in by_purpose[p][0] if g.start <= now < g.end), default=None)


def _reason(by_purpose: Mapping[Purpose, tuple[list[Grant], Reason]], purposes: tuple[Purpose, ...]) -> Reason:
    """The most telling of the reasons: a choice the person made, before one they were never asked for."""
    reasons = [by_purpose[p][1] for p in purposes]
    made = [r for r in reasons if r not in (Reason.NOT_GRANTED, Reason.OBJECTED)]
    return made[0] if made else Reason.NOT_GRANTED
