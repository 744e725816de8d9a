"""Rejected rows are kept until they fit: by a better mapping, or because the time has come."""

from __future__ import annotations

from datetime import timedelta

import pytest

from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.events.importing.consent_table import CHOICE
from aap.events.importing.dead_letter_retry import Replayed, replay
from aap.events.importing.importer import ImportReport
from aap.infra.errors import LockHeld
from aap.infra.locks import hold
from aap.jobs.ingest import replay_rejected
from tests.unit.events.corner_shop import MAPPING, NOW, ROWS, CornerShop

GERMAN = [
    ("anna-4711", "b1", "milk", 2, "1.25", "01.05.2024 09:00"),
    ("anna-4711", "b1", "milk", 2, "1.25", "01.05.2024 09:00"),
    ("bert-0815", "b2", "milk", 1, "not for sale", "02.05.2024 18:30"),
]
RIGHT = {**MAPPING, "time_format": "%d.%m.%Y %H:%M"}


@pytest.fixture
def rejected_once(shop: CornerShop) -> CornerShop:
    report = shop.bring(shop.csv(GERMAN), {**MAPPING, "time_format": "%m/%d/%Y"})
    assert report.rejected == {"occurred_at is missing or not a time": 3}
    return shop


def test_rows_that_fit_a_better_mapping_are_taken_in_and_leave_the_log(rejected_once: CornerShop) -> None:
    shop = rejected_once
    shop.mapping(RIGHT)
    assert replay(shop.importer(), now=NOW) == Replayed(tried=3, accepted=2, left=1)
    assert shop.events(columns="item_id, quantity, amount") == [("milk", 2, 250)] * 2
    assert [(e.reason, e.user_key) for e in shop.rejected.list()] == [("amount is not a number", shop.key("bert-0815"))]


def test_replaying_again_changes_nothing_and_so_does_importing_the_table_again(rejected_once: CornerShop) -> None:
    shop = rejected_once
    shop.mapping(RIGHT)
    replay(shop.importer(), now=NOW)
    before = shop.events()
    assert replay(shop.importer(), now=NOW) == Replayed(tried=1, accepted=0, left=1)
    assert shop.bring(shop.csv(GERMAN), RIGHT).duplicates == 2
    assert (shop.events(), len(shop.rejected.list())) == (before, 1)


def test_a_replay_says_nothing_new_to_the_ledger_and_leaves_no_raw_id(rejected_once: CornerShop) -> None:
    shop = rejected_once
    before = shop.desk.ledger.checkpoint()
    shop.mapping(RIGHT)
    replay(shop.importer(), now=NOW)
    assert shop.desk.ledger.checkpoint() == before
    assert shop.files_with("anna-4711", "bert-0815") == []
    assert not list(shop.layout.rejected.parent.glob(".*/*"))


def test_what_was_in_the_future_fits_when_its_time_has_come(shop: CornerShop) -> None:
    shop.bring(shop.csv([(*ROWS[0][:5], "2024-06-02 10:00:00")]))
    assert replay(shop.importer(), now=NOW) == Replayed(1, 0, 1)
    assert replay(shop.importer(), now=NOW + timedelta(days=1)) == Replayed(1, 1, 0)


def test_rows_of_who_withdrew_meanwhile_are_dropped_not_kept(rejected_once: CornerShop) -> None:
    shop = rejected_once
    for purpose in (Purpose.PERSONALIZE_PROFILING, Purpose.MARKETING_RETENTION, Purpose.ESSENTIAL_FRAUD_DETECTION):
        shop.desk.record(
            shop.key("anna-4711"), purpose, Status.WITHDRAWN, said_by="her", method="form",
            indicated_at=NOW, received_at=NOW,
        )  # fmt: skip
    assert replay(shop.importer(), now=NOW) == Replayed(tried=3, accepted=0, left=1)
    assert {e.user_key for e in shop.rejected.list()} == {shop.key("bert-0815")}


def test_rows_whose_mapping_is_gone_wait(rejected_once: CornerShop) -> None:
    rejected_once.mapping(RIGHT).unlink()
    assert replay(rejected_once.importer(), now=NOW) == Replayed(tried=0, accepted=0, left=3)


def test_with_an_empty_log_there_is_nothing_to_do(shop: CornerShop) -> None:
    assert replay(shop.importer(), now=NOW) == Replayed(0, 0, 0)


CHOICES = {"user_id": "wer", "purpose": "wofuer", "status": "antwort", "indicated_at": "wann"}
SAID = [
    ("anna-4711", "personalize.profiling", "ja", "2024-01-01"),
    ("bert-0815", "personalize.profiling", "given", "2024-07-01"),
    ("", "personalize.profiling", "ja", "2024-01-01"),
]


def choices(shop: CornerShop, statuses: dict[str, str], *, said: list[tuple[str, ...]] = SAID) -> ImportReport:
    rows = shop.csv(said, columns=("wer", "wofuer", "antwort", "wann"), name="choices.csv")
    return shop.bring(rows, {"source": "choices", "choices": {**CHOICES, "statuses": statuses}})


def test_choices_that_could_not_be_read_are_kept_and_recorded_once_they_can(shop: CornerShop) -> None:
    assert choices(shop, {}).rejected.total() == 3
    assert [(e.event, e.reason, e.user_key) for e in shop.rejected.list()] == [
        (CHOICE, "consent row with an unknown status or time", shop.key("anna-4711")),
        (CHOICE, "consent row dated in the future", shop.key("bert-0815")),
    ]
    assert shop.files_with("anna-4711", "bert-0815") == []
    assert replay(shop.importer(), now=NOW) == Replayed(tried=2, accepted=0, left=2)
    choices(shop, {"ja": "given"}, said=SAID[1:2])
    assert replay(shop.importer(), now=NOW) == Replayed(tried=2, accepted=1, left=1)
    assert replay(shop.importer(), now=NOW + timedelta(days=31)) == Replayed(tried=1, accepted=1, left=0)
    said = [(r.entry.subject, r.entry.status) for r in shop.desk.ledger.records()]
    assert said == [(shop.key("anna-4711"), Status.GIVEN), (shop.key("bert-0815"), Status.GIVEN)]


def test_importing_unreadable_choices_again_keeps_them_once(shop: CornerShop) -> None:
    choices(shop, {})
    choices(shop, {})
    assert len(shop.rejected.list()) == 2


def test_a_choice_is_replayed_before_the_events_that_rest_on_it(shop: CornerShop) -> None:
    shop.csv([*SAID[:1], ("bert-0815", "personalize.profiling", "given", "2024-01-01")],
             columns=("wer", "wofuer", "antwort", "wann"), name="choices.csv")  # fmt: skip
    table = {"path": "choices.csv", **CHOICES}
    rows = [ROWS[0], ("bert-0815", "b2", "milk", 1, "free", "2024-05-02 18:30:00")]
    shop.bring(shop.csv(rows), {**MAPPING, "consent": {"table": table}})
    assert [e.event for e in shop.rejected.list()] == [CHOICE, "product_purchased"]
    price = {**MAPPING["fields"], "amount": {"constant": "1"}}
    shop.mapping({**MAPPING, "fields": price, "consent": {"table": {**table, "statuses": {"ja": "given"}}}})
    assert replay(shop.importer(), now=NOW) == Replayed(tried=2, accepted=2, left=0)


def test_a_replay_waits_its_turn_behind_an_import(rejected_once: CornerShop) -> None:
    with (
        hold(rejected_once.layout.run / "import.lock", what="an import"),
        pytest.raises(LockHeld, match="an import is running already, as process"),
    ):
        replay_rejected(rejected_once.settings, now=NOW)
    assert replay_rejected(rejected_once.settings, now=NOW).tried == 3
