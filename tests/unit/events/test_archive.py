"""The archive: batches whole or not at all, files only ever added, and one person can be taken out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from aap.events.archive import Archive
from aap.events.errors import ArchiveDamaged

SEEN = "page_viewed"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "with 'quotes'" / "archive")


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened


def root(archive: Archive) -> Path:
    assert archive.folder.path is not None
    return archive.folder.path


def page_views(
    connection: duckdb.DuckDBPyConnection, *rows: tuple[str, str, str], name: str = "seen"
) -> dict[str, str]:
    """A table of (id, user_key, time) in `connection`."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {name} (source VARCHAR, id VARCHAR, user_key VARCHAR, occurred_at TIMESTAMPTZ, "
        "available_at TIMESTAMPTZ, page VARCHAR, session_id VARCHAR)"
    )
    connection.executemany(
        f"INSERT INTO {name} VALUES ('s', $1, $2, $3, $3, '/', NULL)", [[i, key, at] for i, key, at in rows]
    )
    return {SEEN: name}


def ids(connection: duckdb.DuckDBPyConnection, archive: Archive) -> list[str]:
    return sorted(r[0] for r in connection.execute(f"SELECT id FROM {archive.sql(SEEN, on=connection)}").fetchall())


def test_events_lie_in_the_folder_of_their_day_in_utc(archive: Archive, connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("SET TimeZone = 'Asia/Tokyo'")
    rows = [
        ("1", "a", "2024-02-28 23:59:59.999999+00"),
        ("2", "a", "2024-02-29 00:00:00+00"),
        ("3", "b", "2024-03-01 01:00:00+09"),
    ]
    archive.append(connection, page_views(connection, *rows), batch="one")
    assert sorted(p.name for p in (root(archive) / SEEN).iterdir()) == ["day=2024-02-28", "day=2024-02-29"]
    assert (archive.count(SEEN), archive.types()) == (3, [SEEN])
    found = connection.execute(f"SELECT min(occurred_at) FROM {archive.sql(SEEN, on=connection)}").fetchall()[0][0]
    assert found.astimezone(UTC) == datetime(2024, 2, 28, 23, 59, 59, 999999, tzinfo=UTC)


def test_an_empty_archive_has_the_declared_columns_and_no_rows(
    archive: Archive, connection: duckdb.DuckDBPyConnection
) -> None:
    assert connection.execute(f"SELECT user_key, page FROM {archive.sql(SEEN, on=connection)}").fetchall() == []
    assert (archive.types(), archive.count(SEEN)) == ([], 0)


def test_a_new_batch_adds_files_and_touches_none(archive: Archive, connection: duckdb.DuckDBPyConnection) -> None:
    archive.append(connection, page_views(connection, ("1", "a", "2024-05-01")), batch="one")
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in root(archive).rglob("*.parquet")}
    archive.append(connection, page_views(connection, ("2", "a", "2024-05-01")), batch="two")
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in before} == before
    assert ids(connection, archive) == ["1", "2"]


def test_a_batch_written_again_replaces_itself(archive: Archive, connection: duckdb.DuckDBPyConnection) -> None:
    for _ in range(2):
        archive.append(connection, page_views(connection, ("1", "a", "2024-05-01")), batch="one")
    assert ids(connection, archive) == ["1"]


def test_when_one_type_of_a_batch_cannot_be_written_none_is(
    archive: Archive, connection: duckdb.DuckDBPyConnection
) -> None:
    tables = {**page_views(connection, ("1", "a", "2024-05-01")), "product_viewed": "no_such_table"}
    with pytest.raises(duckdb.Error):
        archive.append(connection, tables, batch="one")
    assert list(root(archive).rglob("*.parquet")) == []


def test_who_is_erased_is_gone_from_every_file_and_the_others_stay(
    archive: Archive, connection: duckdb.DuckDBPyConnection
) -> None:
    rows = [("1", "a", "2024-05-01"), ("2", "b", "2024-05-01"), ("3", "a", "2024-05-02"), ("4", "b", "2024-05-03")]
    archive.append(connection, page_views(connection, *rows), batch="one")
    untouched = root(archive) / SEEN / "day=2024-05-03"
    before = [p.stat().st_ino for p in untouched.iterdir()]
    files = {f.name: f for f in archive.files()}
    rewritten = archive.erase("a")
    assert [f.name.rpartition("/")[0] for f in rewritten] == [f"{SEEN}/day=2024-05-01", f"{SEEN}/day=2024-05-02"]
    assert {f.name: f for f in archive.files()} == files | {f.name: f for f in rewritten.values()}
    assert all(files[was.name] == was != now for was, now in rewritten.items())
    assert ids(connection, archive) == ["2", "4"]
    assert [p.stat().st_ino for p in untouched.iterdir()] == before
    assert archive.erase("a") == {}


def test_a_damaged_file_is_named(archive: Archive, connection: duckdb.DuckDBPyConnection) -> None:
    archive.append(connection, page_views(connection, ("1", "a", "2024-05-01")), batch="one")
    archive.check([SEEN])
    file = next(root(archive).rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(
        ArchiveDamaged, match=r"^The archive file .*day=2024-05-01/one-.*\.parquet can't be read .*import again\.$"
    ):
        archive.check([SEEN])


def test_the_files_hold_microseconds(archive: Archive, connection: duckdb.DuckDBPyConnection) -> None:
    archive.append(connection, page_views(connection, ("1", "a", "2024-05-01")), batch="one")
    kind = pq.read_schema(next(root(archive).rglob("*.parquet"))).field("occurred_at").type
    assert (kind.unit, kind.tz) == ("us", "UTC")
