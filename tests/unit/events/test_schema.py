"""Event types: declared once, and what follows from the declaration."""

from __future__ import annotations

import pytest

from aap.consent.purposes import DataCategory, Purpose, spec
from aap.events.errors import UnknownEventType, UnusableEventType
from aap.events.schema import ENVELOPE, EVENT_TYPES, EventType, Field, Kind, event_type, json_schema

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("declared", EVENT_TYPES.values(), ids=lambda t: t.name)
def test_every_event_type_can_be_stored_for_some_purpose_that_may_touch_all_its_fields(declared: EventType) -> None:
    assert declared.purposes
    for purpose in Purpose:
        may = declared.categories <= spec(purpose).categories
        assert (purpose in declared.purposes) == may


@pytest.mark.parametrize("declared", EVENT_TYPES.values(), ids=lambda t: t.name)
def test_the_json_schema_names_every_field_and_refuses_any_other(declared: EventType) -> None:
    schema = json_schema(declared)
    assert list(schema["properties"]) == [f.name for f in declared.fields]
    assert schema["required"] == [f.name for f in declared.fields if f.required]
    assert schema["additionalProperties"] is False
    assert declared.arrow.names == [*ENVELOPE.names, *schema["properties"]]


def test_demographics_serve_reporting_alone_and_purchases_never_go_to_third_parties() -> None:
    assert event_type("profile_updated").purposes == (Purpose.ANALYTICS_REPORTING,)
    assert Purpose.THIRD_PARTY_SHARING not in event_type("product_purchased").purposes


def test_a_field_named_twice_or_like_the_envelope_is_refused() -> None:
    for name in ("user_key", "page"):
        fields = tuple(Field(n, Kind.TEXT, DataCategory.BEHAVIOUR) for n in ("page", name))
        with pytest.raises(
            UnusableEventType, match=r"^Event type 'seen' has a field named twice or like the envelope: "
        ):
            EventType("seen", "Seen.", fields)


def test_an_unknown_event_type_is_told_with_the_known_ones() -> None:
    with pytest.raises(UnknownEventType, match=r"^Unknown event type 'nope'; choose one of: page_viewed, .*\.$"):
        event_type("nope")
