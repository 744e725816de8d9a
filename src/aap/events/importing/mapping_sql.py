"""From a mapping to SQL: one SELECT that turns raw rows into typed events and names what is wrong with each.

Nothing here touches data. The statement reads a table `chunk` (its columns, and `ROW` and `USER_KEY`; and one table
`lookup_NAME` a lookup) and gives for each row: `row`, `event`, `user_key`, `name`, `occurred_at`, `available_at`, the mapped
fields under their declared names and kinds, and `problem`, a short sentence without any value, NULL when the row fits.
"""

from __future__ import annotations

from datetime import datetime

from aap.events.importing.mapping import Mapping, Value
from aap.events.schema import Field, Kind, event_type

__all__ = ["LONGEST_TEXT", "ROW", "SKEW_SECONDS", "USER_KEY", "literal", "quoted", "translation"]

ROW, USER_KEY = "aap:row", "aap:user_key"
"""Columns the importer adds to a chunk; no table has columns of these names."""

LONGEST_TEXT = 1_000
"""Characters a text field may have; the same limit as the JSON Schema states."""

SKEW_SECONDS = 300
"""How far ahead of our clock an event may claim to be before it counts as a mistake."""


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def translation(mapping: Mapping, *, now: datetime) -> str:
    """The SELECT described above. `now` bounds `occurred_at`; the connection's time zone must be the mapping's."""
    assert mapping.event is not None  # noqa: S101
    assert mapping.occurred_at is not None  # noqa: S101
    declared = event_type(mapping.event)
    fields = [(f, mapping.fields[f.name]) for f in declared.fields if f.name in mapping.fields]
    sign = _sign(mapping)
    typed = [f"{_typed(f, v, sign=sign)} AS {quoted(f.name)}" for f, v in fields]
    joins = " ".join(
        f"LEFT JOIN {quoted('lookup_' + name)} ON CAST({_of(name, lookup.key or lookup.by)} AS VARCHAR) "
        f"= CAST(chunk.{quoted(lookup.by)} AS VARCHAR)"
        for name, lookup in mapping.lookups.items()
    )
    available = f"chunk.{quoted(mapping.available_at)}" if mapping.available_at else "NULL"
    event = literal(mapping.event)
    if mapping.negative:
        event = f"CASE WHEN {sign} < 0 THEN {literal(mapping.negative.event)} ELSE {event} END"
    return (
        f"WITH typed AS (SELECT chunk.{quoted(ROW)} AS row, {event} AS event, chunk.{quoted(USER_KEY)} AS user_key, "
        f"{_name(mapping)} AS name, "
        f"{_moment(_raw(mapping.occurred_at), mapping.time_format)} AS occurred_at, "
        f"{_moment(available, mapping.time_format)} AS available_stated, {', '.join(typed)}, "
        f"{', '.join(_unreadable(f, v) for f, v in fields)} "
        f"FROM chunk {joins}) "
        f"SELECT * EXCLUDE (available_stated, {', '.join(quoted('bad_' + f.name) for f, _ in fields)}), "
        f"greatest(coalesce(available_stated, occurred_at), occurred_at) AS available_at, "
        f"{_problem([f for f, _ in fields], now=now)} AS problem FROM typed"
    )


def _of(lookup: str, column: str) -> str:
    return f"{quoted('lookup_' + lookup)}.{quoted(column)}"


def _raw(value: Value) -> str:
    if value.column is None:
        return literal(value.constant or "")
    return _of(value.lookup, value.column) if value.lookup else f"chunk.{quoted(value.column)}"


def _decimal(expression: str) -> str:
    return f"TRY_CAST({expression} AS DECIMAL(18, 4))"


def _number(value: Value) -> str:
    number = _decimal(_raw(value))
    if value.times:
        number = f"({number} * {_decimal(f'chunk.{quoted(value.times)}')})"
    for other in value.plus:
        number = f"({number} + coalesce({_decimal(f'chunk.{quoted(other)}')}, 0))"
    return number


def _sign(mapping: Mapping) -> str | None:
    return _decimal(_raw(mapping.fields[mapping.negative.field])) if mapping.negative else None


def _typed(field: Field, value: Value, *, sign: str | None) -> str:
    if field.kind is Kind.TEXT:
        return f"nullif(trim(CAST({_raw(value)} AS VARCHAR)), '')"
    number = _number(value)
    if sign is not None:
        number = f"CASE WHEN {sign} < 0 THEN abs({number}) ELSE {number} END"
    if field.kind is Kind.MONEY:
        return f"TRY(CAST(round({number} * 100) AS BIGINT))"
    return f"TRY(CAST({number} AS BIGINT))" if field.kind is Kind.INTEGER else f"TRY(CAST({number} AS DOUBLE))"


def _unreadable(field: Field, value: Value) -> str:
    """Whether there was a value that is none of the field's kind."""
    name = quoted("bad_" + field.name)
    if field.kind is Kind.TEXT:
        return f"length(CAST({_raw(value)} AS VARCHAR)) > {LONGEST_TEXT} AS {name}"
    number, raw, typed = f"TRY({_number(value)})", _raw(value), _typed(field, value, sign=None)
    there = f"({raw} IS NOT NULL AND trim(CAST({raw} AS VARCHAR)) <> '')"
    if field.kind is Kind.INTEGER:
        return f"(({typed} IS NULL OR {number} <> trunc({number})) AND {there}) AS {name}"
    return f"({typed} IS NULL AND {there}) AS {name}"


def _moment(expression: str, time_format: str | None) -> str:
    if expression == "NULL":
        return "CAST(NULL AS TIMESTAMPTZ)"
    if time_format in ("epoch", "epoch_ms"):
        seconds = f"TRY_CAST({expression} AS DOUBLE)" + (" / 1000" if time_format == "epoch_ms" else "")
        return f"TRY(to_timestamp({seconds}))"
    if time_format is not None:
        return f"CAST(try_strptime(CAST({expression} AS VARCHAR), {literal(time_format)}) AS TIMESTAMPTZ)"
    return f"TRY_CAST({expression} AS TIMESTAMPTZ)"


def _name(mapping: Mapping) -> str:
    """The row's own name without the person's; the user key is put in later, so no raw id ever becomes part of an id.

    NULL when every column that should name it is empty.
    """
    # A row's content doesn't depend on the order in which a mapping lists it.
    columns = [c for c in (mapping.id or sorted(mapping.columns)) if c != mapping.user_id]
    if not columns:
        return "''"
    parts = [f"CAST(chunk.{quoted(c)} AS VARCHAR)" for c in columns]
    if mapping.id and len(parts) == 1:
        return f"nullif(trim({parts[0]}), '')"
    joined = " || '|' || ".join(f"coalesce({part}, '')" for part in parts)
    if mapping.user_id in mapping.id or not mapping.id:
        return joined
    return f"CASE WHEN coalesce({', '.join(parts)}) IS NOT NULL THEN {joined} END"


def _problem(fields: list[Field], *, now: datetime) -> str:
    words = {Kind.TEXT: f"is longer than {LONGEST_TEXT:,} characters", Kind.INTEGER: "is not a whole number"}
    limit = f"CAST({literal(now.isoformat())} AS TIMESTAMPTZ) + INTERVAL {SKEW_SECONDS} SECOND"
    cases = [
        "WHEN occurred_at IS NULL THEN 'occurred_at is missing or not a time'",
        f"WHEN occurred_at > {limit} THEN 'occurred_at is in the future'",
        "WHEN occurred_at < TIMESTAMPTZ '1970-01-01 00:00:00+00' THEN 'occurred_at is before 1970'",
        "WHEN name IS NULL THEN 'id is missing'",
    ]
    for field in fields:
        column, bad = quoted(field.name), quoted("bad_" + field.name)
        cases.append(f"WHEN {bad} THEN '{field.name} {words.get(field.kind, 'is not a number')}'")
        if field.required:
            cases.append(f"WHEN {column} IS NULL THEN '{field.name} is missing'")
        if field.minimum is not None:
            cases.append(f"WHEN {column} < {field.minimum} THEN '{field.name} is below {field.minimum:g}'")
    return f"CASE {' '.join(cases)} END"
