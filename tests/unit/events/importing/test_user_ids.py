"""The user column: what is an id, and that one person has one key."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from aap.events.errors import SourceUnreadable
from aap.events.importing.user_ids import People, user_ids
from aap.security.pseudonyms import Pseudonyms

pytestmark = pytest.mark.fast

SECRET = Pseudonyms(b"k" * 32)


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pa.array(["ana", " ana\t", "", "  ", None]), ["ana", "ana", None, None, None]),
        (pa.array([7, None], pa.int16()), ["7", None]),
        (pa.array([7.0, 1e10, 2.0**52, 7.5, float("nan"), None]), ["7", "10000000000", str(2**52), "7.5", None, None]),
        (pa.array(["ana", "bob", "ana"]).dictionary_encode(), ["ana", "bob", "ana"]),
        (pa.array([None, None], pa.null()), [None, None]),
        (pa.array([date(2024, 1, 1)]), ["2024-01-01"]),
        (pa.array(["ana"], pa.large_string()), ["ana"]),
    ],
    ids=lambda x: str(x.type) if isinstance(x, pa.Array) else None,
)
def test_an_id_is_text_without_blanks_and_a_whole_float_is_its_number(column: pa.Array, ids: list[str | None]) -> None:
    found = user_ids(pa.chunked_array([column]), name="user").to_pylist()
    assert found == ids


def test_a_column_that_can_be_no_id_is_told_without_its_values() -> None:
    with pytest.raises(SourceUnreadable, match="The user column 'kunde' holds binary, which is no id") as told:
        user_ids(pa.chunked_array([pa.array([b"\xff\xfe"])]), name="kunde")
    assert "xff" not in str(told.value)


@given(st.lists(st.one_of(st.none(), st.text("abc 1", max_size=3)), max_size=30), st.integers(1, 5))
def test_every_row_gets_the_key_of_its_id_whatever_the_batches(ids: list[str | None], size: int) -> None:
    people, keys = People(SECRET), []
    for at in range(0, len(ids), size):
        keys += people.keys(pa.chunked_array([pa.array(ids[at : at + size], pa.string())]), name="user").to_pylist()
    assert keys == [SECRET.user_key(i.strip()) if i and i.strip() else None for i in ids]
    assert people.ids({k for k in keys if k}) == {SECRET.user_key(i.strip()): i.strip() for i in ids if i and i.strip()}


def test_in_a_replay_the_column_has_keys_and_anything_else_is_nobody() -> None:
    people = People(SECRET, keyed=True)
    column = pa.chunked_array([pa.array(["a" * 32, "ana@shop.example", None])])
    assert people.keys(column, name="user").to_pylist() == ["a" * 32, None, None]
    assert people.ids({"a" * 32}) == {}
