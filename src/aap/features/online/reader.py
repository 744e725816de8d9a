"""The online values: one packed row a person and purpose in Redis, which begins with a copy of the person's consent.

Reading fetches the rows of all people in one `MGET`, and with them the consent; only of people without a row is consent
asked by itself, to tell who has none from who said no. What was computed under another grant than the one in force is not
read, even if it were still there. Writing is `aap.features.online.writer`'s.

Time is the reader's: a row made as of a later moment than `now` (a clock that ran ahead, or one that was set back) is
read, for it is the newest there is, and lives until its own end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import redis

from aap.consent import redis_projection
from aap.consent.decision_batch import Decisions
from aap.consent.purposes import Purpose
from aap.features.datasets import Status
from aap.features.errors import OnlineStoreUnavailable
from aap.features.online.row_codec import (
    AS_OF,
    EXPIRES_AT,
    GRANT_START,
    MADE_BY,
    VALID_UNTIL,
    parts,
    sequences_of,
    timetable_of,
)
from aap.features.online.writer import OnlineRow, OnlineRows, erase, item_key, to_micros, write, write_items, write_many
from aap.features.views import View
from aap.infra.redis.connection import UNREACHABLE

__all__ = [
    "OnlineRow",
    "OnlineRows",
    "OnlineValues",
    "erase",
    "fetch",
    "item_key",
    "lists_of",
    "read",
    "read_items",
    "tell_time",
    "to_micros",
    "write",
    "write_items",
    "write_many",
]

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class OnlineValues:
    """What was read for several people: all numbers of a view, and its sequences."""

    values: np.ndarray
    """float64 `[n_users, n_numbers]`; times since a moment are in days; NaN wherever `status` is not PRESENT."""
    status: np.ndarray
    """uint8 `[n_users, n_numbers]` of `frame.Status`."""
    decisions: Decisions
    sequences: list[list[list[str]]]
    """For each of the view's sequences, one list a user."""
    as_of: np.ndarray
    """int64 `[n_users]`, microseconds: the moment up to which each row knows what was received; 0 where none
    could be read."""
    grant_start: np.ndarray
    """int64 `[n_users]`, microseconds: when the grant of the view's purpose began; 0 where there is none."""


def read(
    client: redis.Redis,
    view: View,
    user_keys: Sequence[str],
    *,
    purposes: Sequence[Purpose],
    now: datetime,
) -> OnlineValues:
    """All values of `view` for `user_keys` at `now`, where every one of `purposes` is granted; DENIED elsewhere.

    Raises `OnlineStoreUnavailable` when Redis can't be reached.
    """
    at = to_micros(now)
    moment = np.array(at)
    rows = fetch(client, redis_projection.row_keys(user_keys, view.purpose))
    consent, headers, values = parts(view, rows)
    decisions = redis_projection.judge(consent, purposes, now_micros=at)
    ours = headers[:, MADE_BY] == view.mark
    grant_start = consent[:, view.grant_word]
    ours &= headers[:, GRANT_START] == grant_start
    fresh = ours & decisions.allowed
    fresh &= moment < headers[:, EXPIRES_AT]
    everybody = bool(fresh.all())
    if not everybody and not ours.all():
        known, sound = _ask_consent(client, user_keys, consent, of=np.flatnonzero(~ours))
        decisions = redis_projection.judge(consent, purposes, now_micros=at, known=known, sound=sound)
    stale = fresh & (headers[:, VALID_UNTIL] <= moment)
    if stale.any():
        _catch_up(client, view, user_keys, headers, values, stale=stale, now=at, fresh=fresh)
        everybody = bool(fresh.all())
    tell_time(view, values, now=at)
    status = np.isnan(values).view(np.uint8)
    if not everybody:
        without = np.flatnonzero(~fresh)
        why = np.where(ours[without], Status.EXPIRED, Status.NOT_FOUND)
        why[~decisions.allowed[without]] = Status.DENIED
        status[without], values[without] = why[:, None], np.nan
    lists, as_of = lists_of(view, rows, fresh), np.where(fresh, headers[:, AS_OF], 0)
    return OnlineValues(values, status, decisions, lists, as_of, grant_start)


def read_items(
    client: redis.Redis, view: View, item_ids: Sequence[str], *, now: datetime
) -> tuple[np.ndarray, np.ndarray]:
    """Values float64 `[n_items, n_numbers]` and status of `item_ids`; items have no consent of their own."""
    blobs = fetch(client, [item_key(i, view.purpose) for i in item_ids])
    _, headers, values = parts(view, blobs)
    at = to_micros(now)
    found = headers[:, MADE_BY] == view.mark
    fresh = found & (at < headers[:, EXPIRES_AT]) & (at < headers[:, VALID_UNTIL])
    tell_time(view, values, now=at)
    status = np.where(np.isnan(values), Status.NULL, Status.PRESENT).astype(np.uint8)
    status[~fresh] = Status.EXPIRED
    status[~found] = Status.NOT_FOUND
    values[status != Status.PRESENT] = np.nan
    return values, status


def fetch(client: redis.Redis, keys: list[str]) -> list[bytes | None]:
    """The values of `keys`, in order, in one look; raises `OnlineStoreUnavailable`."""
    try:
        return client.mget(keys) if keys else []  # type: ignore[return-value]
    except UNREACHABLE as error:
        raise OnlineStoreUnavailable(
            f"Redis can't be reached ({error}); nothing can be answered until it is."
        ) from error


def _ask_consent(
    client: redis.Redis, user_keys: Sequence[str], consent: np.ndarray, *, of: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put the projections of the people at places `of`, who have no row of ours, where their row's copy would be.

    Returns who of all people has a projection, and whose is sound: bool `[n]` each.
    """
    blobs = fetch(client, redis_projection.consent_keys([user_keys[i] for i in of.tolist()]))
    told, fits = redis_projection.unpack(blobs)
    consent[of] = told.view("<i8").reshape(len(blobs), redis_projection.WORDS)
    known, sound = np.ones(len(user_keys), dtype=bool), np.ones(len(user_keys), dtype=bool)
    known[of], sound[of] = [b is not None for b in blobs], fits
    return known, sound


def lists_of(view: View, blobs: Sequence[bytes | None], fresh: np.ndarray) -> list[list[list[str]]]:
    """For each of the view's sequences one list a row; empty where the row isn't to be read."""
    if not view.sequences:
        return []
    lists = [sequences_of(view, b) if ok and b else None for ok, b in zip(fresh.tolist(), blobs, strict=True)]
    return [[row[i] if row else [] for row in lists] for i in range(len(view.sequences))]


def _catch_up(
    client: redis.Redis,
    view: View,
    user_keys: Sequence[str],
    headers: np.ndarray,
    values: np.ndarray,
    *,
    stale: np.ndarray,
    now: int,
    fresh: np.ndarray,
) -> None:
    """Where a value has changed by itself since the row was written, take it from the timetable.

    Row and timetable are fetched together, for another writer may have replaced both since the row was read.
    """
    people = np.flatnonzero(stale)
    keys = [k for i in people.tolist() for k in redis_projection.feature_keys(user_keys[i], view.purpose)]
    blobs = fetch(client, keys)
    _, again, now_held = parts(view, blobs[::2])
    same = (again[:, MADE_BY] == view.mark) & (again[:, GRANT_START] == headers[people, GRANT_START])
    same &= now < again[:, EXPIRES_AT]
    values[people], headers[people, AS_OF] = now_held, again[:, AS_OF]
    for i, person in enumerate(people.tolist()):
        entries = None
        if same[i]:
            entries = timetable_of(
                view, blobs[2 * i + 1], as_of=int(again[i, AS_OF]), grant_start=int(again[i, GRANT_START])
            )
        if entries is None:
            fresh[person] = bool(same[i]) and now < int(again[i, VALID_UNTIL])
            continue
        due = entries[: int(np.searchsorted(entries["moment"], now, side="right"))]
        values[person, due["place"]] = due["value"]


def tell_time(view: View, values: np.ndarray, *, now: int) -> None:
    """Turn moments into days since them, in place; a moment still ahead, the clock having been set back, is now."""
    if view.since_places:
        values[:, view.since_places] = np.maximum(now - values[:, view.since_places], 0) / _DAY_US
