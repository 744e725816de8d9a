"""Live events: collected under consent, recognised once, archived once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from aap.config import Settings
from aap.consent.errors import LedgerUnavailable
from aap.consent.ledger.ledger import Ledger
from aap.consent.policy import LONGEST_GRANT, Status
from aap.consent.purposes import Purpose
from aap.consent.service import ConsentDesk
from aap.events.archive import Archive
from aap.events.dead_letter import RejectedLog
from aap.events.streaming.archiver import Admitted, drain
from aap.events.streaming.collector import Collector
from aap.events.streaming.event_log import RedisStreamLog
from aap.infra.object_store import archive_folder
from aap.infra.paths import Layout
from aap.security.id_map import open_id_map
from aap.security.pseudonyms import load_pseudonyms

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
Choose = Callable[..., None]


@pytest.fixture
def collector(redis_server: Settings, redis_client: redis.Redis) -> Collector:
    layout = Layout(redis_server.home)
    redis_client.flushall()
    return Collector(
        redis_client,
        RedisStreamLog(redis_client),
        ConsentDesk(Ledger.at(layout.ledger), redis_client),
        RejectedLog(layout.rejected),
        load_pseudonyms(layout),
        open_id_map(redis_server),
    )


@pytest.fixture
def archive(redis_server: Settings) -> Archive:
    return Archive(archive_folder(redis_server))


@pytest.fixture
def choose(collector: Collector) -> Choose:
    def record(user: str, status: Status, at: datetime, purpose: Purpose = Purpose.PERSONALIZE_PROFILING) -> None:
        objects = Purpose.ESSENTIAL_FRAUD_DETECTION
        key = collector.pseudonyms.user_key(user)
        for named, said in ((objects, Status.WITHDRAWN), (purpose, status)):
            collector.desk.record(key, named, said, said_by="t", method="t", indicated_at=at, received_at=max(at, NOW))

    return record


def viewed(number: int, user: str | None = "ana", **changes: Any) -> dict[str, Any]:
    event = {
        "source": "web",
        "id": f"e{number}",
        "type": "product_viewed",
        "user_id": user,
        "occurred_at": (NOW - timedelta(minutes=number)).isoformat(),
        "properties": {"item_id": "milk"},
    }
    return event | changes


def test_an_event_with_consent_reaches_the_archive_once_however_often_it_is_sent(
    collector: Collector, archive: Archive, choose: Choose
) -> None:
    choose("ana", Status.GIVEN, NOW - timedelta(days=1))
    first = collector.collect([viewed(1), viewed(2), viewed(1)], now=NOW)
    assert (first.accepted, first.duplicates) == (2, 1)
    assert collector.collect([viewed(2)], now=NOW).duplicates == 1
    assert drain(collector.log, archive, collector.desk.ledger, now=NOW).archived == {"product_viewed": 2}
    assert drain(collector.log, archive, collector.desk.ledger, now=NOW).archived.total() == 0
    assert archive.count("product_viewed") == 2


def test_events_without_consent_are_counted_by_reason_and_kept_nowhere(
    collector: Collector, choose: Choose, redis_server: Settings
) -> None:
    choose("bob", Status.REFUSED, NOW - timedelta(days=1))
    choose("eve", Status.GIVEN, NOW - timedelta(minutes=1))
    found = collector.collect(
        [viewed(1, "bob"), viewed(2, "stranger"), viewed(3, None), viewed(4, "eve", type="nonsense"), viewed(5, "eve")],
        now=NOW,
    )
    assert found.accepted == 0
    assert found.refused == {"refused": 1, "no_record": 1, "no_subject": 1, "before_grant": 1}
    assert isinstance(collector.log, RedisStreamLog)
    assert collector.log.waiting() == 0
    assert [e.user_key for e in collector.rejected.list()] == [collector.pseudonyms.user_key("eve")]
    kept = b"".join(f.read_bytes() for f in redis_server.home.rglob("*") if f.is_file())
    assert b"stranger" not in kept


def test_a_bad_event_of_who_may_not_be_stored_is_counted_and_not_kept(collector: Collector, choose: Choose) -> None:
    choose("bob", Status.REFUSED, NOW - timedelta(days=1))
    found = collector.collect([viewed(n, who, type="nonsense") for n, who in enumerate(("bob", "stranger"))], now=NOW)
    assert (found.accepted, found.rejected.total()) == (0, 2)
    assert collector.rejected.list() == []


def test_an_event_from_before_the_grant_in_force_is_refused_though_an_earlier_one_covered_it(
    collector: Collector, choose: Choose
) -> None:
    choose("ana", Status.GIVEN, NOW - timedelta(days=9))
    choose("ana", Status.WITHDRAWN, NOW - timedelta(days=2))
    choose("ana", Status.GIVEN, NOW - timedelta(minutes=5))
    found = collector.collect([viewed(1, "ana"), viewed(6, "ana"), viewed(9_000, "ana")], now=NOW)
    assert (found.accepted, dict(found.refused)) == (1, {"before_grant": 2})


def test_a_bad_event_is_rejected_with_a_reason_without_its_values_and_the_good_ones_are_kept(
    collector: Collector, choose: Choose
) -> None:
    choose("ana", Status.GIVEN, NOW - timedelta(days=1))
    long = viewed(2, properties={"item_id": "x" * 1_000_000})
    nan = viewed(3, type="product_purchased", properties={"basket_id": 1, "item_id": 2, "quantity": 1, "amount": "NaN"})
    late = viewed(-60)
    unknown = viewed(5, properties={"item_id": "milk", "keystrokes": "secret"})
    found = collector.collect([viewed(1), long, nan, late, unknown, {"type": "product_viewed"}, 7], now=NOW)
    assert found.accepted == 1
    assert sum(found.rejected.values()) == 6
    assert "amount is not a number" in found.rejected
    assert "occurred_at is in the future" in found.rejected
    assert "product_viewed has no field 'keystrokes'" in found.rejected
    assert "secret" not in " ".join(found.rejected)


def test_a_choice_made_after_an_event_was_accepted_counts_when_it_is_archived(
    collector: Collector, archive: Archive, choose: Choose
) -> None:
    choose("ana", Status.GIVEN, NOW - timedelta(days=1))
    collector.collect([viewed(1)], now=NOW)
    choose("ana", Status.WITHDRAWN, NOW)
    done = drain(collector.log, archive, collector.desk.ledger, now=NOW + timedelta(seconds=1))
    assert (done.refused, done.archived.total()) == (1, 0)
    assert archive.types() == []


def test_who_says_yes_while_the_log_is_drained_has_their_events_archived(
    collector: Collector, archive: Archive, choose: Choose
) -> None:
    later = NOW + timedelta(seconds=2)
    choose("ana", Status.REFUSED, NOW - timedelta(days=1))
    choose("ana", Status.GIVEN, NOW + timedelta(seconds=1))
    assert collector.collect([viewed(1, occurred_at=later.isoformat())], now=later).accepted == 1
    assert drain(collector.log, archive, collector.desk.ledger, now=NOW).archived.total() == 1


def test_what_is_kept_from_drain_to_drain_follows_every_choice(collector: Collector, choose: Choose) -> None:
    admitted, key = Admitted(collector.desk.ledger), collector.pseudonyms.user_key("ana")

    def since(at: datetime) -> float | None:
        return admitted.since({"product_viewed"}, now=at)["product_viewed"].get(key)

    choose("ben", Status.GIVEN, NOW - timedelta(days=1))
    assert since(NOW) is None
    choose("ana", Status.REFUSED, NOW - timedelta(days=2))
    assert since(NOW) is None
    given = NOW + timedelta(seconds=1)
    choose("ana", Status.GIVEN, given)
    assert since(NOW) is None  # it begins later
    assert since(given) == given.timestamp() * 1_000_000
    choose("ana", Status.WITHDRAWN, NOW + timedelta(seconds=3))
    assert since(NOW + timedelta(seconds=2)) == given.timestamp() * 1_000_000
    assert since(NOW + timedelta(seconds=3)) is None
    assert since(NOW + timedelta(seconds=2)) is None  # of clocks that differ the latest counts
    choose("ana", Status.GIVEN, NOW + timedelta(seconds=4))
    assert since(NOW + timedelta(seconds=5)) is not None
    assert since(NOW + timedelta(seconds=4) + LONGEST_GRANT) is None  # ran out by itself
    assert since(NOW + timedelta(seconds=5)) is not None  # the clock was set back


def test_events_of_several_partitions_and_clocks_have_nobody_read_twice(
    collector: Collector, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = collector.desk.ledger
    admitted, asked, standing = Admitted(ledger), list[int](), ledger.standing
    choose("ana", Status.GIVEN, NOW - timedelta(days=1))

    def counted(**which: Any) -> Any:
        asked.append(1)
        return standing(**which)

    monkeypatch.setattr(ledger, "standing", counted)
    for later in (0.0, 1.2, 0.9, 1.3, 1.0):
        admitted.since({"product_viewed"}, now=NOW + timedelta(seconds=later))
    assert len(asked) == 1


def test_a_ledger_that_could_not_be_read_is_read_again(
    collector: Collector, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    admitted, key = Admitted(collector.desk.ledger), collector.pseudonyms.user_key("ana")
    choose("ana", Status.GIVEN, NOW - LONGEST_GRANT + timedelta(seconds=1))
    assert key in admitted.since({"product_viewed"}, now=NOW)["product_viewed"]

    def fail(**_: object) -> None:
        raise LedgerUnavailable("The disk is gone.")

    with monkeypatch.context() as broken:
        broken.setattr(collector.desk.ledger, "standing", fail)
        with pytest.raises(LedgerUnavailable):
            admitted.since({"product_viewed"}, now=NOW + timedelta(seconds=1))
    assert key not in admitted.since({"product_viewed"}, now=NOW + timedelta(seconds=1))["product_viewed"]


def test_a_drain_killed_between_archiving_and_letting_go_adds_nothing_twice(
    collector: Collector, archive: Archive, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose("ana", Status.GIVEN, NOW - timedelta(days=1))
    collector.collect([viewed(1), viewed(2)], now=NOW)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(collector.log, "let_go", die)
        with pytest.raises(KeyboardInterrupt):
            drain(collector.log, archive, collector.desk.ledger, now=NOW)
    assert drain(collector.log, archive, collector.desk.ledger, now=NOW).archived.total() == 2
    assert archive.count("product_viewed") == 2


def test_consent_events_go_to_the_ledger_and_are_in_force_for_the_next_event(collector: Collector) -> None:
    granted = viewed(1, type="consent_granted", properties={"purpose": "personalize.profiling"})
    assert collector.collect([granted], now=NOW).choices == 1
    assert collector.collect([viewed(0)], now=NOW).accepted == 1
    withdrawn = viewed(0, type="consent_withdrawn", properties={"purpose": "personalize.profiling"}, id="w")
    collector.collect([withdrawn], now=NOW)
    objected = viewed(0, type="consent_withdrawn", properties={"purpose": "essential.fraud_detection"}, id="o")
    collector.collect([objected], now=NOW)
    assert collector.collect([viewed(0, id="after")], now=NOW + timedelta(seconds=1)).accepted == 0


def test_archived_live_events_carry_the_moment_they_became_available(
    collector: Collector, archive: Archive, choose: Choose
) -> None:
    choose("ana", Status.GIVEN, NOW - timedelta(days=1))
    collector.collect([viewed(30)], now=NOW)
    drain(collector.log, archive, collector.desk.ledger, now=NOW)
    (file,) = archive.files()
    (row,) = archive.read(file).to_pylist()
    assert row["available_at"] - row["occurred_at"] == timedelta(minutes=30)
    assert "ana" not in json.dumps(row, default=str)


def test_erasing_a_person_takes_their_waiting_events_out_of_the_log(collector: Collector, choose: Choose) -> None:
    choose("ana", Status.GIVEN, NOW - timedelta(days=1))
    choose("eve", Status.GIVEN, NOW - timedelta(days=1))
    collector.collect([viewed(1), viewed(2), viewed(3, "eve")], now=NOW)
    assert collector.log.erase(collector.pseudonyms.user_key("ana")) == 2
    assert isinstance(collector.log, RedisStreamLog)
    assert collector.log.waiting() == 1


def test_a_choice_in_a_batch_is_in_force_for_the_events_that_follow_it_there(
    collector: Collector, choose: Choose
) -> None:
    choose("ana", Status.GIVEN, NOW - timedelta(days=1))
    withdrawn = viewed(0, type="consent_withdrawn", properties={"purpose": "personalize.profiling"}, id="w")
    found = collector.collect([viewed(2), withdrawn, viewed(1)], now=NOW)
    assert (found.accepted, found.choices, found.refused) == (1, 1, {"withdrawn": 1})


def test_consent_is_read_once_a_batch(collector: Collector, redis_client: redis.Redis, choose: Choose) -> None:
    choose("ana", Status.GIVEN, NOW - timedelta(days=1))
    redis_client.config_resetstat()
    bad = viewed(9, properties={})
    collector.collect([*(viewed(i) for i in range(8)), *(viewed(i, "stranger") for i in range(8)), bad], now=NOW)
    reads = {name: stats["calls"] for name, stats in redis_client.info("commandstats").items() if "get" in name}
    assert reads == {"cmdstat_mget": 1}
