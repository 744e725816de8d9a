"""Retention: an event goes when no purpose may use it any more, be it by age, by withdrawal or by expiry."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from aap.consent.ledger.records import Entry
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.events.dead_letter import Rejected
from aap.experiments.assignment.exposures import Exposures
from aap.infra.errors import LockHeld
from aap.infra.locks import hold
from aap.infra.redis import connection
from aap.privacy.data_inventory import Holdings
from aap.privacy.erasure import erase
from aap.privacy.retention import retain
from aap.security.audit_log import note_read, reads_of, verify_audit
from aap.security.audit_subjects import Subjects
from tests.shop import CLOSES
from tests.unit.privacy.town import WHO, build_only, holdings, key_of, open_shop

BOUGHT = "product_purchased"


@pytest.fixture
def held(home: Path) -> Iterator[Holdings]:
    """A small shop, a year old."""
    settings = open_shop(home, customers=8)
    made = holdings(settings)
    exposures = Exposures(made.layout.exposures)
    exposures.log(
        key_of(settings),
        flag="recommendation_strategy",
        variant="discover",
        split="buy_again:50,discover:50",
        at=CLOSES,
    )
    exposures.close()
    made.rejected.add([Rejected("collector", BOUGHT, "amount is missing", key_of(settings), {}, CLOSES)])
    yield made
    connection.stop(settings)


def days_of(held: Holdings, key: str) -> list[datetime]:
    return [row["occurred_at"] for row in held.archive.of(key).get(BOUGHT, _empty(held)).to_pylist()]


def _empty(held: Holdings):  # type: ignore[no-untyped-def]
    from aap.events.schema import event_type

    return event_type(BOUGHT).arrow.empty_table()


def test_what_is_older_than_every_purpose_keeps_it_goes_and_the_rest_stays(held: Holdings) -> None:
    key, now = key_of(held.settings), CLOSES + timedelta(days=100)
    before = days_of(held, key)
    counted = retain(held, now=now, dry_run=True)
    assert days_of(held, key) == before, "counting deletes nothing"
    done = retain(held, now=now)
    assert (done.deleted, done.kept) == (counted.deleted, counted.kept)
    assert days_of(held, key) == [day for day in before if day >= now - timedelta(days=365)]
    assert 0 < len(days_of(held, key)) < len(before)
    assert retain(held, now=now).deleted.total() == 0
    build_only(held.settings, now=now)


def test_what_a_withdrawal_leaves_without_a_purpose_goes(held: Holdings) -> None:
    key, other = key_of(held.settings), key_of(held.settings, "client-1")
    entries = [Entry(key, p, Status.WITHDRAWN, CLOSES, "them", "form") for p in Purpose]
    held.desk.record_many(entries, received_at=CLOSES)
    kept = days_of(held, other)
    retain(held, now=CLOSES)
    assert days_of(held, key) == []
    assert days_of(held, other) == kept
    assert not held.id_map.knows(key)
    assert held.id_map.knows(other)


def test_thirteen_months_on_nothing_of_anybody_is_left(held: Holdings) -> None:
    now = CLOSES + timedelta(days=400)
    note_read(held.layout.audit, "vectors", about=[key_of(held.settings)], at=CLOSES)
    assert reads_of(held.layout.audit, key_of(held.settings)) != []
    done = retain(held, now=now)
    assert done.kept.total() == 0
    assert held.archive.types() == []
    assert held.rejected.list() == []
    assert list(held.layout.exposures.rglob("*.parquet")) == []
    assert held.id_map.user_keys() == []
    assert Subjects(held.layout.audit).last_entries() == {}
    assert reads_of(held.layout.audit, key_of(held.settings)) == []
    assert verify_audit(held.layout.audit).problems == ()
    assert WHO.encode() not in held.layout.id_map.read_bytes()


def test_what_a_restored_backup_brings_back_of_somebody_who_was_erased_goes_again(
    held: Holdings, tmp_path: Path
) -> None:
    key, other, layout = key_of(held.settings), key_of(held.settings, "client-1"), held.layout
    note_read(layout.audit, "vectors", about=[key, other], at=CLOSES)
    backed_up = [held.archive.folder.path, layout.exposures, layout.rejected.parent, layout.id_map.parent]
    for number, folder in enumerate(backed_up):
        assert folder is not None
        shutil.copytree(folder, tmp_path / str(number))
    kept, later = days_of(held, other), CLOSES + timedelta(hours=1)
    erase(held, key, now=later, settle_s=0.0)
    for number, folder in enumerate(backed_up):
        assert folder is not None
        shutil.copytree(tmp_path / str(number), folder, dirs_exist_ok=True)
    back = holdings(held.settings)
    assert days_of(back, key)
    assert back.id_map.knows(key)
    assert back.rejected.of(key)
    assert reads_of(layout.audit, key)
    of_others = len(back.rejected.list()) - len(back.rejected.of(key))
    done = retain(back, now=later)
    assert [days_of(back, key), back.id_map.knows(key), back.rejected.of(key)] == [[], False, []]
    assert [reads_of(layout.audit, key), len(reads_of(layout.audit, other))] == [[], 1]
    assert len(back.rejected.list()) == of_others
    assert done.deleted["exposures"] == 1
    assert days_of(back, other) == kept


def test_while_an_import_runs_nothing_is_deleted(held: Holdings) -> None:
    with hold(held.layout.run / "import.lock", what="an import"), pytest.raises(LockHeld):
        retain(held, now=CLOSES)
