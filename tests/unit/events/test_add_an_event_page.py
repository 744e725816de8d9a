"""docs/add-an-event.md, followed to the letter: its event type is declared and a table brought in by its mapping."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from aap.consent.policy import Status
from aap.consent.purposes import DataCategory, Purpose
from aap.events import schema
from aap.events.schema import json_schema
from tests.docs.pages import DOCS, blocks
from tests.unit.events.corner_shop import NOW, CornerShop

PAGE = DOCS / "add-an-event.md"
COLUMNS = ("review", "reviewer", "product", "rating", "length", "written")


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> schema.EventType:
    """Step 4: the entry."""
    (source,) = blocks(PAGE, "python")
    (made,) = eval(f"({source})", {**vars(schema), "DataCategory": DataCategory})
    monkeypatch.setitem(schema.EVENT_TYPES, made.name, made)
    assert isinstance(made, schema.EventType)
    return made


def test_its_event_is_imported_by_its_mapping(declared: schema.EventType, shop: CornerShop) -> None:
    at = NOW - timedelta(days=300)
    shop.desk.record(
        shop.key("ana"), Purpose.PERSONALIZE_PROFILING, Status.GIVEN, said_by="her", method="form",
        indicated_at=at, received_at=at,
    )  # fmt: skip
    rows = [
        (1, "ana", "milk", 5, 120, "01/05/2024"), (2, "ana", "tea", 0, "", "02/05/2024"),
        (3, "ana", "tea", 4, "", "02/05/2024"), (4, "bob", "tea", 4, "", "02/05/2024"),
    ]  # fmt: skip
    (mapping,) = blocks(PAGE, "yaml")
    report = shop.bring(shop.csv(rows, columns=COLUMNS), mapping)
    assert dict(report.accepted) == {"review_written": 2}
    assert dict(report.rejected) == {"stars is below 1": 1}
    assert dict(report.refused) == {"no_record": 1}
    found = shop.events("review_written", "id, item_id, stars, words, occurred_at")
    assert [row[:4] for row in found] == [("1", "milk", 5, 120), ("3", "tea", 4, None)]
    assert found[0][4].astimezone(UTC) == datetime(2024, 4, 30, 22, tzinfo=UTC)


def test_what_it_says_follows_from_the_entry_does(declared: schema.EventType) -> None:
    assert Purpose.PERSONALIZE_PROFILING in declared.purposes
    assert Purpose.THIRD_PARTY_SHARING not in declared.purposes
    assert json_schema(declared)["required"] == ["item_id", "stars"]
    assert declared.arrow.names[-3:] == ["item_id", "stars", "words"]
