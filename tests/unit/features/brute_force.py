"""The declared meaning of a feature, evaluated event by event in plain Python: slow, obvious, and written without the SQL.

It follows the docstring of `aap.features.declarations`: t − window < occurred_at ≤ t with the tail rounded down to a whole
hop, available_at ≤ t, and only events since the grant in force began. All times are microseconds since 1970.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from aap.events.schema import Kind, event_type
from aap.features.declarations import Aggregate, Entity, Feature, Op, Ratio

_COMPARE: dict[str, Callable[[object, object], bool]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_DAY = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Happened:
    """One event: who, when, since when it is known, and its fields (money in minor units)."""

    person: str
    occurred: int
    available: int
    type: str = "product_purchased"
    fields: dict[str, object] = field(default_factory=dict)
    id: str = ""

    def column(self, name: str) -> object:
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.occurred)
        implied = {"hour": when.hour, "weekday": when.weekday(), "user_key": self.person}
        return implied.get(name, self.fields.get(name))


def value_at(
    feature: Feature, t: int, *, events: Sequence[Happened], grant_start: int, features: Sequence[Feature]
) -> float | None:
    """The value at `t` from one entity's `events`; times since a moment in days."""
    if isinstance(feature, Ratio):
        parts = {f.name: f for f in features}
        top, bottom = (
            value_at(parts[n], t, events=events, grant_start=grant_start, features=features)
            for n in (feature.numerator, feature.denominator)
        )
        return feature.default if top is None or not bottom else top / bottom
    counted = [e for e in events if _counts(feature, e, t, grant_start)]
    if feature.op is Op.COUNT:
        return float(len(counted))
    if feature.op is Op.SINCE_LAST:
        return (t - max(e.occurred for e in counted)) / _DAY if counted else feature.default
    if feature.op is Op.SINCE_FIRST:
        return (t - min(e.occurred for e in counted)) / _DAY if counted else feature.default
    if feature.op is Op.SINCE_NTH_DAY:
        days = sorted({e.occurred // _DAY for e in counted}, reverse=True)
        return (t - days[feature.n - 1] * _DAY) / _DAY if len(days) >= feature.n else feature.default
    if feature.op is Op.LAST:
        counted = sorted((e for e in counted if e.column(feature.column or "") is not None), key=lambda e: e.id)
        counted = sorted(counted, key=lambda e: e.occurred, reverse=True)[:1]
    values = [v for e in counted if (v := e.column(feature.column or "")) is not None]
    if feature.op is Op.DISTINCT:
        return float(len(set(values)))
    return _number(feature, [int(str(v)) for v in values])


def _number(feature: Aggregate, values: list[int]) -> float | None:
    declared = event_type(feature.event).field(feature.column or "")
    scale = 100 if declared is not None and declared.kind is Kind.MONEY else 1
    if feature.op is Op.SUM:
        return float(Fraction(sum(values), scale))
    if not values:
        return feature.default
    found = {
        Op.LAST: Fraction(values[0]),
        Op.MEAN: Fraction(sum(values), len(values)),
        Op.MIN: Fraction(min(values)),
        Op.MAX: Fraction(max(values)),
    }
    return float(found[feature.op] / scale)


def _counts(feature: Aggregate, event: Happened, t: int, grant_start: int) -> bool:
    hop = feature.hop_us
    if feature.entity is Entity.ITEM:
        t = t // hop * hop
    if event.type != feature.event or event.occurred < grant_start:
        return False
    if event.occurred > t or event.available > t:
        return False
    if feature.window_us is not None and not (t - feature.window_us) // hop * hop < event.occurred:
        return False
    where = feature.where
    if where is None:
        return True
    held = event.column(where.column)
    return held is not None and _COMPARE[where.comparison](held, where.value)
