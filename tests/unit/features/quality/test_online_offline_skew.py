"""What was served is recomputed exactly; what isn't right is found, what is merely old is told apart."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from aap.consent.policy import Status
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.features.declarations import Entity
from aap.features.errors import NothingToVerify, SampleDamaged
from aap.features.feast.store import apply, materialize
from aap.features.online import reader
from aap.features.online.row_codec import consent_size, stored_size
from aap.features.quality.online_offline_skew import Consistency, check
from aap.features.quality.served_vectors import Served
from aap.features.views import View, services, view_for
from aap.infra.object_store import archive_folder
from aap.infra.redis.connection import connect
from aap.serving.logging.feature_sampling import SampledFeatures, ServedSample
from tests.unit.features.store_room import AS_OF, COLUMNS, CUSTOMERS, RETENTION, SALES, StoreRoom

Serve = Callable[..., None]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
EVERYBODY = (*CUSTOMERS, "no-training", "refuser")
SERVICES = tuple(services())


@pytest.fixture
def shelf(room: StoreRoom) -> StoreRoom:
    """The shop with its features online."""
    for purpose in {s.purpose for s in services().values()}:
        room.put_online(purpose)
    return room


@pytest.fixture
def serve(shelf: StoreRoom) -> Serve:
    """Serve vectors at a moment, by the door the service uses, all of them kept."""

    def ask(*users: str, at: datetime, of: tuple[str, ...] = SERVICES) -> None:
        sample = ServedSample(shelf.layout.served, rate=1.0, every_s=60)
        features = SampledFeatures(shelf.door(), sample)
        for service in of:
            features.online_vectors(shelf.keys(*users), service=service, now=at)
        sample.close()

    return ask


def sample(room: StoreRoom, *, days: int = 30) -> Served:
    return Served(room.layout.served, timedelta(days=days))


def usable(room: StoreRoom, *, now: datetime, days: int = 30) -> list[tuple[str, str]]:
    rows = sample(room, days=days).usable(standing=open_ledger(room.settings).standing(), now=now)
    return list(zip(rows["user_key"].to_pylist(), rows["service"].to_pylist(), strict=True))


def checked(room: StoreRoom, *, now: datetime, most: int = 1_000) -> Consistency:
    rows = sample(room).usable(standing=open_ledger(room.settings).standing(), now=now)
    return check(rows, Archive(archive_folder(room.settings)), most=most)


def values_of(room: StoreRoom, user: str, view: View) -> np.ndarray:
    return reader.read(connect(room.settings), view, room.keys(user), purposes=[view.purpose], now=AS_OF).values[0]


def altered(room: StoreRoom, user: str, feature: str, factor: float) -> None:
    """Alter one stored number behind everyone's back."""
    view, client = view_for(Entity.USER, RETENTION), connect(room.settings)
    (row,) = (r for r in room.rows(view) if r.user_key == room.key(user))
    numbers = np.frombuffer(row.row[: stored_size(view) - consent_size(view)], "<f8").copy()
    numbers[-len(view.numbers) + view.names.index(feature)] *= factor
    changed = reader.OnlineRow(row.user_key, numbers.tobytes(), row.timetable, row.as_of + 1, row.grant_start)
    assert reader.write(client, view, [changed]) == (1, 0)
    assert not np.isnan(values_of(room, user, view)[view.names.index(feature)])


def test_every_value_served_at_any_moment_is_recomputed_exactly(shelf: StoreRoom, serve: Serve) -> None:
    for after in (timedelta(0), timedelta(microseconds=1), HOUR, 9 * HOUR, 3 * DAY + HOUR, 12 * DAY, 30 * DAY):
        serve(*EVERYBODY, at=AS_OF + after)
    found = checked(shelf, now=AS_OF + 30 * DAY)
    named = {(s.name, f) for s in services().values() for f in (*s.features, *s.sequences)}
    assert {(f.service, f.feature) for f in found.features} == named
    assert (found.mismatches, found.missing, found.examples) == (0, 0, ())
    assert found.checked > 2_000
    assert max(f.relative_error for f in found.features) < 1e-12


def test_a_wrong_value_is_found_and_told_without_naming_the_person(shelf: StoreRoom, serve: Serve) -> None:
    altered(shelf, "customer-3", "amount_sum_90d", 1.5)
    serve(*CUSTOMERS, at=AS_OF + HOUR, of=("churn",))
    found = checked(shelf, now=AS_OF + HOUR)
    (wrong,) = (f for f in found.features if f.mismatches)
    assert (wrong.feature, wrong.mismatches, wrong.mismatch_share) == ("amount_sum_90d", 1, 1 / 8)
    assert wrong.relative_error == pytest.approx(0.4 / 8)
    assert found.examples[0].startswith("churn.amount_sum_90d served at 2024-06-30 16:45:30 UTC was ")
    assert shelf.key("customer-3") not in found.examples[0]


def test_a_value_that_is_only_old_is_no_mismatch_but_is_told(shelf: StoreRoom, serve: Serve) -> None:
    at = (AS_OF + HOUR).isoformat()
    row = ("customer-0", "new", "i1", 1, "5.00", at, at, "g1", "l1", "")
    shelf.shop.bring(shelf.shop.csv([row], columns=COLUMNS), SALES, now=AS_OF + 2 * HOUR)
    serve(*CUSTOMERS, at=AS_OF + 3 * HOUR, of=("churn", "recommendation"))
    found = checked(shelf, now=AS_OF + 3 * HOUR)
    assert found.mismatches == 0
    outdated = {(f.service, f.feature): f.outdated for f in found.features if f.outdated}
    assert set(outdated.values()) == {1}
    assert {("churn", "amount_sum_7d"), ("recommendation", "product_last_1000")} <= set(outdated)
    assert {s.median for s in found.staleness} == {3 / 24}


def test_a_row_knows_no_more_than_its_build_however_late_it_is_brought_online(shelf: StoreRoom, serve: Serve) -> None:
    at = (AS_OF + HOUR).isoformat()
    row = ("customer-0", "new", "i1", 1, "5.00", at, at, "g1", "l1", "")
    shelf.shop.bring(shelf.shop.csv([row], columns=COLUMNS), SALES, now=AS_OF + 2 * HOUR)
    apply(shelf.settings)
    materialize(shelf.settings, as_of=AS_OF + 3 * HOUR)
    serve(*CUSTOMERS, at=AS_OF + 4 * HOUR, of=("churn", "recommendation"))
    assert checked(shelf, now=AS_OF + 4 * HOUR).mismatches == 0


def test_a_clock_set_back_makes_no_mismatch(shelf: StoreRoom, serve: Serve) -> None:
    serve(*CUSTOMERS, at=AS_OF - 2 * DAY, of=("churn",))
    assert checked(shelf, now=AS_OF).mismatches == 0


def test_what_is_not_there_is_missing_not_mismatched(shelf: StoreRoom, serve: Serve) -> None:
    reader.erase(connect(shelf.settings), shelf.key("customer-0"))
    serve(*CUSTOMERS, at=AS_OF + 20 * DAY, of=("churn",))
    serve(*CUSTOMERS, at=AS_OF + 36 * DAY, of=("segments", "recommendation"))
    found = checked(shelf, now=AS_OF + 36 * DAY)
    assert {(f.service, f.served, f.compared, f.missing) for f in found.features} == {
        ("churn", 8, 7, 1), ("segments", 8, 0, 8), ("recommendation", 8, 0, 8),
    }  # fmt: skip
    size = {name: len(s.features) + len(s.sequences) for name, s in services().items()}
    missing = size["churn"] + 8 * (size["segments"] + size["recommendation"])
    assert (found.mismatches, found.missing) == (0, missing)


def test_nothing_is_kept_of_whom_consent_denied(shelf: StoreRoom, serve: Serve) -> None:
    serve("refuser", "customer-0", at=AS_OF + HOUR, of=("churn",))
    assert usable(shelf, now=AS_OF + HOUR) == [(shelf.key("customer-0"), "churn")]
    assert sample(shelf).count() == 1


def test_a_withdrawal_takes_its_own_vectors_out_for_good(shelf: StoreRoom, serve: Serve) -> None:
    serve("customer-0", "customer-1", at=AS_OF + HOUR, of=("churn", "segments"))
    shelf.say("customer-0", RETENTION, Status.WITHDRAWN, at=AS_OF + 2 * HOUR)
    left = {(shelf.key("customer-0"), "segments"), *((shelf.key("customer-1"), s) for s in ("churn", "segments"))}
    assert set(usable(shelf, now=AS_OF + 2 * HOUR)) == left
    shelf.say("customer-0", RETENTION, Status.GIVEN, at=AS_OF + 3 * HOUR)
    assert set(usable(shelf, now=AS_OF + 4 * HOUR)) == left, "a new grant brings nothing back"
    standing = open_ledger(shelf.settings).standing()
    assert sample(shelf).sweep(standing=standing, now=AS_OF + 4 * HOUR) == 1
    assert sample(shelf).sweep(standing=standing, now=AS_OF + 4 * HOUR) == 0
    assert sample(shelf).count() == 3


def test_a_person_is_erased_and_old_rows_go_by_themselves(shelf: StoreRoom, serve: Serve) -> None:
    serve("customer-0", "customer-1", at=AS_OF + HOUR, of=("churn",))
    serve("customer-1", at=AS_OF + 9 * DAY, of=("churn",))
    assert sample(shelf).erase(shelf.key("customer-0")) == 1
    assert not any(
        shelf.key("customer-0") in pq.read_table(f, partitioning=None)["user_key"].to_pylist()
        for f in shelf.layout.served.rglob("*.parquet")
    )
    assert len(usable(shelf, now=AS_OF + 9 * DAY, days=7)) == 1
    standing = open_ledger(shelf.settings).standing()
    assert sample(shelf, days=7).sweep(standing=standing, now=AS_OF + 9 * DAY) == 1
    assert [p.parent.name for p in shelf.layout.served.rglob("*.parquet")] == ["day=2024-07-09"]


def test_vectors_of_other_declarations_are_left_out_and_counted(
    shelf: StoreRoom, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(*CUSTOMERS, at=AS_OF + HOUR, of=("churn", "segments"))
    for service in services().values():
        monkeypatch.setitem(view_for(Entity.USER, service.purpose).__dict__, "fingerprint", 7)
    found = checked(shelf, now=AS_OF + HOUR)
    assert (found.checked, found.other_declarations) == (0, 16)


def test_no_more_vectors_than_asked_for_are_recomputed_spread_over_their_time(shelf: StoreRoom, serve: Serve) -> None:
    for day in range(4):
        serve(*CUSTOMERS, at=AS_OF + day * DAY, of=("churn",))
    found = checked(shelf, now=AS_OF + 4 * DAY, most=5)
    assert {f.served for f in found.features} == {5}
    assert found.staleness[0].longest == 3.0


def test_with_nothing_kept_there_is_nothing_to_vouch_for(shelf: StoreRoom) -> None:
    with pytest.raises(NothingToVerify, match="none was served, or AAP_SERVED_SAMPLE_RATE is too low"):
        checked(shelf, now=AS_OF)


def test_a_damaged_file_of_the_sample_is_named_with_what_to_do(shelf: StoreRoom, serve: Serve) -> None:
    serve("customer-0", at=AS_OF, of=("churn",))
    (file,) = Path(shelf.layout.served).rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(SampleDamaged, match=f"{file.name} can't be read .* delete it"):
        usable(shelf, now=AS_OF)
