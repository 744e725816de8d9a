"""Change points: a view's values at every moment they change, computed by a batch engine in one pass of set operations.

An event counts from the moment it is available until its window's tail has passed it. So each event adds its share at one
moment and takes it away at another, and the running total of these deltas is the value at any time. Totals are integers
(counts, minor units, millionths), so taking away is exact. Distinct counts do the same with the merged spans in which a
value is in the window; minima and maxima look at the spans that cover a moment. Moments only ever move on, so that they are
running maxima.

The rows go beyond the moment of building: what the values will become if nothing more happens is part of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from aap.events.schema import Kind, event_type
from aap.features.declarations import DAY_US, Aggregate, Entity, Op, Ratio
from aap.features.engines.base import Batch
from aap.features.engines.dialects import Dialect, double
from aap.features.views import View

__all__ = ["build_change_points", "event_table"]

_ADDITIVE = (Op.COUNT, Op.SUM, Op.MEAN)
_EXTREME = {Op.MIN: "min", Op.MAX: "max"}
_MILLIONTHS = 1_000_000
_NESTED = 10
"""Queries within one another: the time DuckDB takes to plan them doubles with each beyond a dozen."""


def event_table(event: str) -> str:
    """The table with the admissible events of one type: `k` (entity), `o` and `a` (occurred, available; microseconds),
    `hour`, `weekday`, and the declared fields.
    """
    return f"admissible_{event}"


def build_change_points(batch: Batch, view: View, *, into: str) -> None:
    """Make table `into`: `k`, `moment` (microseconds), `grant_start` where the entity is a person, then one column a number.

    Reads the tables `event_table(...)` and, for people, `spans` (`k`, `start`: the current grant). Columns of features that
    tell time since a moment hold that moment in microseconds; all others are DOUBLE.
    """
    aggregates = [f for f in view.numbers if isinstance(f, Aggregate)]
    sources = [*_additive(batch, aggregates), *_distinct(batch, aggregates), *_extreme_moments(batch, aggregates)]
    sources += [*_newest(batch, aggregates), *_days(batch, aggregates)]
    if view.entity is Entity.USER:
        sources.append("SELECT k, start AS moment FROM spans")
    columns = [c for f in aggregates for c in _delta_columns(f)]
    moments = sorted({_moment_column(f) for f in aggregates if f.is_since or f.op is Op.LAST})
    summed = "".join(
        [f", coalesce(sum({c}), 0)::BIGINT AS {c}" for c in columns] + [f", {_fold(m)}({m}) AS {m}" for m in moments]
    )
    running = "".join(
        [f", sum({c}) OVER w AS {c}" for c in columns] + [f", {_fold(m)}({m}) OVER w AS {m}" for m in moments]
    )
    batch.make(
        "totals",
        f"SELECT k, moment{running} FROM "
        f"(SELECT k, moment{summed} FROM ({batch.stacked(sources)}) GROUP BY k, moment) "
        "WINDOW w AS (PARTITION BY k ORDER BY moment ROWS UNBOUNDED PRECEDING)",
    )
    joins = f"{_extremes(batch, aggregates)} {_newest_joins(aggregates)}"
    values = "".join(f", {_value(f, view)} AS {f.name}" for f in view.numbers)
    start = ", spans.start AS grant_start" if view.entity is Entity.USER else ""
    spans = "JOIN spans ON spans.k = totals.k AND totals.moment >= spans.start" if view.entity is Entity.USER else ""
    batch.make(
        into,
        f"SELECT totals.k, totals.moment{start}{values} FROM totals {spans} {joins}",
    )


@dataclass(frozen=True, slots=True)
class _Span:
    """From when to when an event counts for a feature, as SQL over `o` and `a`."""

    begins: str
    ends: str | None


def _span(feature: Aggregate, dialect: Dialect) -> _Span:
    hop = feature.hop_us
    begins = f"({dialect.quotient(f'(a + {hop - 1})', hop)} * {hop})" if feature.entity is Entity.ITEM else "a"
    if feature.window_us is None:
        return _Span(begins, None)
    return _Span(
        begins, f"greatest({dialect.quotient(f'(o + {hop - 1})', hop)} * {hop} + {feature.window_us}, {begins})"
    )


def _column(feature: Aggregate) -> str:
    """The feature's column as an integer."""
    if feature.column in ("hour", "weekday"):
        return feature.column
    declared = event_type(feature.event).field(feature.column or "")
    if declared is not None and declared.kind is Kind.NUMBER:
        return f"CAST(round({feature.column} * {_MILLIONTHS}) AS BIGINT)"
    return str(feature.column)


def _scale(feature: Aggregate) -> float:
    declared = event_type(feature.event).field(feature.column or "")
    if feature.is_money:
        return 100.0
    return float(_MILLIONTHS) if declared is not None and declared.kind is Kind.NUMBER else 1.0


def _condition(feature: Aggregate, dialect: Dialect) -> str:
    if feature.where is None:
        return "true"
    value = feature.where.value
    shown = str(value) if isinstance(value, int) else dialect.text(value)
    return f"{feature.where.column} {feature.where.comparison} {shown}"


def _delta_columns(feature: Aggregate) -> list[str]:
    if feature.op is Op.MEAN:
        return [feature.name, f"{feature.name}__n"]
    return [feature.name] if feature.op in (Op.COUNT, Op.SUM, Op.DISTINCT) else []


def _moment_column(feature: Aggregate) -> str:
    place = {Op.SINCE_LAST: "last", Op.SINCE_FIRST: "first", Op.SINCE_NTH_DAY: "day", Op.LAST: "newest"}[feature.op]
    return f"{place}__{feature.name}"


def _fold(moment: str) -> str:
    return "min" if moment.startswith("first__") else "max"


def _additive(batch: Batch, aggregates: list[Aggregate]) -> list[str]:
    """For each event type, deltas of counts and sums, and the moments of first and last."""
    dialect = batch.dialect
    selects: list[str] = []
    for event in sorted({f.event for f in aggregates}):
        ours = [f for f in aggregates if f.event == event and f.op in (*_ADDITIVE, Op.SINCE_LAST, Op.SINCE_FIRST)]
        if not ours:
            continue
        parts = [p for f in ours for p in _moment_parts(f, dialect)]
        table = f"moments_{event}"
        batch.make(table, f"SELECT k, o, a, {', '.join(parts)} FROM {event_table(event)} GROUP BY k, o, a")
        counted = [f for f in ours if f.op in _ADDITIVE]
        for begins in sorted({_span(f, dialect).begins for f in ours}):
            adds = [c for f in counted if _span(f, dialect).begins == begins for c in _delta_columns(f)]
            adds += [_moment_column(f) for f in ours if f.op not in _ADDITIVE and _span(f, dialect).begins == begins]
            selects.append(f"SELECT k, {begins} AS moment, {', '.join(adds)} FROM {table}")
        for ends in sorted({s.ends for f in counted if (s := _span(f, dialect)).ends is not None}):
            takes = [f"-{c} AS {c}" for f in counted if _span(f, dialect).ends == ends for c in _delta_columns(f)]
            selects.append(f"SELECT k, {ends} AS moment, {', '.join(takes)} FROM {table}")
    return selects


def _moment_parts(feature: Aggregate, dialect: Dialect) -> list[str]:
    """The columns of one moment that a feature needs, aggregated over the events of that moment."""
    where = f"FILTER (WHERE {_condition(feature, dialect)})"
    if feature.op in (Op.SINCE_LAST, Op.SINCE_FIRST):
        return [f"any_value(o) {where} AS {_moment_column(feature)}"]
    if feature.op is Op.COUNT:
        return [f"count(*) {where} AS {feature.name}"]
    parts = [f"coalesce(sum({_column(feature)}) {where}, 0)::BIGINT AS {feature.name}"]
    if feature.op is Op.MEAN:
        parts.append(f"count({_column(feature)}) {where} AS {feature.name}__n")
    return parts


def _distinct(batch: Batch, aggregates: list[Aggregate]) -> list[str]:
    """For each distinct count, +1 where a value enters the window and -1 where its last occurrence leaves it."""
    dialect = batch.dialect
    selects: list[str] = []
    for feature in (f for f in aggregates if f.op is Op.DISTINCT):
        span, table = _span(feature, dialect), f"spans_{feature.name}"
        source = f"{event_table(feature.event)} WHERE {feature.column} IS NOT NULL AND {_condition(feature, dialect)}"
        if span.ends is None:
            selects.append(
                f"SELECT k, min({span.begins}) AS moment, 1 AS {feature.name} FROM {source} GROUP BY k, {feature.column}"
            )
            continue
        batch.make(
            table,
            "WITH spans AS ("
            f"SELECT k, {feature.column} AS v, {span.begins} AS b, max({span.ends}) AS e FROM {source} GROUP BY ALL), "
            "marked AS (SELECT *, b > max(e) OVER (PARTITION BY k, v ORDER BY b ROWS BETWEEN UNBOUNDED PRECEDING AND "
            "1 PRECEDING) AS apart FROM spans), "
            "runs AS (SELECT *, sum(coalesce(apart, true)::INT) OVER (PARTITION BY k, v ORDER BY b ROWS UNBOUNDED PRECEDING) "
            "AS run FROM marked) SELECT k, min(b) AS b, max(e) AS e FROM runs GROUP BY k, v, run",
        )
        selects.append(f"SELECT k, b AS moment, count(*) AS {feature.name} FROM {table} GROUP BY k, b")
        selects.append(f"SELECT k, e AS moment, -count(*) AS {feature.name} FROM {table} GROUP BY k, e")
    return selects


def _extreme_moments(batch: Batch, aggregates: list[Aggregate]) -> list[str]:
    """The moments at which spans of minima and maxima begin and end: there a value may change, though nothing is added."""
    dialect = batch.dialect
    spans = {(f.event, _span(f, dialect)) for f in aggregates if f.op in _EXTREME}
    edges = {(event, edge) for event, span in spans for edge in (span.begins, span.ends) if edge is not None}
    return [f"SELECT k, {edge} AS moment FROM {event_table(event)}" for event, edge in sorted(edges)]


def _extremes(batch: Batch, aggregates: list[Aggregate]) -> str:
    """Join minima and maxima to `totals`.

    Time falls into stretches of one hop, cut where windows can end. Within a stretch nothing leaves, so a running fold
    will do; what comes from earlier stretches is folded once a stretch. So the work grows with the events, however many a
    window holds.
    """
    joins: list[str] = []
    for feature in (f for f in aggregates if f.op in _EXTREME):
        table = f"extreme_{feature.name}"
        _make_extreme(batch, feature, into=table)
        joins.append(f"LEFT JOIN {table} ON {table}.k = totals.k AND {table}.moment = totals.moment")
    return " ".join(joins)


def _make_extreme(batch: Batch, feature: Aggregate, *, into: str) -> None:
    """Make table `into`: `k`, `moment` and the smallest or largest `v` in the window then, for each row of `totals`."""
    dialect, fold = batch.dialect, _EXTREME[feature.op]
    span = _span(feature, dialect)
    ends = "NULL::BIGINT" if span.ends is None else span.ends
    batch.make(
        "spanned",
        f"SELECT k, b, e, {fold}(v) AS v FROM (SELECT k, {span.begins} AS b, {ends} AS e, {_column(feature)} AS v "
        f"FROM {event_table(feature.event)} WHERE {feature.column} IS NOT NULL AND {_condition(feature, dialect)}) "
        "WHERE e IS NULL OR e > b GROUP BY k, b, e",
    )
    begun = f"(SELECT k, b, {fold}(v) AS v FROM spanned GROUP BY k, b) s"
    if feature.window_us is None:
        running = f"{fold}(s.v) OVER (PARTITION BY t.k ORDER BY t.moment ROWS UNBOUNDED PRECEDING)"
        batch.make(
            into,
            f"SELECT t.k, t.moment, {running} AS v FROM totals t LEFT JOIN {begun} ON s.k = t.k AND s.b = t.moment",
        )
        return
    window, hop = feature.window_us, feature.hop_us
    stretch = {c: dialect.quotient(f"({c} - {window % hop})", hop) for c in ("b", "e", "t.moment")}
    batch.make(
        "carried",
        f"WITH c AS (SELECT k, {stretch['b']} AS first, {stretch['e']} AS gone, {fold}(v) AS v FROM spanned GROUP BY ALL), "
        f"m AS (SELECT DISTINCT k, {stretch['t.moment']} AS stretch FROM totals t) "
        f"SELECT m.k, m.stretch, {fold}(c.v) AS v FROM m JOIN c ON c.k = m.k AND c.first < m.stretch "
        "AND m.stretch < c.gone GROUP BY m.k, m.stretch",
    )
    both = {"min": "least", "max": "greatest"}[fold]
    batch.make(
        into,
        f"WITH r AS (SELECT k, moment, stretch, {fold}(v) OVER (PARTITION BY k, stretch ORDER BY moment "
        f"ROWS UNBOUNDED PRECEDING) AS v FROM (SELECT t.k, t.moment, {stretch['t.moment']} AS stretch, s.v FROM totals t "
        f"LEFT JOIN {begun} ON s.k = t.k AND s.b = t.moment)) "
        f"SELECT r.k, r.moment, {both}(r.v, c.v) AS v FROM r LEFT JOIN carried c ON c.k = r.k AND c.stretch = r.stretch",
    )


def _newest(batch: Batch, aggregates: list[Aggregate]) -> list[str]:
    """For each last value, the rank of an event where it becomes available, newest highest; and where it leaves."""
    dialect = batch.dialect
    selects: list[str] = []
    for feature in (f for f in aggregates if f.op is Op.LAST):
        span, table = _span(feature, dialect), f"newest_{feature.name}"
        ends = "NULL::BIGINT" if span.ends is None else span.ends
        batch.make(
            table,
            f"SELECT k, {span.begins} AS b, {ends} AS e, {_column(feature)} AS v, "
            "(row_number() OVER (PARTITION BY k ORDER BY o, source DESC, id DESC))::BIGINT AS r "
            f"FROM {event_table(feature.event)} WHERE {feature.column} IS NOT NULL AND {_condition(feature, dialect)}",
        )
        selects.append(f"SELECT k, b AS moment, r AS {_moment_column(feature)} FROM {table}")
        if span.ends is not None:
            selects.append(f"SELECT k, e AS moment FROM {table}")
    return selects


def _days(batch: Batch, aggregates: list[Aggregate]) -> list[str]:
    """The beginnings of the last days with an event, at each moment at which such a day is first known of.

    The last of the days known by then is a running maximum. The second last is one as well: of what each day, when it
    becomes known, leaves over, itself or the last before it, whichever is earlier; and so on.
    """
    dialect = batch.dialect
    alike: dict[tuple[str, str, str], dict[int, Aggregate]] = {}
    for f in (f for f in aggregates if f.op is Op.SINCE_NTH_DAY):
        alike.setdefault((f.event, _condition(f, dialect), _span(f, dialect).begins), {})[f.n] = f
    selects: list[str] = []
    for (event, condition, begins), by_n in alike.items():
        day = f"{dialect.quotient('o', DAY_US)} * {DAY_US}"
        found = (
            f"SELECT k, day, min(b) AS b, day AS left_over FROM (SELECT k, {day} AS day, {begins} AS b "
            f"FROM {event_table(event)} WHERE {condition}) days GROUP BY k, day"
        )
        table, kept, last = f"days_{min(f.name for f in by_n.values())}", "", max(by_n)
        for n in range(1, last + 1):
            found = (
                f"SELECT k, day, b{kept}, max(left_over) OVER until AS day_{n}, CASE WHEN left_over < max(left_over) OVER "
                f"earlier THEN left_over ELSE max(left_over) OVER earlier END AS left_over FROM ({found}) d "
                "WINDOW until AS (PARTITION BY k ORDER BY b, day ROWS UNBOUNDED PRECEDING), "
                "earlier AS (PARTITION BY k ORDER BY b, day ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
            )
            kept += f", day_{n}" if n in by_n else ""
            if n % _NESTED == 0 and n < last:
                batch.make(f"{table}_until_{n}", found)
                found = f"SELECT * FROM {table}_until_{n}"
        batch.make(table, found)
        columns = ", ".join(f"day_{n} AS {_moment_column(f)}" for n, f in sorted(by_n.items()))
        selects.append(f"SELECT k, b AS moment, {columns} FROM {table}")
    return selects


def _newest_joins(aggregates: list[Aggregate]) -> str:
    """Join last values to `totals`. Who is newest of those available leaves a window after all others."""
    return " ".join(
        f"LEFT JOIN newest_{f.name} ON newest_{f.name}.k = totals.k AND newest_{f.name}.r = totals.{_moment_column(f)} "
        f"AND (newest_{f.name}.e IS NULL OR totals.moment < newest_{f.name}.e)"
        for f in aggregates
        if f.op is Op.LAST
    )


def _value(feature: Aggregate | Ratio, view: View) -> str:
    if isinstance(feature, Ratio):
        parts = {f.name: f for f in view.features}
        top, bottom = (_value(parts[n], view) for n in (feature.numerator, feature.denominator))
        return f"coalesce(({top}) / nullif({bottom}, 0), {_default(feature.default)})"
    if feature.is_since:
        return f"totals.{_moment_column(feature)}"
    scale = _scale(feature)
    if feature.op in _EXTREME:
        return f"coalesce(extreme_{feature.name}.v / {double(scale)}, {_default(feature.default)})::DOUBLE"
    if feature.op is Op.LAST:
        return f"coalesce(newest_{feature.name}.v / {double(scale)}, {_default(feature.default)})::DOUBLE"
    if feature.op is Op.MEAN:
        total = f"totals.{feature.name} / nullif(totals.{feature.name}__n, 0)::DOUBLE / {double(scale)}"
        return f"coalesce({total}, {_default(feature.default)})::DOUBLE"
    return f"(totals.{feature.name} / {double(scale)})::DOUBLE"


def _default(default: float | None) -> str:
    return "NULL" if default is None else double(default)
