"""The rule, without any I/O: from records of choices to grants, from grants to decisions.

*An event may serve a purpose at time t only if one unbroken grant of that purpose covers both the event and t.*

A grant is a half-open span of time `[start, end)`. It begins when the person says yes, goes on through renewals, and
ends when they withdraw or when it expires. Where legitimate interest is the basis, a person we know (one with any record)
counts as granted from the beginning of time until they object; a person we know nothing of is denied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from aap.consent.purposes import Purpose, spec

__all__ = [
    "BEGINNING",
    "FOREVER",
    "LONGEST_GRANT",
    "Choice",
    "Decision",
    "Grant",
    "Reason",
    "Status",
    "admissible",
    "decide",
    "grants",
    "unavailable",
]

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
LONGEST_GRANT = timedelta(days=396)  # 13 months: CNIL's guidance on how long a choice may be relied on, 13 × 30.44 days


class Status(StrEnum):
    """The ten consent states of the W3C Data Privacy Vocabulary; only *given* and *renewed* permit."""

    UNKNOWN = "unknown"
    REQUESTED = "requested"
    REQUEST_DEFERRED = "request_deferred"
    REFUSED = "refused"
    GIVEN = "given"
    EXPIRED = "expired"
    INVALIDATED = "invalidated"
    REVOKED = "revoked"
    WITHDRAWN = "withdrawn"
    RENEWED = "renewed"

    @property
    def permits(self) -> bool:
        """Whether data may be used in this state."""
        return self in (Status.GIVEN, Status.RENEWED)


class Reason(StrEnum):
    """Why a decision came out as it did."""

    GRANTED = "granted"
    LEGITIMATE_INTEREST = "legitimate_interest"
    NO_RECORD = "no_record"
    NOT_GRANTED = "not_granted"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    OBJECTED = "objected"
    NO_SUBJECT = "no_subject"
    UNAVAILABLE = "consent_unavailable"
    # Only ever appended: the projection in Redis holds a reason's place in this list.
    GPC = "global_privacy_control"
    NOTICE_CHANGED = "notice_changed"


@dataclass(frozen=True, slots=True)
class Choice:
    """One person's choice about one purpose: what a ledger record says."""

    subject: str
    purpose: Purpose
    status: Status
    indicated_at: datetime
    expires_at: datetime | None = None
    signal: bool = False
    """Whether it is the Global Privacy Control being set (or, with status *unknown*, lifted) and no answer to a question."""
    superseded_at: datetime | None = None
    """When the notice it was given under was replaced by one that differs materially; from then on it says nothing."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One unbroken span `[start, end)` in which `subject` allows `purpose`; `why_ended` is the reason from `end` on."""

    subject: str
    purpose: Purpose
    start: datetime
    end: datetime
    why_ended: Reason


@dataclass(frozen=True, slots=True)
class Decision:
    """May this be done for this person now? Carries its reason and the ledger position it was made at."""

    allowed: bool
    purpose: Purpose
    reason: Reason
    ledger_seq: int


def grants(choices: Iterable[Choice], *, subject: str, purpose: Purpose) -> tuple[list[Grant], Reason]:
    """The grants of one person for one purpose, oldest first, and the reason that holds outside of them now.

    The order of `choices` does not matter; a duplicate changes nothing; at one moment a withdrawal wins over a grant, and
    of two grants the one that ends sooner. While the Global Privacy Control is set nothing said permits; lifting it brings
    nothing back.
    """
    said = tuple(choices)
    if not said and spec(purpose).needs_consent:  # what most people say of most purposes
        return [], Reason.NOT_GRANTED
    ours = [c for c in said if c.subject == subject and c.purpose is purpose]
    if len(ours) > 1:  # most people say one thing, once
        ours = sorted(
            set(ours), key=lambda c: (c.indicated_at, not c.status.permits, -_end(c).timestamp(), c.signal, c.status)
        )
    by_interest = not spec(purpose).needs_consent
    start: datetime | None = BEGINNING if by_interest else None
    end, why = FOREVER, Reason.OBJECTED if by_interest else Reason.NOT_GRANTED
    runs_out, controlled = Reason.EXPIRED, False
    done: list[Grant] = []
    for choice in ours:
        at = choice.indicated_at
        if start is not None and end <= at:
            done.append(Grant(subject, purpose, start, end, runs_out))
            start, why = None, runs_out
        if choice.signal:
            controlled = choice.status is not Status.UNKNOWN
        outdated = not by_interest and choice.superseded_at is not None and choice.superseded_at <= at
        if choice.status.permits and (controlled or outdated):
            why = why if start is not None else Reason.GPC if controlled else Reason.NOTICE_CHANGED
        elif choice.status.permits:
            start = at if start is None else start
            end = FOREVER if by_interest else _end(choice)
            runs_out = Reason.NOTICE_CHANGED if end == choice.superseded_at else Reason.EXPIRED
        else:
            why = Reason.GPC if controlled else _why(choice.status, objection=by_interest)
            if start is not None and start < at:
                done.append(Grant(subject, purpose, start, at, why))
            start = None
    if start is not None:
        done.append(Grant(subject, purpose, start, end, Reason.OBJECTED if by_interest else runs_out))
    elif done and why in (Reason.GPC, Reason.NOTICE_CHANGED):
        done[-1] = replace(done[-1], why_ended=why)  # why the yes that came later counts for nothing
    return done, why


def admissible(grant: Grant, *, event_at: datetime, now: datetime) -> bool:
    """The unbroken-grant rule: does `grant` cover both the event and `now`?"""
    return grant.start <= event_at <= now < grant.end


def decide(found: Iterable[Grant], *, purpose: Purpose, otherwise: Reason, now: datetime, ledger_seq: int) -> Decision:
    """The decision at `now`, given a person's grants for `purpose` and the reason that holds outside of them."""
    reason = otherwise
    for grant in found:
        if grant.start <= now < grant.end:
            held = Reason.GRANTED if spec(purpose).needs_consent else Reason.LEGITIMATE_INTEREST
            return Decision(True, purpose, held, ledger_seq)
        if grant.end <= now:
            reason = grant.why_ended
    return Decision(False, purpose, reason, ledger_seq)


def unavailable(purpose: Purpose) -> Decision:
    """Denied because nobody can say: the ledger or its projection can't be read."""
    return Decision(False, purpose, Reason.UNAVAILABLE, -1)


def _end(choice: Choice) -> datetime:
    """When a grant made by `choice` ends, if nobody ends it sooner."""
    latest = choice.indicated_at + LONGEST_GRANT
    return min(choice.expires_at or latest, latest, choice.superseded_at or FOREVER)


def _why(status: Status, *, objection: bool) -> Reason:
    if objection:
        return Reason.OBJECTED
    return {
        Status.REFUSED: Reason.REFUSED,
        Status.EXPIRED: Reason.EXPIRED,
        Status.WITHDRAWN: Reason.WITHDRAWN,
        Status.REVOKED: Reason.WITHDRAWN,
        Status.INVALIDATED: Reason.WITHDRAWN,
    }.get(status, Reason.NOT_GRANTED)
