"""Who may be learned from: the grants that hold at the moment of use, and since when, and why a row may not be used."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from aap.consent.policy import Grant, Reason
from aap.consent.purposes import Purpose
from aap.features.offline.build import Standing
from aap.features.online.reader import to_micros

__all__ = ["BEFORE_GRANT", "current_grants", "refusals", "starts_of"]

BEFORE_GRANT = "before_grant"


def _grant(standing: Standing, subject: str, purpose: Purpose, *, as_of: datetime) -> Grant | None:
    if subject not in standing:
        return None
    return next((g for g in standing[subject][purpose][0] if g.start <= as_of < g.end), None)


def current_grants(standing: Standing, purposes: Sequence[Purpose], *, as_of: datetime) -> dict[str, datetime]:
    """Everyone with all `purposes` granted at `as_of`, and the moment from which all have held without a break."""
    found: dict[str, datetime] = {}
    for subject in standing:
        held = [_grant(standing, subject, p, as_of=as_of) for p in purposes]
        if all(g is not None for g in held):
            found[subject] = max(g.start for g in held if g is not None)
    return found


def starts_of(people: Sequence[str], standing: Standing, purpose: Purpose, *, as_of: datetime) -> np.ndarray:
    """For each person, when the grant in force began (microseconds; -2 where there is none)."""
    held = (_grant(standing, key, purpose, as_of=as_of) for key in people)
    return np.array([-2 if grant is None else to_micros(grant.start) for grant in held], dtype=np.int64)


def refusals(
    people: Sequence[str],
    codes: np.ndarray,
    moments: np.ndarray,
    standing: Standing,
    purposes: Sequence[Purpose],
    *,
    as_of: datetime,
) -> np.ndarray:
    """For each row, of `people[codes]`, why it may not be used, or the empty string."""
    why = np.full(len(codes), "", dtype=object)
    for purpose in purposes:
        starts = starts_of(people, standing, purpose, as_of=as_of)[codes]
        why[(why == "") & (starts >= 0) & (moments < starts)] = BEFORE_GRANT
        for row in np.flatnonzero((why == "") & (starts < 0)):
            known = standing.get(people[codes[row]])
            why[row] = (known[purpose][1] if known else Reason.NO_RECORD).value
    return why
