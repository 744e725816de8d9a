"""What an event carries, checked against its declaration: the stored form of its properties."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from aap.events.errors import InvalidEvent
from aap.events.importing.mapping_sql import LONGEST_TEXT
from aap.events.schema import EventType, Field, Kind

__all__ = ["stored_fields"]

_LARGEST = 2**53
"""Whole numbers beyond this don't survive JSON in every language; nobody buys that many."""


def stored_fields(declared: EventType, properties: Mapping[str, Any]) -> dict[str, str | int | float | None]:
    """The fields of one event as the archive keeps them: money in minor units, missing ones None.

    Raises `InvalidEvent` with a sentence that names the field and never repeats the value.
    """
    known = {f.name for f in declared.fields}
    if unknown := sorted(set(properties) - known):
        raise InvalidEvent(f"{declared.name} has no field {unknown[0][:60]!r}")
    return {f.name: _stored(f, properties.get(f.name)) for f in declared.fields}


def _stored(field: Field, value: Any) -> str | int | float | None:
    if value is None or value == "":
        if field.required:
            raise InvalidEvent(f"{field.name} is missing")
        return None
    if field.kind is Kind.TEXT:
        return _text(field, value)
    number = _number(field, value)
    if field.minimum is not None and number < Decimal(str(field.minimum)):
        raise InvalidEvent(f"{field.name} is below {field.minimum:g}")
    if field.kind is Kind.MONEY:
        return int((number * 100).to_integral_value())
    if field.kind is Kind.INTEGER:
        if number != number.to_integral_value():
            raise InvalidEvent(f"{field.name} is not a whole number")
        return int(number)
    return float(number)


def _text(field: Field, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidEvent(f"{field.name} is not text")
    text = str(value).strip()
    if len(text) > LONGEST_TEXT:
        raise InvalidEvent(f"{field.name} is longer than {LONGEST_TEXT:,} characters")
    return text


def _number(field: Field, value: Any) -> Decimal:
    try:
        number = Decimal(str(value)) if not isinstance(value, bool) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or abs(number) > _LARGEST:
        raise InvalidEvent(f"{field.name} is not a number")
    return number
