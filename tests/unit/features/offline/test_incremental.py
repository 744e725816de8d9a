"""A build computes only what changed since the last one, and leaves the very files that a build from nothing makes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from aap.consent.policy import Grant, Reason, Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.events.errors import ArchiveDamaged
from aap.features.declarations import Aggregate, Entity, Op
from aap.features.offline import build as building, store
from aap.features.offline.build import Built, Standing, build, build_one
from aap.features.offline.store import built_view
from aap.features.views import View, all_views, make_views, view_for
from aap.infra.object_store import Folder, archive_folder, features_folder
from tests.unit.features.store_room import AS_OF, COLUMNS, RETENTION, SALES, StoreRoom

PROFILE = Purpose.PERSONALIZE_PROFILING
NEXT_DAY = AS_OF + timedelta(days=1)
ITEMS = view_for(Entity.ITEM, PROFILE)


def files(folder: Path) -> dict[str, bytes]:
    """What counts of the builds below `folder`: every view's record and the files it names."""
    found = {}
    for view in all_views():
        built = built_view(Folder.at(folder), view)
        for name in (store.RECORD, built.spans.name, *(p.name for p in built.pieces)):
            found[f"{view.name}/{name}"] = (folder / view.name / name).read_bytes()
    return found


def from_nothing(room: StoreRoom, folder: Path, *, as_of: datetime) -> dict[str, bytes]:
    build(
        archive=Archive(archive_folder(room.settings)), folder=folder,
        standing=open_ledger(room.settings).standing(), as_of=as_of,
    )  # fmt: skip
    return files(folder)


def by_view(made: list[Built]) -> dict[str, Built]:
    return {b.view: b for b in made}


def sell(room: StoreRoom, *rows: tuple[str, str, datetime, datetime], now: datetime) -> None:
    """Import lines of (customer, item, occurred, received)."""
    lines = [
        (who, f"new-{i}", item, 1, "2.50", at.isoformat(), came.isoformat(), "g1", "l1", "")
        for i, (who, item, at, came) in enumerate(rows)
    ]
    name = f"sales-{now:%d%H%M}.csv"
    room.shop.bring(room.shop.csv(lines, columns=COLUMNS, name=name), SALES, now=now)


def test_a_day_more_is_the_work_of_those_it_touches_and_the_files_of_a_build_from_nothing(
    room: StoreRoom, tmp_path: Path
) -> None:
    """Late lines, a withdrawal, and a grant taken back and given again, all on one day."""
    hour = timedelta(hours=1)
    sell(
        room,
        ("customer-0", "i1", NEXT_DAY - 3 * hour, NEXT_DAY - 3 * hour),
        ("customer-1", "i2", AS_OF - timedelta(days=40), NEXT_DAY - 2 * hour),
        ("refuser", "i3", NEXT_DAY - 3 * hour, NEXT_DAY - 3 * hour),
        now=NEXT_DAY,
    )
    room.say("customer-2", RETENTION, Status.WITHDRAWN, at=AS_OF + hour)
    room.say("customer-3", RETENTION, Status.WITHDRAWN, at=AS_OF + hour)
    room.say("customer-3", RETENTION, Status.GIVEN, at=AS_OF + 2 * hour)
    before = built_view(features_folder(room.settings), view_for(Entity.USER, RETENTION))
    made = by_view(room.build(as_of=NEXT_DAY))
    assert files(room.layout.features) == from_nothing(room, tmp_path / "fresh", as_of=NEXT_DAY)
    retention, profiling = made[f"user__{RETENTION.replace('.', '_')}"], made["user__personalize_profiling"]
    assert (retention.computed, retention.why) == (3, ""), "two who bought, one who granted again; nobody else"
    assert retention.entities == before.entities - 1, "and the one who withdrew is gone"
    assert profiling.computed == 2
    assert made[ITEMS.name].computed == 2, "the two items they bought: profiling is allowed by all who bought"


def test_when_nothing_happened_nothing_is_computed_and_the_rows_hold_on(room: StoreRoom, tmp_path: Path) -> None:
    before = files(room.layout.features)
    later = AS_OF + timedelta(days=20)
    made = room.build(as_of=later)
    assert [b.computed for b in made] == [0] * len(made)
    after = files(room.layout.features)
    assert {n for n in after if after[n] != before.get(n)} == {n for n in after if n.endswith("built.json")}
    assert after == from_nothing(room, tmp_path / "fresh", as_of=later)


def test_a_person_s_withdrawal_recomputes_all_items_they_bought_and_no_other(room: StoreRoom, tmp_path: Path) -> None:
    sell(room, ("customer-0", "only-theirs", AS_OF, AS_OF), ("customer-1", "not-theirs", AS_OF, AS_OF), now=NEXT_DAY)
    room.build(as_of=NEXT_DAY)
    room.say("customer-0", PROFILE, Status.WITHDRAWN, at=NEXT_DAY)
    made = by_view(room.build(as_of=NEXT_DAY))
    bought = {e[0] for e in room.shop.events(columns="item_id, user_key") if e[1] == room.key("customer-0")}
    assert {"only-theirs"} < bought
    assert made[ITEMS.name].computed == len(bought) - 1, "what only they bought is not known any more"
    assert made["user__marketing_retention"].computed == 0
    assert files(room.layout.features) == from_nothing(room, tmp_path / "fresh", as_of=NEXT_DAY)


def test_a_file_whose_bucket_nobody_touched_is_not_written_again(room: StoreRoom) -> None:
    view = view_for(Entity.USER, RETENTION)
    before = {p.name for p in room.built(view).pieces}
    sell(room, ("customer-0", "i1", AS_OF, AS_OF), now=NEXT_DAY)
    room.build(as_of=NEXT_DAY)
    after = {p.name for p in room.built(view).pieces}
    assert len(after - before) == 1
    assert len(before & after) == len(before) - 1 > 0


@pytest.mark.spark
def test_spark_carries_on_what_duckdb_built_and_the_other_way_round(
    room: StoreRoom, tmp_path: Path, spark: building.Engine
) -> None:
    sell(room, ("customer-0", "i1", AS_OF, AS_OF), now=NEXT_DAY)
    made = by_view(room.build(as_of=NEXT_DAY, engine=spark))
    assert made["user__marketing_retention"].computed == 1
    assert files(room.layout.features) == from_nothing(room, tmp_path / "fresh", as_of=NEXT_DAY)


def test_readers_of_the_build_before_find_its_files_until_the_next(room: StoreRoom) -> None:
    view = view_for(Entity.USER, RETENTION)
    held = room.built(view)
    for day in (1, 2):
        at = AS_OF + timedelta(days=day)
        assert held.whole()
        sell(room, ("customer-0", "i1", at, at), now=at)
        room.build(as_of=at)
    assert not held.whole()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda f: f.unlink(), "files of the last build are missing or damaged"),
        (lambda f: f.write_bytes(f.read_bytes()[:-9]), "files of the last build are missing or damaged"),
        (lambda f: f.with_name("built.json").write_bytes(b'{"made_by": '), ""),
    ],
    ids=["a file is gone", "a file is torn", "the record is torn"],
)
def test_a_damaged_build_is_built_anew_and_says_so(room: StoreRoom, damage: object, why: str) -> None:
    before = files(room.layout.features)
    view = view_for(Entity.USER, RETENTION)
    damage(room.layout.features / view.name / room.built(view).pieces[0].name)  # type: ignore[operator]
    made = by_view(room.build())
    assert why in made[view.name].why
    assert bool(why) == bool(made[view.name].why)
    assert made[view.name].computed == made[view.name].entities
    assert files(room.layout.features) == before
    assert sum(b.computed for b in made.values()) == made[view.name].computed, "no other view was computed"


def test_a_file_that_kept_its_size_but_not_its_content_is_found_when_it_is_to_be_used(room: StoreRoom) -> None:
    view = view_for(Entity.USER, RETENTION)
    (piece,) = [
        p for p in room.built(view).pieces
        if room.key("customer-0") in room.built(view).rows_of(p)["user_key"].to_pylist()
    ]  # fmt: skip
    file = room.layout.features / view.name / piece.name
    file.write_bytes(bytes(piece.size))
    sell(room, ("customer-0", "i1", AS_OF, AS_OF), now=NEXT_DAY)
    made = by_view(room.build(as_of=NEXT_DAY))[view.name]
    assert made.why == "Built anew: files of the last build are damaged."
    assert made.computed == made.entities


def test_what_a_build_from_nothing_would_see_otherwise_is_built_anew_and_says_why(
    room: StoreRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = by_view(room.build(as_of=AS_OF - timedelta(days=3)))["user__marketing_retention"]
    assert back.why == "Built anew: the last build is as of 2024-06-30 15:45, later than this one."
    assert Archive(archive_folder(room.settings)).erase(room.key("customer-1"))
    erased = by_view(room.build())["user__marketing_retention"]
    assert erased.why == "Built anew: files of the archive were replaced or removed since the last build."
    monkeypatch.setattr(store, "_LAYOUT", 99)
    assert {b.why for b in room.build()} == {"Built anew: the layout changed since the last build."}
    for view in all_views():
        monkeypatch.setitem(view.__dict__, "fingerprint", 7)
    assert {b.why for b in room.build()} == {"Built anew: the declarations changed since the last build."}


def test_a_torn_archive_file_is_named_and_the_build_before_stays(room: StoreRoom) -> None:
    before = files(room.layout.features)
    sell(room, ("customer-0", "i1", AS_OF, AS_OF), now=NEXT_DAY)
    (new,) = (f for f in room.layout.archive.rglob("*.parquet") if "20240701" in f.name)
    new.write_bytes(new.read_bytes()[:-5])
    with pytest.raises(ArchiveDamaged, match=new.name):
        room.build(as_of=NEXT_DAY)
    assert files(room.layout.features) == before


ORIGIN = datetime(2024, 3, 1, tzinfo=UTC)
"""The law, on random histories: whatever was built in between, the end is the same."""
EVENT = "page_viewed"


def a_view(entity: Entity) -> View:
    (view,) = make_views(
        Aggregate(
            event="product_purchased", op=op, column=column, window=window, purposes=frozenset({PROFILE}), entity=entity,
            description="d", unit="u", default=None if op not in (Op.COUNT, Op.SUM, Op.DISTINCT) else 0.0, n=n,
        )
        for op, column, window, n in [
            (Op.COUNT, None, "2d", 0), (Op.SUM, "amount", "ever", 0), (Op.MEAN, "quantity", "5d", 0),
            (Op.MAX, "amount", "3d", 0), (Op.DISTINCT, "basket_id", "4d", 0), (Op.SINCE_LAST, None, "ever", 0),
            (Op.SINCE_NTH_DAY, None, "ever", 3),
        ]
    )  # fmt: skip
    return view


@st.composite
def stages(draw: st.DrawFn) -> list[tuple[float, list[tuple[str, str, float, float]], dict[str, tuple[float, float]]]]:
    """Up to four moments of building (days), what came into the archive before each, and who then allows it from when."""
    made, at = [], 0.0
    days = st.integers(0, 120).map(lambda q: q / 4)
    for _ in range(draw(st.integers(2, 4))):
        at += draw(st.sampled_from([0.0, 0.25, 1.0, 7.0]))
        came = draw(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), days, days), max_size=6))
        grants = draw(st.dictionaries(st.sampled_from("abc"), st.tuples(days, st.sampled_from([4.0, 90.0]))))
        made.append((at, [(p, i, min(o, a), max(o, a)) for p, i, o, a in came], grants))
    return made


@hypothesis_settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(stages(), st.sampled_from(Entity))
def test_however_many_builds_there_were_the_last_leaves_the_same_files(
    tmp_path_factory: pytest.TempPathFactory,
    told: list[tuple[float, list[tuple[str, str, float, float]], dict[str, tuple[float, float]]]],
    entity: Entity,
) -> None:
    import duckdb
    import pyarrow as pa

    from aap.events.schema import event_type

    folder, view = tmp_path_factory.mktemp("law"), a_view(entity)
    archive = Archive(folder / "archive")
    number = 0
    for stage, (at, came, grants) in enumerate(told):
        rows = []
        for person, item, occurred, available in came:
            number += 1
            known = {"basket_id": f"b{number % 3}", "item_id": item, "quantity": number % 4, "amount": number * 37}
            times = [ORIGIN + timedelta(days=d) for d in (occurred, available)]
            rows.append({"source": "s", "id": str(number), "user_key": person, "occurred_at": times[0],
                         "available_at": times[1], **known})  # fmt: skip
        schema = event_type("product_purchased").arrow
        with duckdb.connect() as connection:
            connection.register("came", pa.Table.from_pylist(rows, schema=schema))
            if rows:
                archive.append(connection, {"product_purchased": "came"}, batch=f"batch{stage}")
        as_of = ORIGIN + timedelta(days=at)
        standing: Standing = {
            person: {PROFILE: ([_grant(person, start, length)], Reason.NOT_GRANTED)}
            for person, (start, length) in grants.items()
        }
        build_one(view, archive=archive, folder=folder / "often", standing=standing, as_of=as_of)
    build_one(view, archive=archive, folder=folder / "once", standing=standing, as_of=as_of)
    often, once = (built_view(Folder.at(folder / name), view) for name in ("often", "once"))
    assert often.record() == once.record()
    assert once.whole()
    assert often.whole()


def _grant(person: str, start: float, length: float) -> Grant:
    begins = ORIGIN + timedelta(days=start)
    return Grant(person, PROFILE, begins, begins + timedelta(days=length), Reason.WITHDRAWN)
