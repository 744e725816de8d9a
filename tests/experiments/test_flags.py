"""Flags: a mistake in the file is a sentence, never a person in the wrong arm."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import FlagsUnusable, MissingUser, UnknownFlag
from experiments.flags import Flags, read_flags

OURS = Path(__file__).parents[2] / "settings" / "flags.json"


def flag(**changes: Any) -> dict[str, Any]:
    entry = {
        "state": "ENABLED",
        "variants": {"a": "a", "b": "b"},
        "defaultVariant": "a",
        "targeting": {"fractional": [["a", 50], ["b", 50]]},
    }
    return {"flags": {"x": {k: v for k, v in {**entry, **changes}.items() if v is not ...}}}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def put(document: Any) -> Path:
        path = tmp_path / "flags.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return put


def test_the_flag_file_we_ship_splits_recommendations_in_halves() -> None:
    _, flags = read_flags(OURS)
    found = flags["recommendation_strategy"]
    assert found.enabled
    assert found.variants == ("buy_again", "discover")
    assert found.default == "buy_again"


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "is not JSON"),
        ([], 'needs an object "flags"'),
        (flag(state="ON"), "has state 'ON': write ENABLED or DISABLED"),
        (flag(variants={}), "needs variants"),
        (flag(variants={"a": 1}), "its value, a string"),
        (flag(variants={"a b": "x"}), "empty or has a space"),
        (flag(defaultVariant="c"), "defaultVariant 'c': choose one of a, b"),
        (flag(defaultVariant=...), "defaultVariant None"),
        (flag(colour="red"), "unknown fields colour"),
        (flag(targeting={"if": [True, "a", "b"]}), "not a split"),
        (flag(targeting={"fractional": [["c", 1]]}), "splits to 'c'"),
        (flag(targeting={"fractional": [["a", -1], ["b", 2]]}), "the weight -1"),
        (flag(targeting={"fractional": [["a", 0], ["b", 0]]}), "sum to 0"),
        (flag(targeting={"fractional": [["a"]]}), "write \\[variant, weight\\]"),
    ],
)
def test_a_mistake_is_named_with_its_place(write: Callable[[Any], Path], document: Any, says: str) -> None:
    with pytest.raises(FlagsUnusable, match=says):
        read_flags(write(document))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlagsUnusable, match="can't be read"):
        Flags(tmp_path / "none.json", checked=tmp_path / "run" / "flags.json")


def test_a_split_is_deterministic_and_close_to_its_weights(write: Callable[[Any], Path], tmp_path: Path) -> None:
    path = write(flag(targeting={"fractional": [["a", 80], ["b", 20]]}))
    first, second = (Flags(path, checked=tmp_path / f"run{i}" / "flags.json") for i in range(2))
    people = [f"{i:032x}" for i in range(2_000)]
    arms = [first.bucket("x", user_key=p) for p in people]
    assert arms == [second.bucket("x", user_key=p) for p in people]
    assert 0.77 < arms.count("a") / len(arms) < 0.83
    first.close(), second.close()


def test_nobody_can_be_bucketed_without_a_user(write: Callable[[Any], Path], tmp_path: Path) -> None:
    flags = Flags(write(flag()), checked=tmp_path / "run" / "flags.json")
    with pytest.raises(MissingUser, match="pass the user key"):
        flags.bucket("x", user_key="")
    with pytest.raises(UnknownFlag, match="it has: x"):
        flags.bucket("y", user_key="k")
    flags.close()


def test_an_edit_is_taken_up_and_a_bad_edit_is_not(write: Callable[[Any], Path], tmp_path: Path) -> None:
    flags = Flags(write(flag()), checked=tmp_path / "run" / "flags.json")
    people = [f"{i:032x}" for i in range(50)]
    write(flag(state="ON"))
    assert not flags.refresh()
    assert flags.get("x").enabled
    assert {flags.bucket("x", user_key=p) for p in people} == {"a", "b"}
    write(flag(targeting={"fractional": [["b", 1]]}))
    assert flags.refresh()
    deadline = time.monotonic() + 10
    while {flags.bucket("x", user_key=p) for p in people} != {"b"} and time.monotonic() < deadline:
        time.sleep(0.1)
    assert {flags.bucket("x", user_key=p) for p in people} == {"b"}
    flags.close()
