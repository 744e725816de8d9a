"""The encrypted id map: the one place a raw id is, and only its key opens it."""

from __future__ import annotations

import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, strategies as st

from aap.config import Settings
from aap.infra.errors import KeyFileError
from aap.infra.keyring import LIFETIME, Keyring
from aap.security.errors import IdMapDamaged
from aap.security.id_map import IdMap, open_id_map

ANA, BOB = "a" * 32, "b" * 32
SECRET = b"s" * 32
NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "security" / "id_map.db"


def opened(path: Path, old_key: bytes | None = None) -> IdMap:
    keys = path.parent.parent / "keys"
    return IdMap(path, keyring=Keyring(keys / "ring", root=keys / "root.key"), clock=lambda: NOW, old_key=old_key)


@pytest.fixture
def id_map(path: Path) -> IdMap:
    return opened(path)


def of_before(path: Path, **ids: str) -> None:
    """A map as it was when one key sealed every id."""
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE ids (user_key VARCHAR(32) NOT NULL PRIMARY KEY, sealed BLOB NOT NULL)")
        for letter, user_id in ids.items():
            sealed = b"n" * 12 + AESGCM(SECRET).encrypt(b"n" * 12, user_id.encode(), (letter * 32).encode())
            made.execute("INSERT INTO ids VALUES (?, ?)", (letter * 32, sealed))


def test_an_id_comes_back_as_it_was_given(id_map: IdMap) -> None:
    assert id_map.remember({ANA: "ana@shop.example", BOB: "Zoë 4711"}) == 2
    assert (id_map.reveal(ANA), id_map.reveal(BOB), id_map.reveal("c" * 32)) == ("ana@shop.example", "Zoë 4711", None)
    assert id_map.remember({ANA: "ana@shop.example"}) == 0


def test_the_file_holds_no_id_in_the_clear(id_map: IdMap, path: Path) -> None:
    id_map.remember({ANA: "ana@shop.example"})
    for file in path.parent.iterdir():
        assert b"shop.example" not in file.read_bytes()


def test_who_is_forgotten_is_gone_and_the_others_stay(id_map: IdMap) -> None:
    id_map.remember({ANA: "ana", BOB: "bob"})
    id_map.forget(ANA)
    assert (id_map.reveal(ANA), id_map.reveal(BOB)) == (None, "bob")


def test_a_row_moved_to_another_person_is_recognised(id_map: IdMap, path: Path) -> None:
    id_map.remember({ANA: "ana", BOB: "bob"})
    with sqlite3.connect(path) as other:
        other.execute(
            "UPDATE ids SET sealed = (SELECT sealed FROM ids WHERE user_key = ?) WHERE user_key = ?", (ANA, BOB)
        )
    assert id_map.reveal(ANA) == "ana"
    with pytest.raises(IdMapDamaged, match="altered or sealed under another key"):
        id_map.reveal(BOB)


@given(st.binary(max_size=60), st.sampled_from(["sealed", "wrapped_key"]))
def test_any_altered_row_is_recognised(tmp_path_factory: pytest.TempPathFactory, content: bytes, column: str) -> None:
    path = tmp_path_factory.mktemp("map") / "security" / "id_map.db"
    id_map = opened(path)
    id_map.remember({ANA: "ana"})
    with sqlite3.connect(path) as other:
        other.execute(f"UPDATE ids SET {column} = ?", (content,))
    with pytest.raises((IdMapDamaged, KeyFileError), match="altered"):
        id_map.reveal(ANA)


def test_another_keyring_opens_nothing_and_the_key_that_is_missing_is_named(id_map: IdMap, path: Path) -> None:
    id_map.remember({ANA: "ana"})
    (name,) = id_map.masters()
    shutil.rmtree(path.parent.parent / "keys")
    with pytest.raises(KeyFileError, match=rf"{name}\.key is missing, .*: restore it from a backup of .*keys\.$"):
        opened(path).reveal(ANA)


def test_each_person_has_a_key_of_their_own_which_is_gone_from_the_file_when_they_are_forgotten(
    id_map: IdMap, path: Path
) -> None:
    id_map.remember({ANA: "ana", BOB: "bob"})
    with sqlite3.connect(path) as other:
        rows = dict(other.execute("SELECT user_key, wrapped_key FROM ids").fetchall())
        sealed = other.execute("SELECT sealed FROM ids WHERE user_key = ?", (ANA,)).fetchone()[0]
    assert all(wrapped in path.read_bytes() for wrapped in rows.values())
    id_map.forget(ANA)
    left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert [gone in left for gone in (rows[ANA], sealed, rows[BOB])] == [False, False, True]
    # A copy of the sealed id that somebody kept opens by nobody else's key.
    with sqlite3.connect(path) as other:
        other.execute(
            "INSERT INTO ids SELECT ?, ?, wrapped_key, master FROM ids WHERE user_key = ?", (ANA, sealed, BOB)
        )
    with pytest.raises(KeyFileError):
        id_map.reveal(ANA)


def test_ids_sealed_under_the_one_key_of_before_open_and_get_keys_of_their_own(path: Path) -> None:
    of_before(path, a="ana", b="bob")
    id_map = opened(path, SECRET)
    assert (id_map.reveal(ANA), id_map.masters()) == ("ana", {"": 2})
    id_map.remember({"c" * 32: "cleo"})
    assert list(id_map.masters().values()) == [3]
    assert [opened(path).reveal(c * 32) for c in "abc"] == ["ana", "bob", "cleo"]


def test_without_the_key_of_before_its_ids_are_refused_in_a_sentence(path: Path) -> None:
    of_before(path, a="ana")
    with pytest.raises(KeyFileError, match=r"id_map\.key, which is missing: restore it"):
        opened(path).reveal(ANA)


def test_rotation_wraps_every_key_anew_and_no_id(id_map: IdMap, path: Path) -> None:
    id_map.remember({ANA: "ana", BOB: "bob"})

    def sealed() -> list[tuple[bytes]]:
        with sqlite3.connect(path) as other:
            return other.execute("SELECT sealed FROM ids ORDER BY user_key").fetchall()

    before, later = sealed(), NOW + LIFETIME + timedelta(seconds=1)
    assert (id_map.rotate(now=NOW), id_map.rotate(now=later)) == (0, 2)
    assert (sealed(), list(id_map.masters().values())) == (before, [2])
    assert (id_map.reveal(ANA), id_map.reveal(BOB)) == ("ana", "bob")


def test_the_map_of_a_home_is_found_again(settings: Settings) -> None:
    open_id_map(settings).remember({ANA: "ana"})
    assert open_id_map(settings).reveal(ANA) == "ana"
