"""Event types: what can happen, declared once. Whatever is not declared here has no field to be stored in.

Each field has a data category (which purposes may touch it) and a kind. Money is kept in integer minor units (cents), so
that sums are exact. Adding an event type is one `EventType` in `EVENT_TYPES`; the archive's columns, the mapping's
checks, the JSON Schema and the consent check all follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from aap.consent.prohibited_topics import Topic, forbidden_topic
from aap.consent.purposes import DataCategory, Purpose, spec
from aap.events.errors import UnknownEventType, UnusableEventType

__all__ = ["ENVELOPE", "EVENT_TYPES", "EventType", "Field", "Kind", "Sensitivity", "event_type", "json_schema"]


class Kind(StrEnum):
    """What a field's value is."""

    TEXT = "text"
    INTEGER = "integer"
    MONEY = "money"
    NUMBER = "number"


class Sensitivity(StrEnum):
    """How much harm a leak of the field would do."""

    LOW = "low"
    PERSONAL = "personal"
    SENSITIVE = "sensitive"


_ARROW = {Kind.TEXT: pa.string(), Kind.INTEGER: pa.int64(), Kind.MONEY: pa.int64(), Kind.NUMBER: pa.float64()}
_JSON: dict[Kind, dict[str, Any]] = {
    Kind.TEXT: {"type": "string", "maxLength": 1_000},
    Kind.INTEGER: {"type": "integer"},
    Kind.MONEY: {"type": "number", "description": "in the currency's main unit; kept in minor units"},
    Kind.NUMBER: {"type": "number"},
}

ENVELOPE = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("user_key", pa.string(), nullable=False),
        pa.field("occurred_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("available_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""The columns every archived event has. (`source`, `id`) is unique."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event type."""

    name: str
    kind: Kind
    category: DataCategory
    required: bool = False
    minimum: float | None = None
    sensitivity: Sensitivity = Sensitivity.PERSONAL

    @property
    def arrow(self) -> pa.Field:
        """Its column in the archive."""
        return pa.field(self.name, _ARROW[self.kind])


@dataclass(frozen=True, slots=True)
class EventType:
    """One kind of thing that can happen."""

    name: str
    description: str
    fields: tuple[Field, ...]
    version: int = 1

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        taken = set(ENVELOPE.names) & set(names)
        if taken or len(set(names)) < len(names):
            raise UnusableEventType(f"Event type {self.name!r} has a field named twice or like the envelope: {names}.")
        for f in self.fields:
            told = f.category is DataCategory.DEMOGRAPHIC  # by the person themselves, and called what it is
            if found := forbidden_topic(f.name, topics=[t for t in Topic if not (told and t is Topic.DEMOGRAPHIC)]):
                raise UnusableEventType(
                    f"Event type {self.name!r} can't have the field {f.name!r}: {found[1]!r} is about {found[0]}."
                )

    @property
    def categories(self) -> frozenset[DataCategory]:
        """The data categories its fields fall into."""
        return frozenset(f.category for f in self.fields)

    @property
    def purposes(self) -> tuple[Purpose, ...]:
        """The purposes that may touch every field of it; without one of them granted, no such event is stored."""
        return tuple(p for p in Purpose if self.categories and self.categories <= spec(p).categories)

    @property
    def arrow(self) -> pa.Schema:
        """Its columns in the archive."""
        return pa.schema([*ENVELOPE, *(f.arrow for f in self.fields)])

    def field(self, name: str) -> Field | None:
        """The field called `name`, if there is one."""
        return next((f for f in self.fields if f.name == name), None)


_PURCHASE_LINE = (
    Field("basket_id", Kind.TEXT, DataCategory.PURCHASE, required=True),
    Field("item_id", Kind.TEXT, DataCategory.PURCHASE, required=True),
    Field("quantity", Kind.INTEGER, DataCategory.PURCHASE, required=True, minimum=0),
    Field("amount", Kind.MONEY, DataCategory.PURCHASE, required=True, minimum=0),
    Field("discount", Kind.MONEY, DataCategory.PURCHASE),
    Field("coupon_discount", Kind.MONEY, DataCategory.PURCHASE),
    Field("department", Kind.TEXT, DataCategory.PURCHASE),
    Field("category", Kind.TEXT, DataCategory.PURCHASE),
    Field("store_id", Kind.TEXT, DataCategory.PURCHASE),
)

EVENT_TYPES: dict[str, EventType] = {
    t.name: t
    for t in (
        EventType(
            "page_viewed",
            "A page or screen was shown.",
            (
                Field("page", Kind.TEXT, DataCategory.BEHAVIOUR, required=True),
                Field("session_id", Kind.TEXT, DataCategory.BEHAVIOUR),
            ),
        ),
        EventType(
            "product_viewed",
            "The page of one product was shown.",
            (
                Field("item_id", Kind.TEXT, DataCategory.BEHAVIOUR, required=True),
                Field("session_id", Kind.TEXT, DataCategory.BEHAVIOUR),
            ),
        ),
        EventType("product_purchased", "One line of a purchase.", _PURCHASE_LINE),
        EventType("product_returned", "One line of a purchase was brought back.", _PURCHASE_LINE),
        EventType(
            "coupon_redeemed",
            "A coupon was used.",
            (
                Field("coupon_id", Kind.TEXT, DataCategory.PURCHASE, required=True),
                Field("campaign_id", Kind.TEXT, DataCategory.PURCHASE),
            ),
        ),
        EventType(
            "campaign_received",
            "A marketing campaign reached the person.",
            (
                Field("campaign_id", Kind.TEXT, DataCategory.CAMPAIGN, required=True),
                Field("campaign_type", Kind.TEXT, DataCategory.CAMPAIGN),
            ),
        ),
        EventType(
            "session_started",
            "A visit began.",
            (
                Field("session_id", Kind.TEXT, DataCategory.BEHAVIOUR, required=True),
                Field("device_class", Kind.TEXT, DataCategory.DEVICE),
            ),
        ),
        EventType(
            "profile_updated",
            "The person told us something about themselves.",
            (
                Field("age_band", Kind.TEXT, DataCategory.DEMOGRAPHIC),
                Field("household_size", Kind.TEXT, DataCategory.DEMOGRAPHIC),
                Field("region", Kind.TEXT, DataCategory.COARSE_LOCATION),
            ),
        ),
    )
}
"""Every event type that is stored. `consent_granted` and `consent_withdrawn` go to the ledger instead."""


def event_type(name: str) -> EventType:
    """The event type called `name`; raises `UnknownEventType` naming the ones there are."""
    try:
        return EVENT_TYPES[name]
    except KeyError:
        raise UnknownEventType(f"Unknown event type {name!r}; choose one of: {', '.join(EVENT_TYPES)}.") from None


def json_schema(of: EventType) -> dict[str, Any]:
    """JSON Schema (2020-12) of the event's `properties`: unknown fields are refused."""
    properties: dict[str, Any] = {}
    for f in of.fields:
        properties[f.name] = dict(_JSON[f.kind]) | ({} if f.minimum is None else {"minimum": f.minimum})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": of.name,
        "description": of.description,
        "type": "object",
        "properties": properties,
        "required": [f.name for f in of.fields if f.required],
        "additionalProperties": False,
    }
