"""Live events reach the online features once each, whatever happens to the workers, and equal a batch rebuild."""

from __future__ import annotations

from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import yaml

from aap.consent import redis_projection
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.events.archive import Archive
from aap.events.streaming.columns import LoggedEvent
from aap.events.streaming.event_log import RedisStreamLog
from aap.features.declarations import Entity
from aap.features.online import reader
from aap.features.online.reader import erase, to_micros
from aap.features.retrieval import open_retrieval
from aap.features.streaming import sink
from aap.features.streaming.plan import live_plans
from aap.features.views import view_for
from aap.infra.object_store import archive_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect
from aap.jobs.ingest import import_source
from aap.jobs.publish_features import bring_online
from aap.jobs.reports.online_offline_skew import check_consistency
from aap.serving.logging.feature_sampling import SampledFeatures, ServedSample
from tests.parity.live_shop import PURPOSES, LiveShop, purchase
from tests.unit.features.store_room import CUSTOMERS, RETENTION, StoreRoom

ANA, BEA = CUSTOMERS[:2]


@pytest.fixture
def shop(room: StoreRoom) -> LiveShop:
    made = LiveShop(room)
    made.later(minutes=1)
    return made


def burst(shop: LiveShop, count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Purchases of everyone; some out of order, some late by days, some sent twice."""
    random = np.random.default_rng(first + 1)
    made = []
    for i in range(first, first + count):
        late = timedelta(days=int(random.integers(0, 40))) if i % 5 == 0 else timedelta(seconds=i * 37 % 3_000)
        made.append(purchase(i, CUSTOMERS[i % len(CUSTOMERS)], shop.now - late))
    return [*made, *made[::7]]


def test_a_live_event_is_in_the_vector_without_a_build(shop: LiveShop) -> None:
    shop.room.put_online(RETENTION)
    count = view_for(Entity.USER, RETENTION).numbers
    place = next(i for i, f in enumerate(count) if f.name == "basket_count_ever")
    before = shop.room.read(RETENTION, ANA, now=shop.now).values[0, place]
    shop.collect(purchase(1, ANA, shop.now))
    assert shop.settle() == 1
    assert shop.room.read(RETENTION, ANA, now=shop.now).values[0, place] == before + 1


def test_history_and_live_events_together_are_what_a_rebuild_says_now_and_as_time_goes_by(shop: LiveShop) -> None:
    shop.collect(*burst(shop, 80))
    shop.settle()
    shop.assert_as_rebuilt(*CUSTOMERS, purposes=PURPOSES)
    steps: list[dict[str, float]] = [{"hours": 9}, {"days": 6, "hours": 3}, {"days": 20}]
    for step in steps:
        shop.later(**step)
        shop.assert_as_rebuilt(*CUSTOMERS, purposes=PURPOSES)
    shop.collect(*burst(shop, 40, first=500))
    shop.settle()
    shop.assert_as_rebuilt(*CUSTOMERS, purposes=PURPOSES)


def test_events_archived_before_they_were_folded_count_once(shop: LiveShop) -> None:
    shop.worker().step()
    shop.collect(*burst(shop, 40))
    assert shop.drain().archived.total() == 40
    shop.worker("two")
    shop.workers[0].group.leave()
    assert shop.settle() == 40
    shop.assert_as_rebuilt(*CUSTOMERS)


def test_what_was_served_with_events_that_are_not_archived_yet_is_recomputed_with_them(shop: LiveShop) -> None:
    settings = shop.room.settings
    shop.room.put_online(RETENTION)
    shop.collect(purchase(1, ANA, shop.now))
    shop.settle()
    sample = ServedSample(Layout(settings.home).served, rate=1.0)
    SampledFeatures(open_retrieval(settings), sample).online_vectors(
        [shop.room.key(ANA)], service="churn", now=shop.now
    )
    sample.close()
    found = check_consistency(settings, now=shop.now).found
    assert (found.mismatches, found.examples) == (0, ())
    assert found.checked > 20


def held(shop: LiveShop) -> int:
    client = connect(shop.room.settings)
    return sum(client.xlen(f"{{log:{p}}}:events") for p in range(4))


def test_the_drain_keeps_what_was_not_folded_and_lets_go_of_what_was(shop: LiveShop) -> None:
    shop.worker().step()
    log = RedisStreamLog(connect(shop.room.settings))
    shop.collect(*burst(shop, 20))
    shop.drain()
    assert (log.waiting(), held(shop) > 0) == (0, True)
    shop.settle()
    log.trim()
    assert (log.waiting(), held(shop)) == (0, 0)


def test_what_is_archived_is_let_go_of_where_no_worker_is(shop: LiveShop) -> None:
    shop.collect(*burst(shop, 20))
    shop.drain()
    assert held(shop) == 0
    shop.settle()
    shop.assert_as_rebuilt(*CUSTOMERS)


@pytest.mark.parametrize(("archived", "long_ago"), [(False, False), (True, False), (True, True)])
def test_a_worker_killed_half_way_through_its_writes_is_taken_over_and_nothing_is_lost_or_doubled(
    shop: LiveShop, monkeypatch: pytest.MonkeyPatch, *, archived: bool, long_ago: bool
) -> None:
    dies = shop.worker("dies")
    dies.step()
    shop.collect(*burst(shop, 60))

    def half(client: redis.Redis, view: Any, rows: Any) -> tuple[int, int]:
        made = list(chain.from_iterable(rows))
        reader.write(client, view, made[: len(made) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        killed.setattr(sink, "write_many", half)
        dies.step()
    shop.bury(dies, long_ago=long_ago)
    if archived:
        shop.drain()
    shop.worker("takes over", most=7)
    assert shop.settle() == (0 if long_ago else 60)
    shop.assert_as_rebuilt(*CUSTOMERS)


def test_two_workers_share_the_partitions_and_a_third_s_leaving_is_noticed(shop: LiveShop) -> None:
    workers = [shop.worker(name) for name in ("one", "two")]
    for _ in range(3):
        for worker in workers:
            worker.balance()
    assert sorted(len(w.group.partitions) for w in workers) == [2, 2]
    workers[0].group.leave()
    workers[1].balance()
    assert workers[1].group.partitions == {0, 1, 2, 3}


def test_a_worker_that_lost_its_lease_reads_nothing_more(shop: LiveShop) -> None:
    asleep = shop.worker("asleep")
    asleep.step()
    shop.bury(asleep)
    awake = shop.worker("awake")
    awake.step()
    shop.collect(*burst(shop, 16))
    assert asleep.step() == 0
    assert shop.settle() == 16


def test_a_withdrawal_takes_the_live_row_with_it_and_a_new_grant_starts_afresh(shop: LiveShop) -> None:
    shop.collect(purchase(1, ANA, shop.now), purchase(2, BEA, shop.now))
    shop.settle()
    client, key = connect(shop.room.settings), shop.room.key(ANA)
    assert client.exists(*redis_projection.feature_keys(key, RETENTION)) == 2
    shop.later(seconds=1)
    shop.room.say(ANA, RETENTION, Status.WITHDRAWN, at=shop.now)
    assert client.exists(*redis_projection.feature_keys(key, RETENTION)) == 0
    shop.collect(purchase(3, ANA, shop.now))
    shop.settle()
    assert client.exists(*redis_projection.feature_keys(key, RETENTION)) == 0
    shop.later(seconds=1)
    shop.room.say(ANA, RETENTION, Status.GIVEN, at=shop.now)
    shop.later(seconds=1)
    shop.collect(purchase(4, ANA, shop.now), purchase(5, ANA, shop.now - timedelta(days=3)))
    shop.settle()
    shop.assert_as_rebuilt(ANA, BEA)


def test_a_choice_between_computing_and_writing_is_obeyed(shop: LiveShop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.collect(purchase(1, ANA, shop.now))
    real = sink.write_many

    def write(client: redis.Redis, view: Any, rows: Any) -> tuple[int, int]:
        made = list(rows)
        if view.purpose is RETENTION:
            monkeypatch.setattr(sink, "write_many", real)
            shop.later(seconds=1)
            shop.room.say(ANA, RETENTION, Status.WITHDRAWN, at=shop.now)
        return real(client, view, made)

    monkeypatch.setattr(sink, "write_many", write)
    shop.settle()
    assert connect(shop.room.settings).exists(*redis_projection.feature_keys(shop.room.key(ANA), RETENTION)) == 0


def test_a_grant_withdrawn_and_given_again_between_computing_and_writing_is_followed(
    shop: LiveShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.settle()
    shop.collect(purchase(1, ANA, shop.now))
    real = sink.write_many

    def write(client: redis.Redis, view: Any, rows: Any) -> tuple[int, int]:
        made = list(rows)
        if view.purpose is RETENTION:
            monkeypatch.setattr(sink, "write_many", real)
            for status in (Status.WITHDRAWN, Status.GIVEN):
                shop.later(seconds=1)
                shop.room.say(ANA, RETENTION, status, at=shop.now)
            shop.later(seconds=1)
        return real(client, view, made)

    monkeypatch.setattr(sink, "write_many", write)
    shop.settle()
    shop.collect(purchase(2, ANA, shop.now))
    shop.settle()
    shop.assert_as_rebuilt(ANA)


def test_materializing_doesn_t_undo_live_events_that_no_build_has_seen(shop: LiveShop) -> None:
    built = shop.now
    shop.room.build(as_of=built)
    shop.later(seconds=1)
    shop.collect(purchase(1, ANA, shop.now), purchase(2, ANA, shop.now))
    shop.settle()
    shop.later(days=1)
    bring_online(shop.room.settings, as_of=shop.now)
    shop.assert_as_rebuilt(ANA)


def test_a_row_materialized_after_a_worker_s_death_gives_way_to_what_the_log_still_holds(shop: LiveShop) -> None:
    dies = shop.worker("dies")
    dies.step()
    shop.collect(purchase(1, ANA, shop.now))
    dies.step()
    shop.drain()
    shop.later(seconds=1)
    shop.collect(purchase(2, ANA, shop.now))
    dies.step()
    shop.bury(dies)
    shop.later(seconds=1)
    shop.room.build(as_of=shop.now)  # knows nothing of the second
    for purpose in live_plans():
        shop.room.put_online(purpose, as_of=shop.now)
    shop.worker("takes over")
    shop.later(seconds=1)
    shop.settle()
    shop.assert_as_rebuilt(ANA)


def test_an_import_reaches_the_live_features_and_an_id_it_brought_counts_once_when_it_is_also_sent(
    shop: LiveShop, tmp_path: Path
) -> None:
    shop.settle()
    shop.collect(purchase(1, ANA, shop.now))
    shop.settle()
    file, mapping = tmp_path / "till.csv", tmp_path / "till.yaml"
    at = (shop.now - timedelta(days=3)).isoformat()
    file.write_text(
        f"nr,kunde,zeit,bon,artikel,menge,preis\nlive-7,{ANA},{at},t7,i3,2,5.00\nt8,{ANA},{at},t8,i4,1,2.50\n"
    )
    fields = {"basket_id": "bon", "item_id": "artikel", "quantity": "menge", "amount": "preis"}
    told = {"source": "web", "event": "product_purchased", "id": ["nr"], "user_id": "kunde", "occurred_at": "zeit",
            "fields": fields, "consent": {"ledger": True}}  # fmt: skip
    mapping.write_text(yaml.safe_dump(told))
    shop.later(seconds=1)
    assert import_source(shop.room.settings, str(file), mapping=mapping, now=shop.now).accepted == {
        "product_purchased": 2
    }
    shop.later(seconds=1)
    again = shop.collect(purchase(7, ANA, shop.now), purchase(9, ANA, shop.now))
    assert (again.accepted, again.duplicates) == (1, 1)
    shop.settle()
    shop.assert_as_rebuilt(ANA)


def test_erasing_a_person_takes_them_out_of_the_log_and_of_what_workers_know(shop: LiveShop) -> None:
    shop.collect(*burst(shop, 30))
    shop.settle()
    shop.drain()
    shop.collect(*burst(shop, 16, first=100))
    key, log = shop.room.key(ANA), RedisStreamLog(connect(shop.room.settings))
    Archive(archive_folder(shop.room.settings)).erase(key)
    assert log.erase(key) > 0
    erase(connect(shop.room.settings), key)
    shop.settle()
    known = [held.memory for held in shop.workers[-1]._held.values()]
    assert not any(key in memory.keys for memory in known)
    shop.assert_as_rebuilt(*CUSTOMERS[1:])


def test_a_clock_set_back_neither_hides_an_event_nor_stops_the_worker(shop: LiveShop) -> None:
    shop.collect(purchase(1, ANA, shop.now))
    shop.settle()
    for worker in ("the same", "another"):
        shop.later(hours=-1)
        if worker == "another":
            shop.bury(shop.workers[-1])
            shop.worker(worker)
        shop.collect(purchase(10 + len(worker), ANA, shop.now))
        shop.settle()
    shop.later(hours=3)
    shop.settle()
    shop.assert_as_rebuilt(ANA)


def test_an_event_a_year_late_and_one_known_since_before_the_log_remembers(shop: LiveShop) -> None:
    shop.room.say(ANA, Purpose.MARKETING_RETENTION, Status.GIVEN, at=shop.now)
    late = purchase(1, ANA, shop.now - timedelta(days=170))
    shop.collect(late)
    shop.settle()
    shop.drain()
    shop.later(days=36)
    client = connect(shop.room.settings)
    for key in client.scan_iter("{log:*}:ids:*"):
        client.delete(key)  # what Redis does after five weeks
    assert shop.collect(late, purchase(2, ANA, shop.now)).accepted == 2
    shop.settle()
    shop.assert_as_rebuilt(ANA)


def test_ten_thousand_events_of_one_person_in_one_batch(shop: LiveShop) -> None:
    log = RedisStreamLog(connect(shop.room.settings))
    at, key = to_micros(shop.now), shop.room.key(ANA)
    fields = {"basket_id": "b", "item_id": "i", "quantity": 1, "amount": 100, "department": "g"}
    log.append([LoggedEvent("web", f"m{i}", "product_purchased", key, at - i, at, fields) for i in range(10_000)])
    shop.worker(most=20_000)
    assert shop.settle() == 10_000
    shop.assert_as_rebuilt(ANA)


def test_redis_going_away_in_mid_write_loses_nothing(shop: LiveShop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.collect(*burst(shop, 40))
    worker, failed = shop.worker(), []

    def flaky(client: redis.Redis, view: Any, rows: Any) -> tuple[int, int]:
        made = list(chain.from_iterable(rows))
        if len(failed) < 5:
            failed.append(1)
            reader.write(client, view, made[: 1 + len(made) // 3])
            raise redis.exceptions.ConnectionError("gone")
        return reader.write(client, view, made)

    monkeypatch.setattr(sink, "write_many", flaky)
    monkeypatch.setattr("aap.jobs.streaming.worker._AGAIN_S", 0.01)
    worker.run(lambda: worker.folded >= 40)
    shop.assert_as_rebuilt(*CUSTOMERS)


def test_a_damaged_archive_file_is_named_and_live_features_go_on_once_it_is_put_right(shop: LiveShop) -> None:
    archive = shop.room.layout.archive
    file = archive / Archive(archive_folder(shop.room.settings)).files("coupon_redeemed")[0].name
    whole, told = file.read_bytes(), list[str]()
    file.write_bytes(whole[: len(whole) // 2])
    shop.collect(*burst(shop, 16))

    def tell(problem: str) -> None:
        told.append(problem)
        file.write_bytes(whole)

    worker = shop.worker()
    worker.run(lambda: worker.folded >= 16, tell=tell)
    assert file.name in told[0]
    shop.assert_as_rebuilt(*CUSTOMERS)


def test_no_batch_is_too_small_and_no_time_too_long_for_a_timetable(
    shop: LiveShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "_FEW", 2)  # as if these were many people: timetables follow later
    shop.worker().step()
    shop.collect(*burst(shop, 80))
    shop.workers[-1].step()
    shop.assert_as_rebuilt(*CUSTOMERS)
    while shop.workers[-1].tend(busy=False):
        pass
    shop.later(days=8)
    shop.assert_as_rebuilt(*CUSTOMERS)


def test_of_many_people_a_row_that_is_about_to_change_by_itself_has_its_timetable_at_once(
    shop: LiveShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "_FEW", 2)
    shop.now = (shop.now + timedelta(days=1)).replace(hour=23, minute=59, second=30)
    shop.worker().step()
    shop.collect(*burst(shop, 80))
    shop.workers[-1].step()
    shop.later(minutes=1)
    shop.assert_as_rebuilt(*CUSTOMERS)
