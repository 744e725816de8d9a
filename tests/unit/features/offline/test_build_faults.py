"""Bad input and faults on the way from an event to a built value: the right value, or a sentence that says what to do."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aap.consent.policy import Status
from aap.consent.purposes import DataCategory
from aap.consent.service import open_ledger
from aap.events import schema
from aap.events.archive import Archive
from aap.events.errors import ArchiveDamaged
from aap.events.schema import Field, Kind, event_type
from aap.events.streaming.archiver import drain
from aap.events.streaming.collector import Collector
from aap.events.streaming.event_log import RedisStreamLog
from aap.features.declarations import DAY_US, Entity
from aap.features.offline.build import build_one
from aap.features.views import view_for
from aap.infra.object_store import archive_folder
from aap.infra.redis.connection import connect
from aap.infra.timestamps import to_micros
from aap.jobs.ingest import open_importer
from tests.unit.features.store_room import AS_OF, ASKED, COLUMNS, EVERYTHING, RETENTION, SALES, StoreRoom

DAY = timedelta(days=1)
VIEW = view_for(Entity.USER, RETENTION)


def sale(room: StoreRoom, *, at: datetime, known: datetime | None = None, **changes: Any) -> None:
    """One more purchase of customer-0, of 5.00, imported at AS_OF."""
    row = {
        "kunde": "customer-0", "bon": f"extra-{at}", "artikel": "i1", "menge": 1, "preis": "5.00",
        "zeit": at.isoformat(), "geladen": (known or at).isoformat(), "gruppe": "g1", "laden": "l1", "rabatt": "",
        **changes,
    }  # fmt: skip
    room.shop.bring(room.shop.csv([tuple(row[c] for c in COLUMNS)], columns=COLUMNS), SALES, now=AS_OF)


def value(room: StoreRoom, name: str, *, at: datetime) -> float:
    return float(room.offline(RETENTION, "customer-0", at=at)[0, VIEW.names.index(name)])


def collector(room: StoreRoom) -> Collector:
    doors, client = open_importer(room.settings), connect(room.settings)
    return Collector(client, RedisStreamLog(client), doors.desk, doors.rejected, doors.pseudonyms, doors.id_map)


def bought(number: int, at: datetime, **properties: Any) -> dict[str, Any]:
    told = {"basket_id": f"live-{number // 4}", "item_id": f"i{number % 9}", "quantity": 1, "amount": 1.25}
    return {
        "id": f"e{number}", "source": "shop", "type": "product_purchased", "user_id": "customer-0",
        "occurred_at": at.isoformat(), "properties": told | properties,
    }  # fmt: skip


def test_a_torn_file_of_the_archive_is_named_and_what_was_built_before_stays(room: StoreRoom) -> None:
    before = value(room, "amount_sum_90d", at=AS_OF)
    torn = sorted((room.layout.archive / "product_purchased").rglob("*.parquet"))[3]
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(ArchiveDamaged, match=f"{torn.name} can't be read .* restore it from a backup"):
        room.build()
    assert value(room, "amount_sum_90d", at=AS_OF) == before


def test_a_build_that_died_in_mid_write_leaves_the_values_there_were(
    room: StoreRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = room.content(VIEW)
    sale(room, at=AS_OF - DAY)

    def die(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            room.build()
    assert room.content(VIEW) == before
    room.build()
    assert room.content(VIEW) != before


def test_a_field_declared_since_the_events_were_archived_is_null_in_them(
    room: StoreRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = room.content(VIEW)
    declared = event_type("product_purchased")
    colour = Field("colour", Kind.TEXT, DataCategory.PURCHASE)
    monkeypatch.setitem(schema.EVENT_TYPES, declared.name, replace(declared, fields=(*declared.fields, colour)))
    room.build()
    assert room.content(VIEW) == before
    sale(room, at=AS_OF - DAY)
    room.build()
    assert value(room, "amount_sum_7d", at=AS_OF) > 0


def test_an_event_a_year_late_counts_from_when_it_came_in_and_never_before(room: StoreRoom) -> None:
    for purpose in EVERYTHING:  # a grant as old as the event, renewed within its thirteen months
        for at in (ASKED - 200 * DAY, ASKED - DAY):
            room.say("customer-0", purpose, Status.GIVEN, at=at)
    happened, came = AS_OF - 366 * DAY, AS_OF - 12 * 3600 * timedelta(seconds=1)
    room.build()
    moments = [came - timedelta(microseconds=1), came, AS_OF]
    names = ("basket_count_ever", "amount_sum_ever", "amount_sum_90d", "tenure_days")
    before = {name: [value(room, name, at=at) for at in moments] for name in names}
    sale(room, at=happened, known=came)
    room.build()
    after = {name: [value(room, name, at=at) for at in moments] for name in names}
    assert after["amount_sum_90d"] == before["amount_sum_90d"]
    assert after["basket_count_ever"] == [
        n + late for n, late in zip(before["basket_count_ever"], (0, 1, 1), strict=True)
    ]
    assert after["amount_sum_ever"] == pytest.approx(
        [n + late for n, late in zip(before["amount_sum_ever"], (0, 5, 5), strict=True)]
    )
    assert after["tenure_days"][0] == before["tenure_days"][0]
    assert after["tenure_days"][2] == pytest.approx(366)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-inf", "1e999"])
def test_what_is_no_finite_number_is_rejected_at_both_doors_and_reaches_no_value(room: StoreRoom, number: str) -> None:
    before = room.content(VIEW)
    sale(room, at=AS_OF - DAY, preis=number)
    sale(room, at=AS_OF - DAY, menge=number)
    found = collector(room).collect(
        [bought(1, AS_OF, amount=number), bought(2, AS_OF, amount=float(number))], now=AS_OF
    )
    assert (found.accepted, sum(found.rejected.values())) == (0, 2)
    assert len(room.shop.rejected.list()) == 4
    room.build()
    assert room.content(VIEW) == before


def test_a_property_of_a_megabyte_is_rejected_at_both_doors_and_its_neighbours_are_kept(room: StoreRoom) -> None:
    sale(room, at=AS_OF - DAY, artikel="x" * 1_000_000)
    assert [e.reason for e in room.shop.rejected.list()] == ["item_id is longer than 1,000 characters"]
    found = collector(room).collect([bought(1, AS_OF, item_id="x" * 1_000_000), bought(2, AS_OF)], now=AS_OF)
    assert (found.accepted, dict(found.rejected)) == (1, {"item_id is longer than 1,000 characters": 1})


def test_ten_thousand_events_of_one_person_in_one_batch_are_all_counted(room: StoreRoom) -> None:
    door, archive = collector(room), Archive(archive_folder(room.settings))
    before = value(room, "amount_sum_7d", at=AS_OF)
    batch = [bought(i, AS_OF - timedelta(seconds=i)) for i in range(10_000)]
    assert door.collect(batch, now=AS_OF).accepted == 10_000
    assert drain(door.log, archive, open_ledger(room.settings), now=AS_OF).archived == {"product_purchased": 10_000}
    room.build()
    assert value(room, "amount_sum_7d", at=AS_OF) == pytest.approx(before + 12_500)


def test_a_clock_that_ran_backwards_loses_no_event_and_counts_none_before_it_is_known(room: StoreRoom) -> None:
    door, archive = collector(room), Archive(archive_folder(room.settings))
    before = value(room, "basket_count_7d", at=AS_OF)
    ahead, back = AS_OF - timedelta(minutes=1), AS_OF - timedelta(minutes=4)
    assert door.collect([bought(0, ahead)], now=ahead).accepted == 1
    assert door.collect([bought(8, ahead + timedelta(seconds=30))], now=back).accepted == 1
    drain(door.log, archive, open_ledger(room.settings), now=back)
    room.build()
    assert value(room, "basket_count_7d", at=AS_OF) == before + 2
    assert value(room, "basket_count_7d", at=ahead + timedelta(seconds=29)) == before + 1


def _busy(room: StoreRoom, events: int) -> tuple[float, float]:
    """Archive `events` of customer-0 over 120 days, and build; returns the sum and the largest price of 90 days."""
    ends = to_micros(AS_OF)
    at = np.sort(np.random.default_rng(1).integers(ends - 120 * DAY_US, ends, events))
    cents = np.random.default_rng(2).integers(1, 100_000, events)
    declared = event_type("product_purchased").arrow
    columns: dict[str, Any] = {
        "source": ["crowd"] * events, "id": [f"n{i}" for i in range(events)], "user_key": [room.key("customer-0")] * events,
        "occurred_at": at, "available_at": at, "basket_id": [f"b{i // 5}" for i in range(events)],
        "item_id": [f"i{i % 500}" for i in range(events)], "quantity": np.ones(events, dtype=np.int64), "amount": cents,
    }  # fmt: skip
    table = pa.table(
        {f.name: pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(events, f.type) for f in declared}
    )
    folder = room.layout.archive / "product_purchased" / "day=2024-06-30"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "crowd.parquet")
    inside = at > (ends - 90 * DAY_US) // DAY_US * DAY_US
    return float(cents[inside].sum()) / 100, float(cents[inside].max()) / 100


def _build_busy(room: StoreRoom, events: int) -> None:
    total, largest = _busy(room, events)
    before = value(room, "amount_sum_90d", at=AS_OF)
    build_one(
        VIEW, archive=Archive(archive_folder(room.settings)), folder=room.layout.features,
        standing=open_ledger(room.settings).standing(), as_of=AS_OF,
    )  # fmt: skip
    assert value(room, "amount_sum_90d", at=AS_OF) == pytest.approx(before + total)
    assert value(room, "amount_max_90d", at=AS_OF) == largest
    assert value(room, "product_distinct_90d", at=AS_OF) >= 500


def test_a_person_with_many_events_is_built_at_a_cost_that_grows_with_their_events(room: StoreRoom) -> None:
    _build_busy(room, 20_000)


@pytest.mark.full
def test_a_person_with_a_million_events_is_built(room: StoreRoom) -> None:
    _build_busy(room, 1_000_000)
