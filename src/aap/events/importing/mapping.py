"""Mapping files: YAML that says which column of somebody's table is what. Importing history is this file, not code.

A mapping turns each row of a table either into an event of one declared type, or into an item of the catalogue. It also
says on what consent the history rests: a table of people's choices, a grant stated for the whole import, or the ledger
as it stands. A mapping without that is refused.
"""

from __future__ import annotations

import importlib.util
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.events.errors import EventError, MappingError
from aap.events.item_catalog import CATALOGUE_FIELDS
from aap.events.schema import EventType, event_type

__all__ = ["ConsentTable", "Lookup", "Mapping", "StatedGrant", "Value", "load_mapping", "resolve"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(_Strict):
    """Where a value comes from: a constant, or a column, optionally of a lookup table, optionally times or plus others."""

    column: str | None = None
    constant: str | None = Field(default=None, description="The same for every row.")
    lookup: str | None = Field(default=None, description="Name of the lookup table the column is in.")
    times: str | None = Field(default=None, description="Column to multiply with, e.g. unit price × quantity.")
    plus: tuple[str, ...] = Field(default=(), description="Columns to add.")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.column is None) == (self.constant is None):
            raise ValueError("name either a `column` or a `constant`")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the main table it reads."""
        own = (self.column,) if self.column and not self.lookup else ()
        return (*own, *((self.times,) if self.times else ()), *self.plus)


def _as_value(raw: Any) -> Any:
    return {"column": raw} if isinstance(raw, str) else raw


ValueSpec = Annotated[Value, BeforeValidator(_as_value)]


class Lookup(_Strict):
    """A second table joined by one column, e.g. the product list."""

    path: str
    by: str = Field(description="Column of the main table.")
    key: str | None = Field(default=None, description="Column of the lookup table; the same name by default.")
    table: str | None = Field(default=None, description="Table to read when `path` is a database.")


class Negative(_Strict):
    """Rows in which `field` is below zero are another event, with the sign taken off all numbers."""

    field: str
    event: str


class ConsentTable(_Strict):
    """People's own choices, one row a choice. `path` is left out when the table itself is what is imported."""

    path: str | None = None
    table: str | None = None
    user_id: str
    purpose: str
    status: str
    indicated_at: str
    time_format: str | None = None
    time_zone: str = "UTC"
    statuses: dict[str, Status] = Field(default_factory=dict, description="Words of the table → consent status.")
    notice_version: str = "1"
    method: str = "consent table"

    @property
    def columns(self) -> tuple[str, str, str, str]:
        """The columns it reads: user, purpose, status, moment."""
        return self.user_id, self.purpose, self.status, self.indicated_at


class StatedGrant(_Strict):
    """A grant stated for everyone in the import; the ledger records exactly this."""

    by: str = Field(min_length=3, description="Who states it.")
    basis: str = Field(min_length=3, description="On which ground, e.g. the form people signed.")
    purposes: tuple[Purpose, ...] = Field(min_length=1)
    indicated_at: datetime
    notice_version: str = "1"


class Consent(_Strict):
    """What the import rests on: exactly one of these."""

    table: ConsentTable | None = None
    grant: StatedGrant | None = None
    ledger: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if sum(x is not None for x in (self.table, self.grant, self.ledger)) != 1:
            raise ValueError("name exactly one of `table`, `grant` or `ledger: true`")
        if self.table is not None and self.table.path is None:
            raise ValueError("say the `path` of the consent table")
        return self


class Mapping(_Strict):
    """One mapping file: rows are events of one type (`event`), items of the catalogue (`items`), or `choices`."""

    source: str = Field(min_length=1, description="Who says so; (source, id) recognises duplicates.")
    event: str | None = None
    items: bool = False
    choices: ConsentTable | None = None
    fields: dict[str, ValueSpec] = Field(default_factory=dict)
    user_id: str | None = None
    occurred_at: ValueSpec | None = None
    time_format: str | None = Field(default=None, description="strptime format; ISO 8601 by default.")
    time_zone: str = Field(default="UTC", description="Zone of times that name none.")
    available_at: str | None = None
    id: tuple[str, ...] = Field(default=(), description="Columns that together name a row; its content by default.")
    table: str | None = Field(default=None, description="Table to read when the source is a database.")
    lookups: dict[str, Lookup] = Field(default_factory=dict)
    negative: Negative | None = None
    consent: Consent | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name, value in self.fields.items():
            if value.lookup is not None and value.lookup not in self.lookups:
                raise ValueError(f"field {name!r} uses lookup {value.lookup!r}, which is not under `lookups`")
        if self.occurred_at is not None and self.occurred_at.lookup not in (None, *self.lookups):
            raise ValueError(f"`occurred_at` uses lookup {self.occurred_at.lookup!r}, which is not under `lookups`")
        if sum((self.event is not None, self.items, self.choices is not None)) != 1:
            raise ValueError("say what a row is: an `event`, `items: true` for the catalogue, or `choices`")
        if self.choices is not None:
            return self
        return self._whole_items() if self.items else self._whole_event()

    def _whole_items(self) -> Self:
        plain = {
            name for name, value in self.fields.items() if value.lookup is None and value.columns == (value.column,)
        }
        if odd := sorted(set(self.fields) - plain):
            raise ValueError(f"{odd[0]!r}: a field of an item is a column of the table itself")
        unknown = set(self.fields) - set(CATALOGUE_FIELDS)
        if unknown or "item_id" not in self.fields:
            raise ValueError(
                f"an item has `item_id` and any of {', '.join(CATALOGUE_FIELDS[1:])}, not {sorted(unknown)}"
            )
        return self

    def _whole_event(self) -> Self:
        assert self.event is not None  # noqa: S101
        if self.user_id is None or self.occurred_at is None:
            raise ValueError("say which columns are `user_id` and `occurred_at`")
        if self.consent is None:
            raise ValueError(
                "say what `consent` this history rests on: a `table` of choices, a stated `grant`, or `ledger: true`"
            )
        for name, value in self.fields.items():
            if self.user_id in value.columns:
                raise ValueError(
                    f"field {name!r} reads {self.user_id!r}, the user column; a raw user id is stored nowhere"
                )
        for name in (self.event, *((self.negative.event,) if self.negative else ())):
            self._fits(event_type(name))
        if self.negative and self.negative.field not in self.fields:
            raise ValueError(f"`negative.field` {self.negative.field!r} is not one of the mapped fields")
        return self

    def _fits(self, declared: EventType) -> None:
        names = {f.name for f in declared.fields}
        if unknown := sorted(set(self.fields) - names):
            raise ValueError(f"{declared.name} has no field {unknown[0]!r}; it has {', '.join(sorted(names))}")
        if missing := [f.name for f in declared.fields if f.required and f.name not in self.fields]:
            raise ValueError(f"{declared.name} needs the field {missing[0]!r}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the main table the mapping reads, each once; no other column is looked at."""
        if self.choices is not None:
            return self.choices.columns
        named = [c for value in self.fields.values() for c in value.columns]
        named += [lookup.by for lookup in self.lookups.values()]
        named += list(self.occurred_at.columns) if self.occurred_at else []
        named += [c for c in (self.user_id, self.available_at, *self.id) if c]
        return tuple(dict.fromkeys(named))


def load_mapping(path: Path) -> Mapping:
    """The mapping in the YAML file at `path`; raises `MappingError` with one sentence."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MappingError(f"The mapping file {path} can't be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MappingError(f"The mapping file {path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(raw, dict):
        raise MappingError(f"The mapping file {path} must be a YAML mapping, not {type(raw).__name__}.")
    try:
        return Mapping.model_validate(raw)
    except ValidationError as error:
        raise MappingError(f"The mapping file {path} can't be used: {_sentence(error)}.") from None
    except EventError as error:
        raise MappingError(f"The mapping file {path} can't be used: {error}") from None


def resolve(location: str, *, beside: Path | None = None) -> str:
    """A path as files know it: `package:NAME/...` inside an installed package, else relative to `beside`."""
    if location.startswith("package:"):
        package, _, rest = location.removeprefix("package:").partition("/")
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise MappingError(f"The package {package!r} of {location!r} is not installed.")
        return str(Path(found.origin).parent / rest)
    if "://" in location or beside is None:
        return location
    return str((beside / location) if not Path(location).is_absolute() else Path(location))


def _sentence(error: ValidationError) -> str:
    parts = []
    for e in error.errors():
        where = ".".join(str(part) for part in e["loc"])
        parts.append(f"{where}: {e['msg']}" if where else e["msg"].removeprefix("Value error, "))
    return "; ".join(parts).rstrip(".")
