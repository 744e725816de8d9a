"""What differs between the SQL of the batch engines, and nothing else: everything not named here is written once.

Both dialects divide two integers with `/` into a double, cast with `::`, and know `FILTER`, `any_value`, `GROUP BY ALL`
and named windows. A float literal carries an exponent, because without one it is a decimal to both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

__all__ = ["DUCKDB", "SPARK", "Dialect", "double"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one engine writes the few things the engines write differently. Each function returns SQL."""

    name: str
    quotient: Callable[[str, int], str]
    """Whole quotient of an integer expression and a positive integer."""
    text: Callable[[str], str]
    """A string literal."""
    instant: Callable[[datetime], str]
    """A literal moment with a time zone."""
    micros: Callable[[str], str]
    """Microseconds since 1970 of a moment."""
    weekday: Callable[[str], str]
    """Day of the week of a moment, UTC: 0 is Monday."""
    together: Callable[[str, str], str]
    """A query whose rows with the same value in a column lie together, so that some are found without reading all."""
    by_entity: str
    """A hint after SELECT: keep an entity's rows together, since all that follows works within one `k`."""


def double(value: float) -> str:
    """A double literal."""
    shown = repr(float(value))
    return shown if "e" in shown else f"{shown}e0"


def _escaped(value: str) -> str:
    """Spark takes `''` for two literals set side by side and joins them, so a quote is escaped by a backslash."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


DUCKDB = Dialect(
    name="duckdb",
    quotient=lambda a, b: f"({a} // {b})",
    text=lambda value: "'" + value.replace("'", "''") + "'",
    instant=lambda moment: f"'{moment.isoformat()}'::TIMESTAMPTZ",
    micros=lambda column: f"epoch_us({column})",
    weekday=lambda column: f"isodow({column}) - 1",
    together=lambda query, column: f"{query} ORDER BY {column}",
    by_entity="",
)
SPARK = Dialect(
    name="spark",
    quotient=lambda a, b: f"({a} div {b})",
    text=_escaped,
    instant=lambda moment: f"TIMESTAMP '{moment.isoformat()}'",
    micros=lambda column: f"unix_micros({column})",
    weekday=lambda column: f"weekday({column})",
    together=lambda query, column: f"SELECT * FROM ({query}) SORT BY {column}",  # within each partition
    by_entity="/*+ REPARTITION(k) */",
)
