"""Item names: read once, and again when the catalogue changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from aap.serving.inference.item_names import ItemNames

pytestmark = pytest.mark.fast


def test_a_name_is_looked_up_once_and_a_missing_one_too() -> None:
    asked: list[Sequence[str]] = []

    def look_up(ids: Sequence[str]) -> dict[str, str]:
        asked.append(ids)
        return {i: i.upper() for i in ids if i != "b"}

    names = ItemNames(look_up)
    assert [names.of(["a", "b", "a"])[i] for i in "ab"] == ["A", None]
    assert [names.of("abc")[i] for i in "abc"] == ["A", None, "C"]
    assert asked == [["a", "b"], ["c"]]


def test_a_changed_catalogue_is_read_again() -> None:
    catalogue, version = {"a": "old"}, [1]
    names = ItemNames(lambda ids: {i: catalogue[i] for i in ids}, stamp=lambda: version[0])
    names.warm("a")
    catalogue["a"], version[0] = "new", 2
    assert names.of("a")["a"] == "old"
    names.warm("a")
    assert names.of("a")["a"] == "new"
