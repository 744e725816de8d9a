"""Who is erased is in no file of offline values, and the next build goes on as if they had never been there."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq

from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.features.declarations import Entity
from aap.features.offline.erasure import forget, recompute
from aap.features.offline.store import last_build
from aap.features.views import all_views, view_for
from aap.infra.object_store import StoredFile, archive_folder, features_folder
from tests.unit.features.offline.test_incremental import NEXT_DAY, by_view, files, from_nothing, sell
from tests.unit.features.store_room import AS_OF, RETENTION, StoreRoom

WHO = "customer-1"


def erase(room: StoreRoom, *, rewritten: dict[StoredFile, StoredFile] | None = None) -> None:
    """What an erasure does to events, consent and offline values; `rewritten`, if the archive's word of it was lost."""
    for purpose in Purpose:
        room.say(WHO, purpose, Status.WITHDRAWN, at=AS_OF)
    archive, folder = Archive(archive_folder(room.settings)), features_folder(room.settings)
    told = archive.erase(room.key(WHO))
    assert told
    forget(folder, room.key(WHO), rewritten=told if rewritten is None else rewritten)
    recompute(folder, archive=archive, standing=open_ledger(room.settings).standing(in_force_at=AS_OF))


def holding(room: StoreRoom) -> list[Path]:
    """Every file below the features that knows them."""
    key = room.key(WHO)
    tables = ((f, pq.read_table(f, partitioning=None)) for f in sorted(room.layout.features.rglob("*.parquet")))
    return [f for f, t in tables if "user_key" in t.column_names and key in t["user_key"].to_pylist()]


def test_not_even_the_files_of_the_build_before_know_them(room: StoreRoom) -> None:
    sell(room, (WHO, "i1", AS_OF, AS_OF), now=NEXT_DAY)
    room.build(as_of=NEXT_DAY)
    views = {f.parent.name for f in holding(room)}
    assert {"user__marketing_retention", "item__personalize_profiling"} <= views
    erase(room)
    assert holding(room) == []


def test_the_next_build_computes_what_is_new_and_leaves_the_files_of_one_from_nothing(
    room: StoreRoom, tmp_path: Path
) -> None:
    erase(room)
    assert files(room.layout.features) == from_nothing(room, tmp_path / "same", as_of=AS_OF), "at once"
    sell(room, ("customer-0", "i1", NEXT_DAY - timedelta(hours=1), NEXT_DAY - timedelta(hours=1)), now=NEXT_DAY)
    made = by_view(room.build(as_of=NEXT_DAY))
    retention = made["user__marketing_retention"]
    assert (retention.computed, retention.why) == (1, "")
    assert files(room.layout.features) == from_nothing(room, tmp_path / "fresh", as_of=NEXT_DAY)


def test_when_the_word_of_the_archive_was_lost_the_next_build_computes_everything(
    room: StoreRoom, tmp_path: Path
) -> None:
    erase(room, rewritten={})
    assert holding(room) == []
    made = by_view(room.build(as_of=NEXT_DAY))["user__marketing_retention"]
    assert made.why == "Built anew: files of the archive were replaced or removed since the last build."
    assert files(room.layout.features) == from_nothing(room, tmp_path / "fresh", as_of=NEXT_DAY)


def test_what_cannot_be_carried_on_is_deleted_whole(room: StoreRoom) -> None:
    damaged, folder = view_for(Entity.USER, RETENTION), features_folder(room.settings)
    (room.layout.features / damaged.name / room.built(damaged).pieces[0].name).unlink()
    (room.layout.features / "user__dropped").mkdir()
    (room.layout.features / "user__dropped" / "0-1.parquet").write_bytes(b"of a view that is declared no more")
    erase(room)
    assert not (room.layout.features / "user__dropped").exists()
    assert [v.name for v in all_views() if last_build(folder, v) is None] == [damaged.name]
    room.build()
    assert room.built(damaged).rows > 0
    assert holding(room) == []
