"""Consistency: what was served against the same values recomputed offline, feature by feature.

A value is recomputed as of the moment it was served, from what its row could know: the events received by the row's
`as_of`. So a difference is a fault, never mere age, and none is the only acceptable number. Age is told beside it: how
old that knowledge was, and which share of values would have been another had they known everything received by the
moment of serving. The measures are those of Chronon's online/offline consistency: mismatches, missing values, and the
symmetric mean absolute percentage error.

History that is imported after the serving, and said to have been available before it, counts as a mismatch, and
rightly: a training row of that moment now differs from what was served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aap.events.archive import Archive
from aap.features.datasets import Status
from aap.features.declarations import DAY_US, Entity, Service
from aap.features.errors import NothingToVerify
from aap.features.quality.recompute import Questions, recompute
from aap.features.quality.tolerance import differ
from aap.features.views import View, reading, services, view_for
from aap.infra.timestamps import from_micros

__all__ = ["Consistency", "FeatureConsistency", "Staleness", "check"]

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class FeatureConsistency:
    """One feature of one service. Shares are of 1."""

    service: str
    feature: str
    served: int
    """Values handed out, missing ones too."""
    compared: int
    """Values there were, or nulls by definition."""
    mismatches: int
    missing: int
    """Values not found or expired."""
    outdated: int
    """Values compared that everything received by the moment of serving would have made another."""
    relative_error: float
    """Mean of |a − b| / ((|a| + |b|) / 2) over the numbers compared: 0 is equal, 2 the worst."""

    @property
    def mismatch_share(self) -> float:
        """Of the values compared."""
        return self.mismatches / self.compared if self.compared else 0.0

    @property
    def missing_share(self) -> float:
        """Of the values served."""
        return self.missing / self.served if self.served else 0.0

    @property
    def outdated_share(self) -> float:
        """Of the values compared."""
        return self.outdated / self.compared if self.compared else 0.0


@dataclass(frozen=True, slots=True)
class Staleness:
    """How old, in days at the moment of serving, the knowledge behind a service's vectors was."""

    service: str
    vectors: int
    median: float
    longest: float


@dataclass(frozen=True, slots=True)
class Consistency:
    """What a check found."""

    features: tuple[FeatureConsistency, ...]
    staleness: tuple[Staleness, ...]
    other_declarations: int
    """Vectors left out because what was declared has changed since."""
    examples: tuple[str, ...]
    """The first mismatches, one sentence each, without naming the person."""

    @property
    def checked(self) -> int:
        """Values compared."""
        return sum(f.compared for f in self.features)

    @property
    def mismatches(self) -> int:
        """Values that differ."""
        return sum(f.mismatches for f in self.features)

    @property
    def missing(self) -> int:
        """Values that were not there to be served."""
        return sum(f.missing for f in self.features)


def check(served: pa.Table, archive: Archive, *, most: int) -> Consistency:
    """Recompute the rows of `served` (`served.SCHEMA`; only such as may be used now), at most `most` a service.

    Raises `NothingToVerify` when there are none.
    """
    if served.num_rows == 0:
        raise NothingToVerify(
            "No served vector is kept that may be used: none was served, or AAP_SERVED_SAMPLE_RATE is too low."
        )
    found = Consistency((), (), served.num_rows, ())
    for name, service in services().items():
        rows = _same_declarations(served.filter(pc.equal(served["service"], name)), service)
        if rows.num_rows:
            one = _check_one(service, _evenly(rows, most), archive)
            found = Consistency(
                found.features + one.features,
                found.staleness + one.staleness,
                found.other_declarations - rows.num_rows,
                (found.examples + one.examples)[:_SHOWN],
            )
    return found


def _same_declarations(rows: pa.Table, service: Service) -> pa.Table:
    made_by = pc.equal(rows["fingerprint"], view_for(Entity.USER, service.purpose).fingerprint)
    names = [f == list(service.features) for f in rows["features"].to_pylist()]
    return rows.filter(pc.and_(made_by, pa.array(names, pa.bool_())))


def _evenly(rows: pa.Table, most: int) -> pa.Table:
    """At most `most` of `rows`, evenly over their time."""
    chosen = np.unique(np.linspace(0, rows.num_rows - 1, min(most, rows.num_rows)).astype(np.int64))
    return rows.take(pa.array(chosen))


def _check_one(service: Service, rows: pa.Table, archive: Archive) -> Consistency:
    there = rows.filter(pc.greater(rows["as_of"].cast(pa.int64()), 0))
    missing = rows.num_rows - there.num_rows
    time, as_of = (there[c].cast(pa.int64()).to_numpy() for c in ("time", "as_of"))
    columns = list(_compared(service, there, archive, time=time, as_of=as_of))
    features = tuple(
        FeatureConsistency(
            service.name, c.feature, rows.num_rows, there.num_rows, int(c.wrong.sum()), missing,
            int(c.outdated.sum()), float(c.error.mean()) if len(c.error) else 0.0,
        )
        for c in columns
    )  # fmt: skip
    told = (
        f"{service.name}.{c.feature} served at {from_micros(int(time[i])):%Y-%m-%d %H:%M:%S} UTC was {c.shown(i)}."
        for c in columns
        for i in np.flatnonzero(c.wrong).tolist()
    )
    days = np.maximum(time - as_of, 0) / DAY_US
    ages = [Staleness(service.name, len(days), float(np.median(days)), float(days.max()))] if len(days) else []
    return Consistency(features, tuple(ages), 0, tuple(islice(told, _SHOWN)))


@dataclass(frozen=True, slots=True)
class _Column:
    """One feature's values as served and as recomputed, and how they compare; arrays and lists of one length."""

    feature: str
    online: Sequence[object]
    offline: Sequence[object]
    wrong: np.ndarray
    outdated: np.ndarray
    error: np.ndarray

    def shown(self, i: int) -> str:
        return f"{_text(self.online[i])} and is {_text(self.offline[i])} recomputed"


def _compared(
    service: Service, rows: pa.Table, archive: Archive, *, time: np.ndarray, as_of: np.ndarray
) -> Iterator[_Column]:
    """Each feature of `rows`, all of which hold values: as served, from what was known, from what could have been."""
    view = view_for(Entity.USER, service.purpose)
    keys, start = rows["user_key"].to_pylist(), rows["grant_start"].cast(pa.int64()).to_numpy()
    online = np.array(rows["values"].to_pylist(), dtype=np.float64).reshape(rows.num_rows, len(service.features))
    n, known = len(keys), np.concatenate((as_of, np.maximum(time, as_of)))
    values, lists = recompute(view, archive, Questions(keys * 2, np.tile(start, 2), known, np.tile(time, 2)))
    values = _as_read(service, view, values, rows["request"].to_pylist() * 2)
    yield from _numbers(service, view, online, values[:n], values[n:])
    yield from _lists(service, view, rows["sequences"].to_pylist(), lists[:n], lists[n:])


def _as_read(
    service: Service, view: View, values: np.ndarray, requests: Sequence[Sequence[tuple[str, float]]]
) -> np.ndarray:
    """Of a view's numbers those of the service, what is computed on request among them: `[n, n_features]`."""
    how = reading(service, view.names)
    given = {name: [dict(r)[name] for r in requests] for f in how.computed for name in f.request}
    stored = values[:, [view.names.index(name) for name in how.stored]]
    status = np.where(np.isnan(stored), Status.NULL, Status.PRESENT)
    return how.assemble(stored, status, how.request(given, rows=len(values), where="the sample"))[0]


def _numbers(
    service: Service, view: View, online: np.ndarray, offline: np.ndarray, full: np.ndarray
) -> Iterator[_Column]:
    for i, name in enumerate(service.features):
        of = [next((f for f in view.numbers if f.name == name), None)]
        ours, then, now = online[:, i], offline[:, i], full[:, i]
        wrong, outdated = (differ(of, a[:, None], b[:, None])[:, 0] for a, b in ((ours, then), (then, now)))
        size = (np.abs(ours) + np.abs(then)) / 2
        error = np.divide(np.abs(ours - then), size, out=np.zeros_like(size), where=size > 0)
        yield _Column(name, ours.tolist(), then.tolist(), wrong, outdated, np.nan_to_num(error))


def _lists(
    service: Service,
    view: View,
    online: Sequence[Sequence[list[str]]],
    offline: Sequence[Sequence[list[str]]],
    full: Sequence[Sequence[list[str]]],
) -> Iterator[_Column]:
    for i, name in enumerate(service.sequences):
        place = [f.name for f in view.sequences].index(name)
        ours, then, now = ([row[at] for row in rows] for rows, at in ((online, i), (offline, place), (full, place)))
        wrong, outdated = _unequal(ours, then), _unequal(then, now)
        yield _Column(name, ours, then, wrong, outdated, 2.0 * wrong)


def _unequal(one: Sequence[list[str]], other: Sequence[list[str]]) -> np.ndarray:
    return np.array([a != b for a, b in zip(one, other, strict=True)], dtype=bool)


def _text(value: object) -> str:
    return f"{len(value)} values" if isinstance(value, list) else f"{value:.12g}"
