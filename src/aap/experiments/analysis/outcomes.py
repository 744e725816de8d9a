"""Outcomes: what people did after they were exposed, and before, as far as they allow it to be counted.

A person is in the readout only if two grants that hold now have held without a break since before their exposure:
`functional.service.improve`, under which they were assigned, and `analytics.reporting`, under which their events are
counted. Of their events only those count that the second grant covers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from aap.consent.policy import Grant, Reason
from aap.consent.purposes import Purpose
from aap.events.archive import Archive
from aap.experiments.analysis.metrics import REPORTING, Metric
from aap.experiments.assignment.store import PURPOSE
from aap.infra.duckdb import open_duckdb

__all__ = ["Exposed", "Standing", "admitted", "outcomes"]

Standing = Mapping[str, Mapping[Purpose, tuple[Sequence[Grant], Reason]]]


@dataclass(frozen=True, slots=True)
class Exposed:
    """People in the readout, in the order of their exposure; every list has one entry a person."""

    user_keys: list[str]
    variants: np.ndarray
    """object `[n]`."""
    times: np.ndarray
    """datetime64[us] `[n]`, UTC, ascending."""
    splits: np.ndarray
    """object `[n]`: the split in force then; empty where it is not known."""
    counted_from: np.ndarray
    """datetime64[us] `[n]`: when the grant began under which events are counted."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Exposures not used, by reason."""

    def __len__(self) -> int:
        return len(self.user_keys)

    @property
    def first(self) -> datetime | None:
        """When the first of them was exposed."""
        found: datetime | None = self.times[0].astype(datetime).replace(tzinfo=UTC) if len(self) else None
        return found


def admitted(exposures: pa.Table, *, standing: Standing) -> Exposed:
    """Who of `exposures` (see `read_exposures`) may be in a readout under `standing`, the grants in force now.

    A person with two variants under one grant is left out: nobody can say which one they saw.
    """
    why: Counter[str] = Counter()
    kept: dict[str, tuple[str, datetime, str, datetime]] = {}
    twice: set[str] = set()
    for row in exposures.to_pylist():
        user_key, at = row["user_key"], row["time"]
        grants = {p: _covering(standing, user_key, p, at) for p in (PURPOSE, REPORTING)}
        refused = next((p for p, grant in grants.items() if grant is None), None)
        reporting = grants[REPORTING]
        if refused is not None or reporting is None:
            why[f"no consent for {refused} since before the exposure"] += 1
        elif user_key not in kept:
            kept[user_key] = (row["variant"], at, row["split"] or "", reporting.start)
        elif kept[user_key][0] != row["variant"]:
            twice.add(user_key)
    if twice:
        why["two variants"] = len(twice)
    people = [(key, *rest) for key, rest in kept.items() if key not in twice]
    return Exposed(
        [p[0] for p in people],
        np.array([p[1] for p in people], dtype=object),
        _moments([p[2] for p in people]),
        np.array([p[3] for p in people], dtype=object),
        _moments([p[4] for p in people]),
        dict(why),
    )


def outcomes(
    exposed: Exposed, metric: Metric, *, archive: Archive, window: timedelta, before: timedelta, as_of: datetime
) -> np.ndarray:
    """float64 `[n, 4]`: numerator and denominator of `metric` in the `window` after exposure, and `before` it.

    Only events available at `as_of`. Denominators of a metric that is a mean are 1.
    """
    rows = np.zeros((len(exposed), 4))
    if metric.denominator is None:
        rows[:, [1, 3]] = 1.0
    if not len(exposed):
        return rows
    people = pa.table(
        {
            "place": np.arange(len(exposed)),
            "user_key": pa.array(exposed.user_keys, pa.string()),
            "time": pa.array(exposed.times, pa.timestamp("us")),
            "since": pa.array(np.maximum(exposed.times - np.timedelta64(before), exposed.counted_from)),
        }
    )
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("people", people)
        found = connection.execute(
            f"SELECT p.place, e.occurred_at > p.time AT TIME ZONE 'UTC' AS after, "
            f"CAST({metric.numerator} AS DOUBLE) AS top, CAST({metric.denominator or '1'} AS DOUBLE) AS bottom "
            f"FROM {archive.sql(metric.event, on=connection)} e JOIN people p ON p.user_key = e.user_key "
            "WHERE e.occurred_at >= p.since AT TIME ZONE 'UTC' "
            "AND e.occurred_at <= p.time AT TIME ZONE 'UTC' + ?::INTERVAL AND e.available_at <= ?::TIMESTAMPTZ "
            "GROUP BY p.place, after",
            [window, as_of.isoformat()],
        ).to_arrow_table()
    place, after = found["place"].to_numpy(), found["after"].to_numpy().astype(bool)
    for column, values in ((0, found["top"]), (1, found["bottom"])):
        rows[place[after], column] = values.to_numpy()[after]
        rows[place[~after], column + 2] = values.to_numpy()[~after]
    return rows


def _covering(standing: Standing, user_key: str, purpose: Purpose, at: datetime) -> Grant | None:
    """The grant in force now, if it had begun at `at`."""
    if user_key not in standing:
        return None
    return next((g for g in standing[user_key][purpose][0] if g.start <= at), None)


def _moments(times: Sequence[datetime]) -> np.ndarray:
    return np.array([np.datetime64(t.replace(tzinfo=None), "us") for t in times], dtype="datetime64[us]")
