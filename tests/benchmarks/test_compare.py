"""Comparisons: the median of pairwise ratios, its exact interval, and what is said of it."""

from __future__ import annotations

import json
import re
import sys
from math import comb
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare
from benchmarks.compare import BEFORE_COMMIT, CASES, Case, Tree, run_pair, summarize
from benchmarks.support.paired_ratios import Ratio, verdict
from benchmarks.support.report_keys import REPORT_KEYS


def _ratio(*ratios: float) -> Ratio:
    found = Ratio.of([2.0] * len(ratios), [2.0 * ratio for ratio in ratios])
    assert found is not None
    return found


@pytest.mark.parametrize(("pairs", "left_out"), [(6, 0), (7, 0), (8, 0), (9, 1), (12, 2), (20, 5)])
def test_the_interval_is_the_narrowest_that_holds_the_median_with_95_percent(pairs: int, left_out: int) -> None:
    found = _ratio(*(float(i) for i in range(1, pairs + 1)))
    assert (found.low, found.high) == (left_out + 1, pairs - left_out)
    outside = 2 * sum(comb(pairs, i) for i in range(left_out + 1)) / 2**pairs
    assert outside <= 0.05 < outside + 2 * comb(pairs, left_out + 1) / 2**pairs


def test_fewer_than_six_pairs_have_no_interval_and_nothing_has_no_ratio() -> None:
    assert (_ratio(1.0, 1.1, 1.2, 1.3, 1.4).low, _ratio(1.0, 1.1, 1.2).median) == (None, 1.1)
    assert Ratio.of([], []) is None
    assert Ratio.of([0.0], [1.0]) is None


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ((1.02, 1.04, 1.05, 1.05, 1.06, 1.07, 1.08), "no slower"),
        ((0.80, 0.81, 0.82, 0.83, 0.84, 0.85, 0.86), "no slower"),
        ((1.04, 1.04, 1.05, 1.05, 1.06, 1.07, 1.08), "slower"),
        ((0.90, 0.90, 0.90, 0.90, 0.90, 0.90), "too few pairs"),
    ],
)
def test_no_slower_is_an_interval_that_reaches_three_in_a_hundred(ratios: tuple[float, ...], said: str) -> None:
    assert verdict(_ratio(*ratios)) == said


def _tree(folder: Path, *, work: float) -> Tree:
    """A checkout whose `aap` works so long and prints a report."""
    command = folder / "aap"
    folder.mkdir()
    command.write_text(
        "#!/bin/sh\necho $AAP_HOME $PYTHONPATH >> ../turns.txt\n"
        f'exec {sys.executable} -c "import time\nwhile time.process_time() < {work}: pass\n'
        f'print(\'{{\\"rows\\": {{\\"1\\": {{\\"ms\\": {work}}}}}, \\"calls\\": 4}}\')"\n'
    )
    command.chmod(0o755)
    return Tree(folder, command)


def test_both_sides_run_in_turns_in_homes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    sides = {"before": _tree(tmp_path / "a", work=0.6), "now": _tree(tmp_path / "b", work=0.3)}
    case = Case("small", ("--people", "1"), told=("rows.1.ms", "rows.2.ms"), per="calls")
    pairs: list[Any] = [json.loads(json.dumps(run_pair(case, sides, number=number))) for number in range(2)]
    found = summarize(case, pairs)
    assert 0.4 < found["ratio"]["median"] < 0.7
    assert found["told"] == {"rows.1.ms": {"median": 0.5, "low": None, "high": None}, "rows.2.ms": None}
    assert (found["verdict"], found["pairs"], found["command"]) == (
        "too few pairs",
        2,
        "aap bench small --people 1 --json",
    )
    assert pairs[0]["before"]["cost"] == pytest.approx(pairs[0]["before"]["cpu_s"] / 4)
    homes = (tmp_path / "turns.txt").read_text().split()
    assert len(set(homes)) == 4
    assert not any(Path(home).parent.exists() for home in homes)


def test_who_goes_first_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(compare, "_run", lambda case, tree: ran.append(tree) or {})
    sides: Any = {"before": "before", "now": "now"}
    assert [list(run_pair(CASES["online"], sides, number=n)) for n in range(2)] == [["before", "now"]] * 2
    assert ran == ["before", "now", "now", "before"]


def test_what_is_compared_is_a_benchmark_and_the_keys_told_are_its_own() -> None:
    for name, case in CASES.items():
        keys = [re.escape(key.replace("?", "")).replace(r"\*", "[^.]+") for key in REPORT_KEYS[name]]
        for told in (*case.told, *filter(None, [case.per])):
            assert any(re.fullmatch(key, told) for key in keys), told


def test_before_is_the_commit_that_the_makefile_makes() -> None:
    assert f"BEFORE_COMMIT := {BEFORE_COMMIT}\n" in (compare.ROOT / "Makefile").read_text()
