"""A large archive is computed in slices of its entities: the files are the same, and the archive is read once a view."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.features.declarations import Aggregate, Entity, Op
from aap.features.engines.base import DuckDBBatch, Engine
from aap.features.engines.spark import SparkBatch
from aap.features.offline import build as building
from aap.features.offline.build import build_one
from aap.features.offline.store import built_view, events_of
from aap.features.views import View, columns_read, make_views, view_for
from aap.infra.object_store import Folder, archive_folder
from tests.unit.features.store_room import AS_OF, REPORTING, RETENTION, StoreRoom

PEOPLE = view_for(Entity.USER, RETENTION)
ITEMS = view_for(Entity.ITEM, Purpose.PERSONALIZE_PROFILING)
BOUGHT = "product_purchased"


def built_from(room: StoreRoom, archive: Archive, view: View, folder: Path, *, engine: Engine) -> dict[str, int]:
    """The files that `view` is built to from nothing, with how many rows each has; they are named after their content."""
    build_one(
        view, archive=archive, folder=folder, standing=open_ledger(room.settings).standing(), as_of=AS_OF, engine=engine
    )
    return {p.name: p.rows for p in built_view(Folder.at(folder), view).pieces}


@pytest.mark.parametrize("view", [PEOPLE, ITEMS], ids=lambda v: v.name)
def test_in_slices_the_archive_is_read_before_the_first_and_never_again(
    room: StoreRoom, tmp_path: Path, engine: Engine, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone once the first is computed, and the files are those of everything computed at once."""
    whole = {p.name: p.rows for p in room.built(view).pieces}
    assert len(whole) > 3
    where = tmp_path / "archive"
    shutil.copytree(room.layout.archive, where)
    archive = Archive(replace(Folder.at(where), seal=archive_folder(room.settings).seal))
    computed: list[str] = []
    write_view = building.write_view

    def one_slice(*given: object, buckets: str, **named: object) -> None:
        write_view(*given, buckets=buckets, **named)  # type: ignore[arg-type]
        shutil.rmtree(where, ignore_errors=True)
        computed.append(buckets)

    monkeypatch.setattr(building, "write_view", one_slice)
    size = sum(f.size for f in archive.files(*events_of(view)))
    for kind in (DuckDBBatch, SparkBatch):
        monkeypatch.setattr(kind, "at_once", size // 2 + 1)
    assert built_from(room, archive, view, tmp_path / "sliced", engine=engine) == whole
    assert computed == ["01234567", "89abcdef"]


def test_a_column_that_no_feature_of_the_view_needs_is_not_read(room: StoreRoom, tmp_path: Path) -> None:
    """It may be damaged in every file; not so one that a feature needs."""
    view = view_for(Entity.USER, REPORTING)
    whole = {p.name: p.rows for p in room.built(view).pieces}
    needed = {*columns_read(view, BOUGHT), "user_key", "occurred_at", "available_at"}
    archive = Archive(archive_folder(room.settings))
    _damage(room, archive, but=needed)
    assert built_from(room, archive, view, tmp_path / "again", engine=building.duckdb_engine) == whole
    _damage(room, archive, but=needed - {"amount"})
    with pytest.raises(duckdb.Error, match="page header"):
        built_from(room, archive, view, tmp_path / "broken", engine=building.duckdb_engine)


def test_columns_are_those_of_features_and_their_conditions_and_of_the_order_where_it_matters() -> None:
    ever = {"event": BOUGHT, "purposes": frozenset({RETENTION}), "unit": "x", "description": "x"}
    last = Aggregate(op=Op.LAST, column="amount", default=None, **ever)  # type: ignore[arg-type]
    listed = Aggregate(op=Op.LAST_N, column="item_id", n=3, default=None, **ever)  # type: ignore[arg-type]
    (view,) = make_views([last, listed])
    assert columns_read(view, BOUGHT) == ["amount", "id", "source"]
    assert columns_read(view, "coupon_redeemed") == []
    assert columns_read(ITEMS, BOUGHT) == ["amount", "quantity", "user_key"]
    assert {"weekday", "hour", "amount"} < set(columns_read(PEOPLE, BOUGHT))
    assert not {"id", "source", "category"} & set(columns_read(PEOPLE, BOUGHT))


def _damage(room: StoreRoom, archive: Archive, *, but: set[str]) -> None:
    """Overwrite what every file of purchases holds of all other columns."""
    for file in archive.files(BOUGHT):
        with archive.folder.parquet_file(file.name) as opened:
            groups = [opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups)]
        with (room.layout.archive / file.name).open("r+b") as content:
            for column in (group.column(i) for group in groups for i in range(group.num_columns)):
                if column.path_in_schema not in but:
                    content.seek(min(filter(None, (column.dictionary_page_offset, column.data_page_offset))))
                    content.write(bytes(column.total_compressed_size))
