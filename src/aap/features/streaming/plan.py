"""What live features keep of each event, and where a view's numbers are read from it: compiled once from the declarations.

Of each event type there are *sums* (whole numbers that add up: a column's value, whether it counts, whether it is the
last of its value), *codes* (what tells distinct values apart) and *texts* (what last-n lists hold). Features that look at
the same thing share it, whatever their windows and purposes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from aap.consent.purposes import Purpose
from aap.events.schema import Kind, event_type
from aap.events.streaming.columns import EventColumns
from aap.features.declarations import DAY_US, Aggregate, Entity, Op, Ratio, Where
from aap.features.views import View, all_views

__all__ = ["LivePlan", "Read", "TypeLayout", "layouts", "live_plans", "plan_view"]

_HOUR_US = DAY_US // 24
_MILLIONTHS = 1_000_000
_NULL = np.iinfo(np.int64).min
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

Signal = tuple[str, str | None, Where | None]
"""What a sum is of: `value`, `counts` or `last` of a column, under a condition."""


@dataclass(slots=True)
class TypeLayout:
    """What is kept of events of one type."""

    event: str
    sums: list[Signal] = field(default_factory=list)
    codes: list[Signal] = field(default_factory=list)
    """Of each `last` among the sums, in their order."""
    texts: list[str] = field(default_factory=list)
    named: bool = False
    """Whether source and id are kept, which say who comes first of two events of one moment."""

    @property
    def columns(self) -> list[str]:
        """The fields of the event that are looked at."""
        named = [c for _, column, where in self.sums for c in (column, where.column if where else None)]
        return sorted({c for c in (*named, *self.texts) if c and c not in ("hour", "weekday")})

    @property
    def text_columns(self) -> int:
        """How many columns of text are kept."""
        return 2 + len(self.texts) if self.named else 0

    def place(self, what: str, column: str | None, where: Where | None) -> int:
        """Where a sum is, made room for when it is new."""
        signal = (what, column, where)
        if signal not in self.sums:
            self.sums.append(signal)
            if what == "last":
                self.codes.append(signal)
        return self.sums.index(signal)

    def text_place(self, column: str) -> int:
        """Where a text is, made room for when it is new."""
        self.named = True
        if column not in self.texts:
            self.texts.append(column)
        return self.texts.index(column)

    def extract(self, arrived: EventColumns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums int64 `[n, sums]`, codes int64 `[n, codes]` and texts `[n, 2 + texts]` (source and id first), if any.

        A `last` is 1 wherever there is a value: which is the last is for whoever has the others to say.
        """
        n, whole = len(arrived), {}
        sums, codes = np.zeros((n, len(self.sums)), np.int64), np.zeros((n, len(self.codes)), np.int64)
        for place, (what, column, where) in enumerate(self.sums):
            if column not in whole:
                whole[column] = _whole(self.event, column, arrived)
            counts = whole[column] != _NULL
            if where is not None:
                counts &= _holds(where, arrived)
            if what == "value":
                sums[:, place] = np.where(counts, whole[column], 0)
            else:
                sums[:, place] = counts
            if what == "last":
                codes[:, self.codes.index((what, column, where))] = np.where(counts, whole[column], _NULL)
        texts = np.empty((n, self.text_columns), object)
        for i, values in enumerate((arrived.sources, arrived.ids, *(arrived.column(c) for c in self.texts))):
            if self.named:
                texts[:, i] = values
        return sums, codes, texts


@dataclass(frozen=True, slots=True)
class Read:
    """Where one number of a view comes from. `window` is 0 for ever; places are those of sums, -1 for every event."""

    number: int
    op: Op
    event: str
    window: int
    hop: int
    value: int
    counts: int
    scale: float
    default: float
    n: int = 0


@dataclass(frozen=True, slots=True)
class LivePlan:
    """How one view of people is computed."""

    view: View
    reads: tuple[Read, ...]
    ratios: tuple[tuple[int, int, int, float], ...]
    """Number, its two parts, and its default."""
    lists: tuple[tuple[str, int, int], ...]
    """Event type, text and length of each sequence."""
    events: tuple[str, ...]


def plan_view(view: View, into: dict[str, TypeLayout]) -> LivePlan:
    """Compile a view of people, and lay out what it needs."""
    places = {f.name: i for i, f in enumerate(view.numbers)}
    reads: list[Read] = []
    lists: list[tuple[str, int, int]] = []
    ratios: list[tuple[int, int, int, float]] = []
    for f in view.features:
        if isinstance(f, Ratio):
            ratios.append((places[f.name], places[f.numerator], places[f.denominator], _default(f.default)))
            continue
        layout = into.setdefault(f.event, TypeLayout(f.event))
        if f.op is Op.LAST_N:
            lists.append((f.event, layout.text_place(str(f.column)), f.n))
            continue
        value = counts = -1
        if f.op is Op.LAST:
            layout.named = True
        if f.op in (Op.SUM, Op.MEAN, Op.MIN, Op.MAX, Op.LAST):
            value = layout.place("value", f.column, f.where)
        elif f.op is Op.DISTINCT:
            value = layout.place("last", f.column, f.where)
        if f.op in (Op.MEAN, Op.MIN, Op.MAX, Op.LAST) or (f.where is not None and f.op not in (Op.DISTINCT, Op.SUM)):
            counts = layout.place("counts", f.column, f.where)
        read = Read(
            places[f.name],
            f.op,
            f.event,
            f.window_us or 0,
            f.hop_us,
            value,
            counts,
            _scale(f),
            _default(f.default),
            f.n,
        )
        reads.append(read)
    events = sorted({r.event for r in reads} | {event for event, *_ in lists})
    return LivePlan(view, tuple(reads), tuple(ratios), tuple(lists), tuple(events))


@cache
def _compiled() -> tuple[dict[Purpose, LivePlan], dict[str, TypeLayout]]:
    laid_out: dict[str, TypeLayout] = {}
    plans = {v.purpose: plan_view(v, laid_out) for v in all_views() if v.entity is Entity.USER}
    return plans, laid_out


def live_plans() -> dict[Purpose, LivePlan]:
    """The plans of every declared view of people."""
    return _compiled()[0]


def layouts() -> dict[str, TypeLayout]:
    """What the declared views of people need of each event type."""
    return _compiled()[1]


def _whole(event: str, column: str | None, arrived: EventColumns) -> np.ndarray:
    """A column as whole numbers, `_NULL` where there is none: a `number` in millionths, rounded half away from zero as
    DuckDB does; text by its hash (64 bits, so two of a person's thousand values are one with a chance of 1 in 10^13).
    """
    if column is None:
        return np.zeros(len(arrived), np.int64)
    if column in ("hour", "weekday"):
        return _clock(column, arrived.occurred)
    values, declared = arrived.column(column), event_type(event).field(column)
    if declared is not None and declared.kind is Kind.NUMBER:
        scaled = np.array([math.nan if v is None else v for v in values], np.float64) * _MILLIONTHS
        known = ~np.isnan(scaled)
        rounded = np.copysign(np.floor(np.abs(np.where(known, scaled, 0.0)) + 0.5), scaled)
        return np.where(known, np.where(known, rounded, 0.0).astype(np.int64), _NULL)
    text = declared is not None and declared.kind is Kind.TEXT
    if None not in values:
        return np.array(list(map(hash, values)) if text else values, np.int64)
    return np.array([_NULL if v is None else hash(v) if text else v for v in values], np.int64)


def _holds(where: Where, arrived: EventColumns) -> np.ndarray:
    compare, value = _COMPARE[where.comparison], where.value
    if where.column in ("hour", "weekday"):
        return np.asarray(compare(_clock(where.column, arrived.occurred), value))
    found = arrived.column(where.column)
    return np.array([v is not None and bool(compare(v, value)) for v in found], dtype=bool)


def _clock(column: str, occurred: np.ndarray) -> np.ndarray:
    # 1970 began on a Thursday
    return occurred // _HOUR_US % 24 if column == "hour" else (occurred // DAY_US + 3) % 7


def _scale(feature: Aggregate) -> float:
    declared = event_type(feature.event).field(feature.column or "")
    if feature.is_money:
        return 100.0
    return float(_MILLIONTHS) if declared is not None and declared.kind is Kind.NUMBER else 1.0


def _default(default: float | None) -> float:
    return math.nan if default is None else float(default)
