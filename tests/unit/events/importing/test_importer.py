"""The importer on small real tables: every row ends where it belongs, and nothing of anybody else stays anywhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.events.errors import MappingError, SourceUnreadable
from aap.events.importing.importer import ImportReport
from aap.security.id_map import open_id_map
from tests.unit.events.corner_shop import COLUMNS, MAPPING, NOW, ON_LEDGER, ROWS, CornerShop
from tests.waiting import PATIENCE_S

Table = Callable[[CornerShop, list[tuple[object, ...]]], tuple[str, str | None]]


def as_csv(shop: CornerShop, rows: list[tuple[object, ...]]) -> tuple[str, str | None]:
    return shop.csv(rows), None


def as_parquet(shop: CornerShop, rows: list[tuple[object, ...]]) -> tuple[str, str | None]:
    texts = {
        c: pa.array([None if r[i] is None else str(r[i]) for r in rows], pa.string()) for i, c in enumerate(COLUMNS)
    }
    return shop.parquet(texts), None


def as_sqlite(shop: CornerShop, rows: list[tuple[object, ...]]) -> tuple[str, str | None]:
    return shop.sqlite(rows), "sales"


tables = pytest.mark.parametrize("table", [as_csv, as_parquet, as_sqlite])

GOOD = [
    ("b1", "bread", 1, 310, "2024-05-01T09:00:00+00:00"),
    ("b1", "milk", 2, 250, "2024-05-01T09:00:00+00:00"),
    ("b2", "milk", 1, 125, "2024-05-02T18:30:00+00:00"),
]


def lines(shop: CornerShop, event: str = "product_purchased") -> list[tuple[object, ...]]:
    found = shop.events(event, "basket_id, item_id, quantity, amount, occurred_at")
    return [(*row[:4], row[4].astimezone(UTC).isoformat()) for row in found]


@tables
def test_good_rows_are_kept_as_typed_events_of_the_person(shop: CornerShop, table: Table) -> None:
    location, name = table(shop, ROWS)
    report = shop.bring(location, table=name)
    assert (report.rows, dict(report.accepted), report.duplicates) == (3, {"product_purchased": 3}, 0)
    assert sorted(lines(shop)) == sorted(GOOD)
    people = {row[0] for row in shop.events(columns="user_key")}
    assert people == {shop.key("anna-4711"), shop.key("bert-0815")}
    assert {row[0] for row in shop.events(columns="source")} == {"corner-shop"}
    assert all(a == o for a, o in shop.events(columns="available_at, occurred_at"))


@tables
def test_bad_rows_are_kept_apart_with_the_reason_and_the_good_ones_are_kept(shop: CornerShop, table: Table) -> None:
    bad: list[tuple[object, ...]] = [
        ("anna-4711", "b3", "milk", "many", "1.25", "2024-05-03 09:00:00"),
        ("anna-4711", "b3", "milk", "1.5", "1.25", "2024-05-03 09:00:00"),
        ("anna-4711", "b3", None, 1, "1.25", "2024-05-03 09:00:00"),
        ("anna-4711", "b3", "milk", 1, "cheap", "2024-05-03 09:00:00"),
        ("anna-4711", "b3", "milk", -1, "1.25", "2024-05-03 09:00:00"),
        ("anna-4711", "b3", "milk", 1, "1.25", "yesterday"),
        ("anna-4711", "b3", "milk", 1, "1.25", None),
        ("anna-4711", "b3", "milk", 1, "1.25", "2024-06-01 12:05:01"),
        ("anna-4711", "b3", "m" * 1_001, 1, "1.25", "2024-05-03 09:00:00"),
        ("anna-4711", "b3", "milk", 10**13, str(10**13), "2024-05-03 09:00:00"),
        ("anna-4711", "b3", "milk", 1, "1e400", "2024-05-03 09:00:00"),
    ]
    location, name = table(shop, ROWS + bad)
    report = shop.bring(location, table=name)
    assert dict(report.rejected) == {
        "quantity is not a whole number": 2,
        "item_id is missing": 1,
        "amount is not a number": 3,
        "quantity is below 0": 1,
        "occurred_at is missing or not a time": 2,
        "occurred_at is in the future": 1,
        "item_id is longer than 1,000 characters": 1,
    }
    assert sorted(lines(shop)) == sorted(GOOD)
    kept = shop.rejected.list()
    assert len(kept) == len(bad)
    assert {(e.user_key, e.payload["kunde"]) for e in kept} == {(shop.key("anna-4711"),) * 2}
    assert kept[0].payload == {
        "bon": "b3", "artikel": "milk", "menge": "many", "preis": "1.25", "zeit": "2024-05-03 09:00:00",
        "kunde": shop.key("anna-4711"),
    }  # fmt: skip


@tables
def test_the_raw_id_is_in_no_byte_of_home_but_sealed_in_the_id_map(shop: CornerShop, table: Table) -> None:
    bad = [("anna-4711", "b3", "milk", "many", "1.25", "2024-05-03 09:00:00")]
    location, name = table(shop, [*ROWS, *bad])
    mapping = {**MAPPING, "id": ["bon", "artikel", "kunde"]}
    shop.bring(location, mapping, table=name)
    assert shop.files_with("anna-4711", "bert-0815") == []
    assert shop.files_with(shop.key("anna-4711")), "the search finds what is there"
    id_map = open_id_map(shop.settings)
    assert {id_map.reveal(shop.key(i)) for i in ("anna-4711", "bert-0815")} == {"anna-4711", "bert-0815"}


@tables
def test_importing_the_same_table_twice_adds_nothing(shop: CornerShop, table: Table) -> None:
    bad = [("anna-4711", "b3", "milk", "many", "1.25", "2024-05-03 09:00:00")] * 2
    location, name = table(shop, [*ROWS, *bad])
    shop.bring(location, table=name)
    before, rejected, checkpoint = shop.events(), len(shop.rejected.list()), shop.desk.ledger.checkpoint()
    again = shop.bring(location, table=name, now=NOW + timedelta(days=1))
    assert (dict(again.accepted), again.duplicates, again.choices) == ({}, 3, 0)
    assert (shop.events(), len(shop.rejected.list()), shop.desk.ledger.checkpoint()) == (before, rejected, checkpoint)
    assert rejected == 2, "two equal bad lines are two"


@tables
def test_two_equal_rows_are_two_events_and_stay_two(shop: CornerShop, table: Table) -> None:
    location, name = table(shop, [ROWS[0], ROWS[1], ROWS[0]])
    assert shop.bring(location, table=name).accepted["product_purchased"] == 3
    assert shop.bring(location, table=name).duplicates == 3
    assert [row[1] for row in lines(shop)].count("milk") == 2


def test_a_table_that_grew_adds_only_what_is_new_even_where_rows_are_equal(shop: CornerShop) -> None:
    shop.bring(shop.csv([ROWS[0]]))
    report = shop.bring(shop.csv([ROWS[0], ROWS[0], ROWS[1]]))
    assert (report.accepted["product_purchased"], report.duplicates) == (2, 1)


def test_equal_rows_are_told_apart_across_batches_too(shop: CornerShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aap.events.importing.readers.open_source.__kwdefaults__", {"table": None, "batch": 2})
    location = shop.csv([ROWS[0]] * 5 + ROWS)
    assert shop.bring(location).accepted["product_purchased"] == 8
    assert shop.bring(location).duplicates == 8
    by_name = {**MAPPING, "id": ["bon", "artikel"], "source": "by name"}
    report = shop.bring(location, by_name)
    assert (report.accepted["product_purchased"], report.duplicates) == (3, 5)


def test_a_bad_row_does_not_push_out_a_good_one_of_the_same_name(shop: CornerShop) -> None:
    rows = [("anna-4711", "b1", "milk", 2, "broken", "2024-05-01 09:00:00"), *ROWS]
    report = shop.bring(shop.csv(rows), {**MAPPING, "id": ["bon", "artikel"]})
    assert (report.accepted["product_purchased"], report.rejected.total(), report.duplicates) == (3, 1, 0)


def test_rows_are_known_by_their_name_where_the_mapping_states_one(shop: CornerShop) -> None:
    mapping = {**MAPPING, "id": ["bon", "artikel"]}
    shop.bring(shop.csv(ROWS), mapping)
    changed = [(*ROWS[0][:3], 9, *ROWS[0][4:])]
    assert shop.bring(shop.csv(changed), mapping).duplicates == 1
    nameless = [("anna-4711", None, None, 1, "1.25", "2024-05-03 09:00:00")]
    assert dict(shop.bring(shop.csv(nameless), mapping).rejected) == {"id is missing": 1}


def test_two_tables_of_one_source_imported_at_one_moment_are_both_kept(shop: CornerShop) -> None:
    shop.bring(shop.csv(ROWS[:1], name="monday.csv"))
    shop.bring(shop.csv(ROWS[1:], name="tuesday.csv"))
    assert sorted(lines(shop)) == sorted(GOOD)


@tables
def test_people_without_consent_leave_no_byte_anywhere(shop: CornerShop, table: Table) -> None:
    shop.desk.record(
        shop.key("anna-4711"), Purpose.PERSONALIZE_PROFILING, Status.GIVEN, said_by="her", method="form",
        indicated_at=datetime(2024, 1, 1, tzinfo=UTC), received_at=NOW,
    )  # fmt: skip
    rows = [("nobody-99", "bon-of-nobody", "secretitem", "many", "1.25", "2024-05-03 09:00:00")]
    rows += [("nobody-99", "bon-of-nobody", "secretitem", "1", "1.25", "2024-05-03 09:00:00")]
    location, name = table(shop, [*ROWS, *rows])
    report = shop.bring(location, ON_LEDGER, table=name)
    assert (dict(report.refused), dict(report.rejected)) == ({"no_record": 3}, {})
    assert report.accepted["product_purchased"] == 2
    who = ("nobody-99", "bert-0815", shop.key("nobody-99"), shop.key("bert-0815"), "bon-of-nobody", "secretitem")
    assert shop.files_with(*who) == []


def test_what_a_person_refused_or_withdrew_is_refused_by_reason_and_kept_nowhere(shop: CornerShop) -> None:
    def say(user: str, purpose: Purpose, status: Status, day: int) -> None:
        at = datetime(2024, 5, day, tzinfo=UTC)
        shop.desk.record(
            shop.key(user), purpose, status, said_by="them", method="form", indicated_at=at, received_at=NOW
        )

    for user in ("withdrew", "refused", "objected"):
        say(user, Purpose.ESSENTIAL_FRAUD_DETECTION, Status.WITHDRAWN, 1)
    say("withdrew", Purpose.MARKETING_RETENTION, Status.GIVEN, 2)
    say("withdrew", Purpose.MARKETING_RETENTION, Status.WITHDRAWN, 9)
    say("refused", Purpose.MARKETING_RETENTION, Status.REFUSED, 2)
    say("late", Purpose.ESSENTIAL_FRAUD_DETECTION, Status.WITHDRAWN, 1)
    say("late", Purpose.MARKETING_RETENTION, Status.GIVEN, 8)
    say("interest", Purpose.MARKETING_RETENTION, Status.REFUSED, 2)
    people = ("withdrew", "refused", "objected", "late", "interest")
    rows = [(user, f"bon-{user}", "milk", 1, "1.25", "2024-05-05 09:00:00") for user in people]
    rows += [("late", "bon-later", "milk", 1, "1.25", "2024-05-08 00:00:00")]
    report = shop.bring(shop.csv(rows), ON_LEDGER)
    assert dict(report.refused) == {"withdrawn": 1, "refused": 1, "not_granted": 1, "before_grant": 1}
    assert [row[0] for row in lines(shop)] == ["bon-interest", "bon-later"]
    assert shop.files_with("bon-withdrew", "bon-refused", "bon-objected") == []


@tables
def test_rows_with_no_customer_are_counted_as_no_subject(shop: CornerShop, table: Table) -> None:
    rows: list[tuple[object, ...]] = [
        (who, "bon-of-none", "milk", 1, "1.25", "2024-05-03 09:00:00") for who in (None, "", "  ")
    ]
    location, name = table(shop, [*ROWS, *rows])
    report = shop.bring(location, table=name)
    assert (dict(report.refused), report.accepted["product_purchased"]) == ({"no_subject": 3}, 3)
    assert shop.files_with("bon-of-none") == []


@pytest.mark.parametrize("kind", ["parquet floats", "parquet integers", "sqlite", "csv with blanks"])
def test_a_person_is_the_same_in_every_table_however_its_tool_wrote_the_number(shop: CornerShop, kind: str) -> None:
    rows = [(101, *ROWS[0][1:]), (None, *ROWS[1][1:])]
    rest = {c: [str(r[i]) for r in rows] for i, c in enumerate(COLUMNS)}
    if kind == "parquet floats":
        location, name = shop.parquet({**rest, "kunde": pa.array([101.0, None], pa.float64())}), None
    elif kind == "parquet integers":
        location, name = shop.parquet({**rest, "kunde": pa.array([101, None], pa.int32())}), None
    elif kind == "sqlite":
        location, name = shop.sqlite(rows), "sales"
    else:
        location, name = shop.csv([(" 101\t", *ROWS[0][1:])]), None
    shop.bring(location, table=name)
    assert shop.events(columns="user_key") == [(shop.key("101"),)]


def test_a_stated_grant_is_recorded_exactly_once_a_person_and_purpose(shop: CornerShop) -> None:
    report = shop.bring(shop.csv(ROWS))
    assert report.choices == 4
    said = [r.entry for r in shop.desk.ledger.records()]
    assert {(e.subject, e.purpose) for e in said} == {
        (shop.key(user), purpose)
        for user in ("anna-4711", "bert-0815")
        for purpose in (Purpose.PERSONALIZE_PROFILING, Purpose.MARKETING_RETENTION)
    }
    for e in said:
        assert (e.status, e.indicated_at) == (Status.GIVEN, datetime(2024, 1, 1, tzinfo=UTC))
        assert (e.said_by, e.method) == ("the shop's owner", "stated for an import: loyalty card form, §3")
        assert e.notice_version == "card-2024"


def test_a_stated_grant_never_takes_back_what_a_person_said_no_to(shop: CornerShop) -> None:
    asked = datetime(2023, 12, 1, tzinfo=UTC)
    shop.desk.record(
        shop.key("anna-4711"), Purpose.MARKETING_RETENTION, Status.WITHDRAWN, said_by="anna", method="phone",
        indicated_at=asked, received_at=asked,
    )  # fmt: skip
    assert shop.bring(shop.csv(ROWS)).choices == 3
    standing = shop.desk.ledger.standing()[shop.key("anna-4711")]
    assert standing[Purpose.MARKETING_RETENTION][0] == []
    assert standing[Purpose.PERSONALIZE_PROFILING][0] != []


def test_a_consent_table_is_what_an_import_rests_on(shop: CornerShop) -> None:
    choices = [
        ("anna-4711", "personalize.profiling", "ja", "01.01.2024 10:00"),
        ("bert-0815", "personalize.profiling", "nein", "01.01.2024 10:00"),
        ("bert-0815", "essential.fraud_detection", "nein", "01.01.2024 10:00"),
        ("anna-4711", "world domination", "ja", "01.01.2024 10:00"),
        ("anna-4711", "train_ai_system", "vielleicht", "01.01.2024 10:00"),
        ("anna-4711", "train_ai_system", "ja", "someday"),
        ("anna-4711", "train_ai_system", "ja", "01.01.2030 10:00"),
        ("", "train_ai_system", "ja", "01.01.2024 10:00"),
    ]
    shop.csv(choices, columns=("wer", "wofuer", "antwort", "wann"), name="choices.csv")
    table = {
        "path": "choices.csv", "user_id": "wer", "purpose": "wofuer", "status": "antwort", "indicated_at": "wann",
        "time_format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin", "statuses": {"ja": "given", "nein": "refused"},
    }  # fmt: skip
    report = shop.bring(shop.csv(ROWS), {**MAPPING, "consent": {"table": table}})
    assert (report.choices, report.accepted["product_purchased"], dict(report.refused)) == (3, 2, {"refused": 1})
    assert dict(report.rejected) == {
        "consent row with an unknown purpose": 1,
        "consent row with an unknown status or time": 2,
        "consent row dated in the future": 1,
        "consent row without a user": 1,
    }
    first = next(iter(shop.desk.ledger.records())).entry
    assert (first.indicated_at, first.said_by) == (datetime(2024, 1, 1, 9, tzinfo=UTC), "the person")


@pytest.mark.parametrize("change", [{"time_zone": "Mars/Base"}, {"path": "nowhere.csv"}, {"purpose": "zweck"}])
def test_a_consent_table_that_cannot_be_read_stops_the_import_before_anything_is_stored(
    shop: CornerShop, change: dict[str, str]
) -> None:
    shop.csv(
        [("anna-4711", "train_ai_system", "given", "2024-01-01")], columns=("a", "b", "c", "d"), name="choices.csv"
    )
    table = {"path": "choices.csv", "user_id": "a", "purpose": "b", "status": "c", "indicated_at": "d", **change}
    with pytest.raises((SourceUnreadable, MappingError)):
        shop.bring(shop.csv(ROWS), {**MAPPING, "consent": {"table": table}})
    assert (lines(shop), shop.desk.ledger.size()) == ([], 0)


def test_negative_quantities_are_returns_with_the_sign_taken_off(shop: CornerShop) -> None:
    mapping = {**MAPPING, "negative": {"field": "quantity", "event": "product_returned"}}
    rows = [*ROWS, ("bert-0815", "b9", "milk", -2, "1.25", "2024-05-04 10:00:00")]
    report = shop.bring(shop.csv(rows), mapping)
    assert dict(report.accepted) == {"product_purchased": 3, "product_returned": 1}
    assert lines(shop, "product_returned") == [("b9", "milk", 2, 250, "2024-05-04T10:00:00+00:00")]
    assert shop.bring(shop.csv(rows), mapping).duplicates == 4


def test_money_is_exact_in_minor_units_whatever_the_column_holds(shop: CornerShop) -> None:
    prices = ["0.1", "0.29", "1.005", "19.99", "0", "1234567.89", " 2.50 ", "1.15"]
    rows = [("anna-4711", f"b{i}", f"i{i}", 1, price, f"2024-05-0{i + 1} 10:00:00") for i, price in enumerate(prices)]
    shop.bring(shop.csv(rows))
    assert [row[3] for row in lines(shop)] == [10, 29, 101, 1999, 0, 123456789, 250, 115]
    doubles = {c: [str(r[i]) for r in rows] for i, c in enumerate(COLUMNS)}
    columns = {**doubles, "preis": [float(p) for p in prices], "kunde": ["bert-0815"] * len(rows)}
    shop.bring(shop.parquet(columns), {**MAPPING, "source": "floats"})
    floats = shop.events(columns="amount, source")
    assert [a for a, source in floats if source == "floats"] == [10, 29, 101, 1999, 0, 123456789, 250, 115]


@pytest.mark.parametrize(
    ("text", "time_format", "zone", "meant"),
    [
        ("2024-05-01 09:00:00", None, "UTC", "2024-05-01T09:00:00+00:00"),
        ("2024-05-01 09:00:00", None, "Europe/Berlin", "2024-05-01T07:00:00+00:00"),
        ("2024-05-01T09:00:00.123456Z", None, "Europe/Berlin", "2024-05-01T09:00:00.123456+00:00"),
        ("2024-05-01T09:00:00+05:30", None, "UTC", "2024-05-01T03:30:00+00:00"),
        ("2024-05-01", None, "America/New_York", "2024-05-01T04:00:00+00:00"),
        ("01/05/2024 09:00", "%d/%m/%Y %H:%M", "UTC", "2024-05-01T09:00:00+00:00"),
        ("01/05/2024 09:00", "%d/%m/%Y %H:%M", "Asia/Tokyo", "2024-05-01T00:00:00+00:00"),
        ("2024-05-01 09:00 +0200", "%Y-%m-%d %H:%M %z", "Asia/Tokyo", "2024-05-01T07:00:00+00:00"),
        ("1714554000", "epoch", "Asia/Tokyo", "2024-05-01T09:00:00+00:00"),
        ("1714554000.25", "epoch", "UTC", "2024-05-01T09:00:00.250000+00:00"),
        ("1714554000123", "epoch_ms", "UTC", "2024-05-01T09:00:00.123000+00:00"),
    ],
)  # fmt: skip
def test_times_are_read_as_the_mapping_says(
    shop: CornerShop, text: str, time_format: str | None, zone: str, meant: str
) -> None:
    mapping = {**MAPPING, "time_zone": zone, **({"time_format": time_format} if time_format else {})}
    shop.bring(shop.csv([(*ROWS[0][:5], text)]), mapping)
    assert [row[4] for row in lines(shop)] == [meant]
    folder = shop.layout.archive / "product_purchased"
    assert [p.name for p in folder.iterdir()] == [f"day={meant[:10]}"], "days are days of UTC"


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_typed_times_without_a_zone_are_in_the_mapping_s_zone(shop: CornerShop, zone: str) -> None:
    columns: dict[str, Any] = {c: [ROWS[0][i]] for i, c in enumerate(COLUMNS)}
    columns["zeit"] = pa.array([datetime(2024, 5, 1, 9)], pa.timestamp("ns"))  # noqa: DTZ001 - a column without a zone
    shop.bring(shop.parquet(columns), {**MAPPING, "time_zone": zone})
    assert lines(shop)[0][4] == ("2024-05-01T09:00:00+00:00" if zone == "UTC" else "2024-05-01T07:00:00+00:00")


def test_an_event_counts_from_when_it_was_available_if_a_column_says_so_but_never_before_it_happened(
    shop: CornerShop,
) -> None:
    rows = [(*ROWS[0], "2024-05-03"), (*ROWS[1], "2024-04-01"), (*ROWS[2], "")]
    shop.bring(shop.csv(rows, columns=(*COLUMNS, "geladen")), {**MAPPING, "available_at": "geladen"})
    found = {r[0]: (r[1] - r[2]) for r in shop.events(columns="item_id || basket_id, available_at, occurred_at")}
    assert found == {"milkb1": timedelta(days=1, hours=15), "breadb1": timedelta(0), "milkb2": timedelta(0)}


def test_lookups_constants_and_sums_fill_fields(shop: CornerShop) -> None:
    shop.csv([("milk", "Dairy"), ("bread", "Bakery")], columns=("nr", "gruppe"), name="items.csv")
    fields = {
        **MAPPING["fields"],
        "department": {"lookup": "items", "column": "gruppe"},
        "store_id": {"constant": "main street"},
        "discount": {"column": "preis", "plus": ["menge"]},
    }
    lookups = {"items": {"path": "items.csv", "by": "artikel", "key": "nr"}}
    shop.bring(shop.csv(ROWS), {**MAPPING, "fields": fields, "lookups": lookups})
    found = shop.events(columns="item_id, department, store_id, discount, basket_id")
    assert ("milk", "Dairy", "main street", 325, "b1") in found
    assert {row[1] for row in found} == {"Dairy", "Bakery"}
    shop.csv([("milk", "Dairy"), ("milk", "Drinks")], columns=("nr", "gruppe"), name="items.csv")
    with pytest.raises(SourceUnreadable, match=r"^The lookup 'items' has 1 rows whose 'nr' is there already"):
        shop.bring(shop.csv(ROWS), {**MAPPING, "fields": fields, "lookups": lookups})


def test_columns_named_like_our_own_words_do_no_harm(shop: CornerShop) -> None:
    names = ("row", "event", "problem", "refusal", "user_key", "Occurred At")
    mapping = {
        **MAPPING, "user_id": "row", "occurred_at": "Occurred At",
        "fields": {"basket_id": "event", "item_id": "problem", "quantity": "refusal", "amount": "user_key"},
    }  # fmt: skip
    shop.bring(shop.csv(ROWS, columns=names), mapping)
    assert sorted(row[:3] for row in lines(shop)) == sorted(row[:3] for row in GOOD)


def test_a_csv_of_text_alone_keeps_its_first_line_as_names_and_other_separators_are_found(shop: CornerShop) -> None:
    path = Path(shop.csv([]))
    path.write_text("kunde;bon;artikel;menge;preis;zeit\nanna;b;milk;one;free;today\n", encoding="utf-8")
    assert shop.bring(str(path)).rejected.total() == 1


def test_lines_of_a_csv_that_are_no_rows_are_told_by_number(shop: CornerShop) -> None:
    path = Path(shop.csv(ROWS))
    path.write_text(path.read_text() + "anna-4711,bon-malformed,milk,1,1.25,2024-05-05 09:00:00,what,is,this\n")
    report = shop.bring(str(path))
    assert report.accepted["product_purchased"] == 3
    assert [line for line, _ in report.malformed] == [5]
    assert shop.files_with("bon-malformed") == []


def _truncated(shop: CornerShop) -> str:
    location = Path(as_parquet(shop, ROWS * 100)[0])
    location.write_bytes(location.read_bytes()[:-200])
    return str(location)


def _damaged(shop: CornerShop) -> str:
    location = Path(as_parquet(shop, ROWS * 100)[0])
    content = bytearray(location.read_bytes())
    content[4:400] = b"\xff" * 396
    location.write_bytes(bytes(content))
    return str(location)


def _touch(shop: CornerShop, name: str, content: bytes = b"") -> str:
    shop.folder.mkdir(exist_ok=True)
    (shop.folder / name).write_bytes(content)
    return str(shop.folder / name)


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        (lambda shop: str(shop.folder / "none.csv"), r"There is no file .*none\.csv"),
        (lambda shop: str(shop.folder), "There is no file"),
        (lambda shop: _touch(shop, "empty.csv"), r"empty\.csv is empty"),
        (lambda shop: _touch(shop, "empty.parquet"), r"empty\.parquet is empty"),
        (lambda shop: shop.csv([]), "has no rows"),
        (lambda shop: _touch(shop, "sales.xlsx", b"PK"), "neither .csv nor .parquet"),
        (lambda shop: _touch(shop, "text.parquet", b"this is no parquet file"), "can't be read"),
        (_truncated, "can't be read"),
        (_damaged, "can't be read"),
        (lambda shop: shop.csv([("a", "b")], columns=("kunde", "bon")), "has no column 'preis'; it has kunde, bon"),
        (lambda shop: "sqlite:////nowhere/shop.db", "There is no database"),
        (lambda shop: shop.sqlite(ROWS, table="other"), "has no table 'sales'"),
        (lambda shop: shop.sqlite([]), "has no rows"),
        (lambda shop: shop.sqlite([("a", "b")], columns=("kunde", "bon")), "has no column 'preis'"),
        (lambda shop: "sqlite:///" + _touch(shop, "no.db", b"no database, only words" * 99), "file is not a database"),
        (lambda shop: "nonsense://user:secret@host/db", "can't be read"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_read_is_told_in_one_sentence_and_leaves_nothing(
    shop: CornerShop, location: Callable[[CornerShop], str], problem: str
) -> None:
    with pytest.raises(SourceUnreadable, match=problem) as told:
        shop.bring(location(shop), ON_LEDGER, table="sales")
    message = str(told.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert "secret" not in message
    assert not list(shop.layout.archive.rglob("*.parquet"))


def test_a_database_needs_the_name_of_a_table(shop: CornerShop) -> None:
    with pytest.raises(SourceUnreadable, match=r"needs a table: give --table NAME or `table:` in the mapping\.$"):
        shop.bring(shop.sqlite(ROWS))
    assert shop.bring(shop.sqlite(ROWS, table="named"), {**MAPPING, "table": "named"}).accepted.total() == 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"time_zone": "Mars/Base"}, "Unknown time zone 'Mars/Base'"),
        ({"time_format": "%Q"}, "time format '%Q' can't be used"),
    ],
)
def test_a_time_zone_or_format_there_is_not_is_told(shop: CornerShop, change: dict[str, str], problem: str) -> None:
    with pytest.raises(MappingError, match=problem):
        shop.bring(shop.csv(ROWS), {**ON_LEDGER, **change})


def test_nothing_is_in_the_archive_when_reading_fails_half_way(
    shop: CornerShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.events.importing.readers.open_source.__kwdefaults__", {"table": None, "batch": 1})
    from aap.events.importing import batch_validation

    whole, calls = batch_validation.Judge.judge, []

    def fails_the_second_time(self: batch_validation.Judge, select: str) -> object:
        calls.append(select)
        if len(calls) == 2:
            raise SourceUnreadable("The disk the table is on was pulled out.")
        return whole(self, select)

    monkeypatch.setattr(batch_validation.Judge, "judge", fails_the_second_time)
    with pytest.raises(SourceUnreadable):
        shop.bring(shop.csv(ROWS))
    assert not list(shop.layout.archive.rglob("*.parquet"))
    monkeypatch.setattr(batch_validation.Judge, "judge", whole)
    assert shop.bring(shop.csv(ROWS)).accepted.total() == 3


_SMALL_DISK = """
import resource, sys
from pathlib import Path
from aap.events.importing.mapping import load_mapping
from aap.config import load_settings
from tests.unit.events.corner_shop import NOW, CornerShop
shop = CornerShop(load_settings(), Path(sys.argv[1]))
importer, mapping = shop.importer(), load_mapping(Path(sys.argv[2]))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    importer.run(sys.argv[3], mapping, beside=Path(sys.argv[2]).parent, now=NOW, door="small disk")
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_disk_that_fills_up_leaves_the_archive_as_it_was(shop: CornerShop) -> None:
    shop.bring(shop.csv(ROWS))
    before = shop.events()
    names = [f"{i * 2654435761 % 2**32:08x}{i * 40503 % 65521:05x}" for i in range(20_000)]
    columns = {
        "kunde": ["anna-4711"] * len(names), "bon": names, "artikel": [n[::-1] for n in names],
        "menge": [1] * (len(names) - 1) + [-1], "preis": ["1.00"] * len(names), "zeit": ["2024-05-20 10:00:00"] * len(names),
    }  # fmt: skip
    mapping = shop.mapping({**ON_LEDGER, "negative": {"field": "quantity", "event": "product_returned"}})
    command = [sys.executable, "-c", _SMALL_DISK, str(shop.folder), str(mapping), shop.parquet(columns)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"DiskFull No space left for {shop.layout.archive}: free some disk space"), (
        done.stdout
    )
    assert shop.events() == before
    assert shop.events("product_returned") == []
    assert not list(shop.layout.archive.rglob("*.tmp"))
    assert not list(shop.layout.archive.glob(".staging/*"))
    report: ImportReport = shop.bring(shop.parquet(columns), ON_LEDGER)
    assert report.accepted["product_purchased"] == len(names) - 1


def test_items_of_a_catalogue_are_added_and_renewed(shop: CornerShop) -> None:
    from aap.events.item_catalog import read_catalogue

    mapping = {"source": "corner-shop", "items": True, "fields": {"item_id": "nr", "name": "titel"}}
    first = shop.bring(shop.csv([("milk", "Milk"), ("bread", "Bread")], columns=("nr", "titel")), mapping)
    again = shop.bring(shop.csv([("milk", "Whole milk"), ("tea", "Tea")], columns=("nr", "titel")), mapping)
    assert (first.items, again.items) == (2, 1)
    items = read_catalogue(shop.layout.catalogue)
    assert dict(zip(items["item_id"].to_pylist(), items["name"].to_pylist(), strict=True)) == {
        "bread": "Bread", "milk": "Whole milk", "tea": "Tea",
    }  # fmt: skip


def test_progress_tells_rows_done_and_in_all(shop: CornerShop) -> None:
    from aap.events.importing.mapping import load_mapping

    told: list[tuple[int, int]] = []
    path = shop.mapping(MAPPING)
    location = shop.csv(ROWS)
    shop.importer().run(
        location, load_mapping(path), beside=path.parent, now=NOW, progress=lambda done, of: told.append((done, of))
    )
    assert told == [(3, 3)]
