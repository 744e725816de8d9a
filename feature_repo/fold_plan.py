"""What a view's fold keeps and how it is read: compiled once from the declarations, shared by everyone's state.

Features that look at the same events share what is kept of them. There are four kinds: a *tally* (count, sum, smallest and
largest of one column, by hop, and over everything where a window is `ever`), *values* (each distinct value with the last
hop it was seen in), *moments* (the first and the last), and *lists* (the newest n).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from consent.purposes import Purpose
from events.log import LoggedEvent
from events.schema import Kind, event_type
from feature_repo.declare import DAY_US, Aggregate, Entity, Op, Ratio, Where
from feature_repo.views import View, view_for

__all__ = ["Column", "Kept", "Plan", "plan_for", "plan_of"]

Column = Callable[[LoggedEvent], str | int | None]
"""What a feature takes from an event, as the archive's SQL would: whole numbers or text, None where it doesn't count."""

_HOUR_US = DAY_US // 24
_MILLIONTHS = 1_000_000
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing kept: of which events, at which hop (microseconds), for which windows (microseconds, ascending)."""

    event: str
    column: Column
    hop: int
    windows: tuple[int, ...]
    ever: bool
    """Whether some feature looks back over everything."""


Steps = tuple[tuple[int, Kept], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to fold one view. `reads[i]` says where the i-th number comes from."""

    view: View
    fingerprint: int
    time_to_live_us: int
    tallies: tuple[Kept, ...]
    values: tuple[Kept, ...]
    moments: tuple[Kept, ...]
    lists: tuple[Kept, ...]
    lengths: tuple[int, ...]
    """How many each list holds."""
    places: dict[str, tuple[Op, int, int | None]]
    """Of each aggregate: its operation, the place of what it reads among those of its kind, its window."""
    hops: dict[str, int]
    """Of each aggregate, microseconds."""
    scales: dict[str, float]
    defaults: dict[str, float]
    ratios: tuple[tuple[str, str, str], ...]
    names: tuple[str, ...]
    events: frozenset[str]
    steps: dict[str, tuple[Steps, Steps, Steps, Steps]]
    """Of each event type: the tallies, values, moments and lists that look at it, with their places."""


_Same = tuple[str, Where | None, str | None, int]


@cache
def plan_for(purpose: Purpose) -> Plan:
    """The plan of the declared view of people for `purpose`."""
    return plan_of(view_for(Entity.USER, purpose))


def plan_of(view: View) -> Plan:
    """Compile the plan of a view of people."""
    aggregates = [f for f in view.features if isinstance(f, Aggregate)]
    kinds: dict[str, dict[_Same, list[Aggregate]]] = {"tallies": {}, "values": {}, "moments": {}, "lists": {}}
    for f in aggregates:
        kinds[_kind(f)].setdefault(_same(f), []).append(f)
    numbering = {kind: {same: i for i, same in enumerate(found)} for kind, found in kinds.items()}
    kept = {kind: tuple(_kept(same, of) for same, of in found.items()) for kind, found in kinds.items()}
    ratios = tuple((f.name, f.numerator, f.denominator) for f in view.features if isinstance(f, Ratio))
    return Plan(
        view=view,
        fingerprint=view.fingerprint,
        time_to_live_us=view.time_to_live_us,
        tallies=kept["tallies"],
        values=kept["values"],
        moments=kept["moments"],
        lists=kept["lists"],
        lengths=tuple(max(f.n or 1 for f in of) for of in kinds["lists"].values()),
        places={f.name: (f.op, numbering[_kind(f)][_same(f)], f.window_us) for f in aggregates},
        hops={f.name: f.hop_us for f in aggregates},
        scales={f.name: _scale(f) for f in aggregates},
        defaults={f.name: math.nan if f.default is None else float(f.default) for f in view.features},
        ratios=ratios,
        names=tuple(f.name for f in view.numbers),
        events=frozenset(f.event for f in aggregates),
        steps={event: _steps(event, kept) for event in {f.event for f in aggregates}},
    )


def _steps(event: str, kept: dict[str, tuple[Kept, ...]]) -> tuple[Steps, Steps, Steps, Steps]:
    tallies, values, moments, lists = (
        tuple((i, k) for i, k in enumerate(kept[kind]) if k.event == event)
        for kind in ("tallies", "values", "moments", "lists")
    )
    return tallies, values, moments, lists


def _kind(feature: Aggregate) -> str:
    if feature.op in (Op.SINCE_LAST, Op.SINCE_FIRST):
        return "moments"
    return {Op.DISTINCT: "values", Op.LAST_N: "lists", Op.LAST: "lists"}.get(feature.op, "tallies")


def _same(feature: Aggregate) -> _Same:
    """Features with equal keys share what is kept."""
    hop = feature.hop_us if _kind(feature) in ("tallies", "values") else 0
    return feature.event, feature.where, feature.column, hop


def _kept(same: _Same, features: Iterable[Aggregate]) -> Kept:
    event, where, column, hop = same
    windows = {f.window_us for f in features}
    finite = tuple(sorted(w for w in windows if w is not None))
    return Kept(event, _column(event, where, column), hop, finite, None in windows)


def _column(event: str, where: Where | None, column: str | None) -> Column:
    taken = _whole(event, column) if column is not None else (lambda _: 0)
    if where is None:
        return taken
    held, compare, value = _raw(where.column), _COMPARE[where.comparison], where.value

    def only_where(e: LoggedEvent) -> str | int | None:
        found = held(e)
        return taken(e) if found is not None and compare(found, value) else None

    return only_where


def _whole(event: str, column: str) -> Column:
    """A column's value; a `number` as whole millionths, rounded half away from zero as DuckDB does."""
    declared, raw = event_type(event).field(column), _raw(column)
    if declared is None or declared.kind is not Kind.NUMBER:
        return raw  # type: ignore[return-value]

    def millionths(e: LoggedEvent) -> int | None:
        value = raw(e)
        scaled = None if value is None else float(value) * _MILLIONTHS
        return None if scaled is None else int(math.copysign(math.floor(abs(scaled) + 0.5), scaled))

    return millionths


def _raw(column: str) -> Callable[[LoggedEvent], str | int | float | None]:
    if column == "hour":
        return lambda e: e.occurred_at // _HOUR_US % 24
    if column == "weekday":
        return lambda e: (e.occurred_at // DAY_US + 3) % 7  # 1970 began on a Thursday
    return lambda e: e.fields.get(column)


def _scale(feature: Aggregate) -> float:
    declared = event_type(feature.event).field(feature.column or "")
    if feature.is_money:
        return 100.0
    return float(_MILLIONTHS) if declared is not None and declared.kind is Kind.NUMBER else 1.0
