"""Flags: a mistake in the file is a sentence, never a person in the wrong arm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aap.experiments.errors import FlagsUnusable, MissingUser, UnknownFlag
from aap.experiments.flags.definition import read_flags, slot_in
from aap.experiments.flags.store import Flags

pytestmark = pytest.mark.fast

OURS = Path(__file__).parents[4] / "conf" / "flags.json"


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
        (flag(targeting={"if": [True, "a", "b"]}), "a rule other than for segments"),
        (flag(targeting={"if": [{"in": [{"var": "age"}, ["old"]]}, {"fractional": [["a", 1]]}]}), "a rule other than"),
        (flag(targeting={"starts_with": ["a", "b"]}), "not a split"),
        (flag(targeting={"fractional": [["a", 1], ["a", 1]]}), "splits to 'a' twice"),
        (flag(metadata={"layer": "page", "slots": "5-2"}), "slots '5-2'"),
        (flag(metadata={"slots": "0-9"}), "slots but no layer"),
        (flag(metadata={"ramp": "10,2"}), "ramp '10,2': write growing percentages"),
        (flag(metadata={"ramp": "0,200"}), "ramp '0,200'"),
        (flag(metadata={"ramp": 5}), "ramp 5"),
        (flag(metadata={"ramp": "2", "ramp_hours": 0}), "ramp_hours 0"),
        (flag(metadata={"layer": {"name": "page"}}), "strings, numbers and booleans"),
        ({"flags": {"my flag": {}}}, "name that is empty or has a space"),
        (flag(targeting={"fractional": [["c", 1]]}), "splits to 'c'"),
        (flag(targeting={"fractional": [["a", -1], ["b", 2]]}), "the weight -1"),
        (flag(targeting={"fractional": [["a", 0], ["b", 0]]}), "sum to 0"),
        (flag(targeting={"fractional": [["a"]]}), "write \\[variant, weight\\]"),
    ],
)
def test_a_mistake_is_named_with_its_place(write: Callable[[Any], Path], document: Any, says: str) -> None:
    with pytest.raises(FlagsUnusable, match=says):
        read_flags(write(document))


def in_layer(**slots: str) -> dict[str, Any]:
    entries = {name: flag(metadata={"layer": "page", "slots": span})["flags"]["x"] for name, span in slots.items()}
    return {"flags": entries}


def test_flags_of_one_layer_may_not_share_a_slot_unless_one_is_disabled(write: Callable[[Any], Path]) -> None:
    with pytest.raises(FlagsUnusable, match=r"'x' and 'y' .* share slots of layer 'page' \(0-499 and 499-999\)"):
        read_flags(write(in_layer(x="0-499", y="499-999")))
    disjoint = in_layer(x="0-499", y="500-999")
    assert set(read_flags(write(disjoint))[1]) == {"x", "y"}
    document = in_layer(x="0-499", y="0-499")
    document["flags"]["y"]["state"] = "DISABLED"
    assert set(read_flags(write(document))[1]) == {"x", "y"}


def test_the_slots_of_a_layer_are_evenly_filled_and_unrelated_to_those_of_another() -> None:
    people = [f"{i:032x}" for i in range(20_000)]
    page, mail = ([slot_in(layer, user_key=p) for p in people] for layer in ("page", "mail"))
    assert 0.48 < sum(s < 500 for s in page) / len(people) < 0.52
    both = sum(a < 500 and b < 500 for a, b in zip(page, mail, strict=True))
    assert 0.23 < both / len(people) < 0.27


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlagsUnusable, match="can't be read"):
        Flags(tmp_path / "none.json", checked=tmp_path / "run" / "flags.json")


def test_a_split_is_deterministic_and_close_to_its_weights(write: Callable[[Any], Path], tmp_path: Path) -> None:
    path = write(flag(targeting={"fractional": [["a", 80], ["b", 20]]}))
    first, second = (Flags(path, checked=tmp_path / f"run{i}" / "flags.json") for i in range(2))
    people = [f"{i:032x}" for i in range(2_000)]
    arms = [first.bucket(first.get("x"), user_key=p) for p in people]
    assert arms == [second.bucket(second.get("x"), user_key=p) for p in people]
    assert 0.77 < arms.count("a") / len(arms) < 0.83
    first.close(), second.close()


def test_nobody_can_be_bucketed_without_a_user(write: Callable[[Any], Path], tmp_path: Path) -> None:
    flags = Flags(write(flag()), checked=tmp_path / "run" / "flags.json")
    with pytest.raises(MissingUser, match="pass the user key"):
        flags.bucket(flags.get("x"), user_key="")
    with pytest.raises(UnknownFlag, match="it has: x"):
        flags.bucket(flags.get("y"), user_key="k")
    flags.close()


def test_an_edit_is_taken_up_and_a_bad_edit_is_not(write: Callable[[Any], Path], tmp_path: Path) -> None:
    flags = Flags(write(flag()), checked=tmp_path / "run" / "flags.json")
    people = [f"{i:032x}" for i in range(50)]
    write(flag(state="ON"))
    assert not flags.refresh()
    assert flags.get("x").enabled
    assert {flags.bucket(flags.get("x"), user_key=p) for p in people} == {"a", "b"}
    write(flag(targeting={"fractional": [["b", 1]]}))
    assert flags.refresh()
    assert {flags.bucket(flags.get("x"), user_key=p) for p in people} == {"b"}
    flags.close()


def test_a_half_written_file_changes_nothing_and_its_problem_is_told_until_it_is_whole(
    write: Callable[[Any], Path], tmp_path: Path
) -> None:
    whole = json.dumps(flag(variants={"a": "a", "b": "b", "c": "c"}))
    path = write(flag())
    flags = Flags(path, checked=tmp_path / "run" / "flags.json")
    for length in range(0, len(whole), 7):
        path.write_text(whole[:length])
        assert not flags.refresh()
        assert flags.get("x").variants == ("a", "b")
        assert str(path) in (flags.problem or "")
    path.write_text(whole)
    assert flags.refresh()
    assert flags.problem is None
    assert flags.get("x").variants == ("a", "b", "c")
    flags.close()


def test_a_process_that_starts_while_the_file_has_a_mistake_takes_the_last_good_one(
    write: Callable[[Any], Path], tmp_path: Path
) -> None:
    checked = tmp_path / "run" / "flags.json"
    Flags(write(flag()), checked=checked).close()
    later = Flags(write("{"), checked=checked)
    assert later.get("x").variants == ("a", "b")
    assert "is not JSON" in (later.problem or "")
    assert {later.bucket(later.get("x"), user_key=f"{i:032x}") for i in range(50)} == {"a", "b"}
    later.close()


def test_nobody_is_bucketed_by_another_edition_of_a_flag_than_the_one_asked_for(
    write: Callable[[Any], Path], tmp_path: Path
) -> None:
    flags = Flags(write(flag()), checked=tmp_path / "run" / "flags.json")
    before = flags.get("x")
    write(flag(targeting={"fractional": [["a", 0], ["b", 100]]}))
    assert flags.refresh()
    assert flags.bucket(before, user_key="k") is None
    assert flags.bucket(flags.get("x"), user_key="k") == "b"
    flags.close()


def test_an_edition_is_of_what_a_person_declares_and_the_same_in_a_checked_copy(
    write: Callable[[Any], Path], tmp_path: Path
) -> None:
    checked = tmp_path / "run" / "flags.json"
    Flags(write(flag()), checked=checked).close()
    edition = read_flags(write(flag()))[1]["x"].edition
    assert read_flags(checked)[1]["x"].edition == edition
    for change in ({"state": "DISABLED"}, {"defaultVariant": "b"}, {"metadata": {"ramp": "2"}}):
        assert read_flags(write(flag(**change)))[1]["x"].edition != edition


def test_an_edit_counts_though_its_checked_copy_cant_be_written(write: Callable[[Any], Path], tmp_path: Path) -> None:
    flags = Flags(write(flag()), checked=tmp_path / "run" / "flags.json")
    (tmp_path / "run" / "flags.json").unlink()
    (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("a file in the way")
    write(flag(targeting={"fractional": [["b", 1]]}))
    assert flags.refresh()
    assert flags.bucket(flags.get("x"), user_key="k") == "b"
    flags.close()
