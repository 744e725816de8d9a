"""The sealed archive: no value can be read from its bytes, the same rows come out of every door, and keys may change."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from aap.events.archive import Archive
from aap.events.schema import event_type
from aap.infra.errors import KeyFileError
from aap.infra.keyring import LIFETIME, Keyring
from aap.infra.object_store import Folder
from aap.infra.parquet_encryption import Seal

BOUGHT = "product_purchased"
NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
AMOUNT = 7_305_119_822_340_466
"""In minor units; its eight bytes are found in an open file, and by chance in no other."""


class Vault:
    """An archive under a keyring, at a moment that can be moved."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, NOW
        self.keyring = Keyring(folder / "keys" / "ring", root=folder / "keys" / "root.key")

    def archive(self, *, writes: bool = True) -> Archive:
        keyring = Keyring(self.keyring.folder, root=self.folder / "keys" / "root.key")
        seal = Seal(keyring, writes=writes, clock=lambda: self.now)
        return Archive(replace(Folder.at(self.folder / "it's" / "archive"), seal=seal))

    def add(self, batch: str, *who: str, writes: bool = True, days: int = 1) -> None:
        self.archive(writes=writes).append_tables({BOUGHT: lines(batch, *who, days=days)}, batch=batch)

    def contents(self) -> dict[str, tuple[bytes, int]]:
        """Each file's bytes, and which file on the disk it is."""
        return {f.name: (f.read_bytes(), f.stat().st_ino) for f in (self.folder / "it's").rglob("*.parquet")}


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened


def lines(batch: str, *who: str, days: int = 1) -> pa.Table:
    """One purchase a person and day, from 1 May on."""
    at = [datetime(2024, 5, 1, 12, tzinfo=UTC) + timedelta(days=d) for d in range(days) for _ in who]
    count, moment = len(at), pa.timestamp("us", tz="UTC")
    given = {
        "source": ["the-till"] * count, "id": [f"{batch}-{i}" for i in range(count)], "user_key": [*who] * days,
        "basket_id": ["a-basket"] * count, "item_id": ["camembert"] * count, "quantity": [3] * count,
        "amount": [AMOUNT] * count,
    }  # fmt: skip
    times = {"occurred_at": pa.array(at, moment), "available_at": pa.array(at, moment)}
    declared = event_type(BOUGHT).arrow
    columns = [
        times[f.name] if f.name in times else pa.array(given.get(f.name, [None] * count), f.type) for f in declared
    ]
    return pa.table(columns, schema=pa.schema([f.with_nullable(True) for f in declared]))


def ids(archive: Archive, connection: duckdb.DuckDBPyConnection, where: str = "true") -> list[str]:
    rows = connection.execute(f"SELECT id FROM {archive.sql(BOUGHT, on=connection)} WHERE {where} ORDER BY 1")
    return [r[0] for r in rows.fetchall()]


@pytest.mark.parametrize("sealed", [True, False])
def test_a_sealed_file_tells_no_value_column_or_type_of_event_and_an_open_one_does(vault: Vault, sealed: bool) -> None:
    vault.add("one", "a" * 32, writes=sealed)
    ((content, _),) = vault.contents().values()
    told = (
        "a" * 32,
        "one-0",
        "camembert",
        "the-till",
        "a-basket",
        "occurred_at",
        "amount",
        AMOUNT.to_bytes(8, "little"),
    )
    found = [t for t in told if (t if isinstance(t, bytes) else t.encode()) in content]
    assert (content[:4], content[-4:], found) == ((b"PARE", b"PARE", []) if sealed else (b"PAR1", b"PAR1", list(told)))


def test_staging_is_sealed_already(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[bytes] = []
    take_in = Folder.take_in
    monkeypatch.setattr(
        Folder, "take_in", lambda self, f, *, name: (moved.append(f.read_bytes()), take_in(self, f, name=name))
    )
    vault.add("one", "ana", days=2)
    assert [content[:4] for content in moved] == [b"PARE", b"PARE"]


def test_the_same_rows_come_by_duckdb_and_arrow_from_sealed_and_open_files_together(
    vault: Vault, connection: duckdb.DuckDBPyConnection
) -> None:
    vault.add("open", "ana", "bob", writes=False, days=3)
    connection.register("given", lines("sealed", "ana", "cleo", days=400))
    vault.archive().append(connection, {BOUGHT: "given"}, batch="sealed")
    for archive in (vault.archive(), vault.archive(writes=False)):
        assert (archive.count(BOUGHT), len(ids(archive, connection))) == (806, 806)
        assert ids(archive, connection, "user_key = 'bob' AND occurred_at >= '2024-05-02'") == ["open-3", "open-5"]
        by_arrow = pa.concat_tables([archive.read(f) for f in archive.files()])
        by_duckdb = archive.of("ana")[BOUGHT]
        order = [("occurred_at", "ascending"), ("id", "ascending")]
        assert by_arrow.filter(pc.field("user_key") == "ana").cast(by_duckdb.schema).sort_by(
            order
        ) == by_duckdb.sort_by(order)
        archive.check([BOUGHT])
        assert len(archive.later_than(datetime(2024, 5, 3, tzinfo=UTC))) == 399


def test_a_new_key_is_for_new_files_and_no_old_one_is_written_again(
    vault: Vault, connection: duckdb.DuckDBPyConnection
) -> None:
    vault.add("one", "ana")
    before = vault.contents()
    vault.now = NOW + LIFETIME
    vault.add("two", "ana")
    vault.now += timedelta(seconds=1)
    vault.add("three", "ana")
    first, second = (m.name for m in vault.keyring.masters())
    assert {f.name.rpartition("/")[2]: key for f, key in vault.archive().keys().items()} == {
        "one-0.parquet": first, "two-0.parquet": first, "three-0.parquet": second,
    }  # fmt: skip
    assert {n: c for n, c in vault.contents().items() if n in before} == before
    assert ids(vault.archive(), connection) == ["one-0", "three-0", "two-0"]


def test_who_is_erased_leaves_sealed_files_and_open_ones_are_sealed_on_the_way(
    vault: Vault, connection: duckdb.DuckDBPyConnection
) -> None:
    vault.add("open", "ana", "bob", writes=False)
    vault.add("sealed", "ana", "bob")
    archive = vault.archive()
    assert len(archive.erase("ana")) == 2
    assert ids(archive, connection) == ["open-1", "sealed-1"]
    assert {content[:4] for content, _ in vault.contents().values()} == {b"PARE"}


def test_a_lost_key_is_named_at_every_door_and_open_files_can_still_be_read(
    vault: Vault, connection: duckdb.DuckDBPyConnection
) -> None:
    vault.add("one", "ana")
    (master,) = vault.keyring.masters()
    shutil.rmtree(vault.folder / "keys")
    vault.keyring.rotate(now=NOW)  # another ring, made since
    archive = vault.archive()
    doors = (
        lambda: archive.sql(BOUGHT, on=connection), lambda: archive.check([BOUGHT]), lambda: archive.erase("ana"),
        lambda: archive.of("ana"), lambda: archive.later_than(NOW), archive.keys,
    )  # fmt: skip
    for door in doors:
        with pytest.raises(
            KeyFileError, match=rf"^The key file .*{master.name}\.key is missing, .*: restore it from a backup"
        ):
            door()
    (file,) = archive.files()
    archive.folder.remove([file.name])
    vault.add("two", "ana", writes=False)
    assert ids(vault.archive(), connection) == ["two-0"]


def test_nothing_is_written_open_when_no_key_can_be_had(vault: Vault) -> None:
    vault.add("one", "ana")
    (vault.folder / "keys" / "root.key").unlink()
    with pytest.raises(KeyFileError, match=r"root\.key is missing"):
        vault.add("two", "ana")
    assert len(vault.contents()) == 1
    assert not list((vault.folder / "it's" / "archive").rglob("two*"))
