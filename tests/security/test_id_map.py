"""The encrypted id map: the one place a raw id is, and only its key opens it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from security.errors import IdMapDamaged
from security.id_map import IdMap, open_id_map
from storage.layout import Layout

ANA, BOB = "a" * 32, "b" * 32
SECRET = b"s" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "security" / "id_map.db"


@pytest.fixture
def id_map(path: Path) -> IdMap:
    return IdMap(path, key=SECRET)


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


@given(st.binary(max_size=60))
def test_any_altered_row_is_recognised(tmp_path_factory: pytest.TempPathFactory, sealed: bytes) -> None:
    path = tmp_path_factory.mktemp("map") / "id_map.db"
    id_map = IdMap(path, key=SECRET)
    id_map.remember({ANA: "ana"})
    with sqlite3.connect(path) as other:
        other.execute("UPDATE ids SET sealed = ?", (sealed,))
    with pytest.raises(IdMapDamaged):
        id_map.reveal(ANA)


def test_another_key_opens_nothing(id_map: IdMap, path: Path) -> None:
    id_map.remember({ANA: "ana"})
    with pytest.raises(IdMapDamaged):
        IdMap(path, key=os.urandom(32)).reveal(ANA)


def test_the_map_of_a_home_is_found_again(home: Path) -> None:
    open_id_map(Layout(home)).remember({ANA: "ana"})
    assert open_id_map(Layout(home)).reveal(ANA) == "ana"
