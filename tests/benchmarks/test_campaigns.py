"""Every record under docs/campaigns is whole, holds its goals, and is of a commit that this one came from.

And a campaign runs part by part: what is done is not done again, and what was measured is one commit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.campaigns import CAMPAIGNS, busy_tests
from benchmarks.campaigns.campaign import Arguments, Campaign, CannotRun, Goal, run_campaign
from benchmarks.campaigns.records import is_ancestor, problems, record_file, record_files
from benchmarks.compare import CASES

ROOT = Path(__file__).parents[2]


def test_every_record_is_whole_and_holds_its_goals() -> None:
    found = {file.name: wrong for file in record_files(ROOT) if (wrong := problems(file))}
    assert not found
    assert {file.stem for file in record_files(ROOT)} <= set(CAMPAIGNS)


def test_every_record_is_of_a_commit_that_this_one_came_from() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("This is no git checkout: there is no history to look in.")
    for file in record_files(ROOT):
        commit = json.loads(file.read_text(encoding="utf-8"))["commit"]
        found = is_ancestor(commit, root=ROOT)
        if found is None and not os.environ.get("CI"):
            pytest.skip(f"This clone is shallow and lacks {commit}, of which {file.name} is.")
        assert found, f"{file.name} is of {commit}, which is not in the history of HEAD"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one commit."""
    root = tmp_path / "checkout"
    root.mkdir()
    _git(root, "init", "--quiet", "--initial-branch", "main")
    (root / ".gitignore").write_text("var/\n")
    (root / "code.py").write_text("")
    _commit(root)
    return root


def _git(root: Path, *words: str) -> str:
    who = ("-c", "user.name=a test", "-c", "user.email=test@example.com")
    return subprocess.run(["git", *who, *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def _commit(root: Path) -> str:
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--allow-empty", "--message", "a step")
    return _git(root, "rev-parse", "HEAD")


class _Counting:
    """A campaign of three parts that counts how often each was run, and fails in one when told to."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails_at = ""
        self.met = True

    def campaign(self) -> Campaign:
        return Campaign(
            name="counting",
            about="Counts.",
            options=lambda parser: None,
            parts=lambda arguments: ["one", "two", "three"],
            run_part=self._run,
            conclude=lambda parts, _: ({"of": dict(parts)}, [Goal("all of them", len(parts), self.met)]),
            seeds={"draw": 7},
        )

    def _run(self, part: str, arguments: Arguments) -> Any:
        if part == self.fails_at:
            raise KeyboardInterrupt
        self.ran.append(part)
        return len(self.ran)


def test_a_campaign_is_resumed_where_it_was_interrupted_and_recorded_once_it_is_done(checkout: Path) -> None:
    counting = _Counting()
    counting.fails_at = "two"
    with pytest.raises(KeyboardInterrupt):
        run_campaign(counting.campaign(), {"size": 3}, root=checkout, resume=False)
    counting.fails_at = ""
    file, met = run_campaign(counting.campaign(), {"size": 3}, root=checkout, resume=True)
    assert (counting.ran, met) == (["one", "two", "three"], True)
    assert file == record_file(checkout, "counting")
    assert problems(file) == []
    record = json.loads(file.read_text())
    assert record["result"] == {"of": {"one": 1, "two": 2, "three": 3}}
    assert (record["arguments"], record["seeds"], record["commit"]) == (
        {"size": 3},
        {"draw": 7},
        _git(checkout, "rev-parse", "HEAD"),
    )
    run_campaign(counting.campaign(), {"size": 3}, root=checkout, resume=False)
    assert counting.ran[3:] == ["one", "two", "three"], "without RESUME=1 it starts anew"


def test_other_arguments_or_another_commit_are_not_resumed(checkout: Path) -> None:
    campaign = _Counting().campaign()
    run_campaign(campaign, {"size": 3}, root=checkout, resume=False)
    with pytest.raises(CannotRun, match="begun with arguments"):
        run_campaign(campaign, {"size": 4}, root=checkout, resume=True)
    _commit(checkout)
    with pytest.raises(CannotRun, match="begun with commit"):
        run_campaign(campaign, {"size": 3}, root=checkout, resume=True)


def test_a_checkout_that_changes_meanwhile_ends_the_campaign(checkout: Path) -> None:
    counting = _Counting()
    campaign = counting.campaign()
    counting._run = lambda part, arguments: _commit(checkout)  # type: ignore[method-assign]
    with pytest.raises(CannotRun, match="has left commit"):
        run_campaign(counting.campaign(), {}, root=checkout, resume=False)
    assert campaign.name == "counting"


def test_what_was_measured_with_uncommitted_changes_is_not_kept_under_docs(checkout: Path) -> None:
    (checkout / "code.py").write_text("changed = True\n")
    file, _ = run_campaign(_Counting().campaign(), {}, root=checkout, resume=False)
    assert file == checkout / "var" / "campaigns" / "counting" / "record.json"
    assert not record_files(checkout)


def test_a_missed_goal_is_recorded_and_is_a_problem(checkout: Path) -> None:
    counting = _Counting()
    counting.met = False
    file, met = run_campaign(counting.campaign(), {}, root=checkout, resume=False)
    assert not met
    assert problems(file) == ["misses a goal: all of them (3)"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seeds": None}, ["seeds is no dict"]),
        ({"goals": []}, ["has no goals"]),
        ({"goals": [{"goal": "x"}]}, ["has a goal that does not say goal, figure and met"]),
        ({"goals_met": False}, ["says that its goals are not met, and each goal that it is"]),
        ({"campaign": "other"}, ["is the record of other"]),
        ({"date": "yesterday"}, ["date is no time"]),
    ],
)
def test_what_is_wrong_with_a_record_is_said(checkout: Path, change: dict[str, Any], told: Sequence[str]) -> None:
    file, _ = run_campaign(_Counting().campaign(), {}, root=checkout, resume=False)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert problems(file) == told
    file.write_text("{")
    assert problems(file)[0].startswith("is no JSON")


def test_a_commit_that_was_never_in_the_history_is_no_ancestor(checkout: Path) -> None:
    first = _git(checkout, "rev-parse", "HEAD")
    second = _commit(checkout)
    assert is_ancestor(first, root=checkout)
    assert is_ancestor(second, root=checkout)
    _git(checkout, "reset", "--quiet", "--hard", first)
    assert is_ancestor(second, root=checkout) is False
    assert is_ancestor("0" * 40, root=checkout) is False


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_campaign_s_parts_have_names_of_their_own(name: str) -> None:
    parser = argparse.ArgumentParser()
    CAMPAIGNS[name].options(parser)
    parts = list(CAMPAIGNS[name].parts(vars(parser.parse_args([]))))
    assert parts
    assert len(set(parts)) == len(parts)


def test_the_moved_benchmarks_are_judged_without_the_pair_that_warms_up() -> None:
    arguments = {"pairs": 7, "only": "online,swap"}
    campaign = CAMPAIGNS["moved-benchmarks"]

    def side(cost: float) -> dict[str, Any]:
        parts = dict.fromkeys(("own", "servers", "others"), cost)
        return {"cost": cost, "wall_s": 1.0, "cpu_s": cost, "prepared_s": 0.0, "parts": parts, "told": {}}

    now = {"online": 1.02, "swap": 1.05}
    parts = {
        f"{name} {number}": {"before": side(1.0), "now": side(now[name] if number else 9.0)}
        for name in now
        for number in range(8)
    }
    assert set(campaign.parts(arguments)) == set(parts)
    result, goals = campaign.conclude(parts, arguments)
    assert [goal.met for goal in goals] == [True, False]
    assert result["benchmarks"]["online"]["ratio"] == {"median": 1.02, "low": 1.02, "high": 1.02}
    assert set(now) < set(CASES)


def test_the_outcomes_of_a_test_run_are_read_from_its_last_line() -> None:
    printed = "3 passed in 1.00s\nmore\n=== 1 failed, 2196 passed, 14 skipped, 2 errors in 637.10s (0:10:37) ===\n"
    assert busy_tests.outcomes(printed) == {"failed": 1, "passed": 2196, "skipped": 14, "errors": 2}
    assert busy_tests.outcomes("make: *** [lint] Error 1\n") == {}


def test_busy_loops_are_busy_and_end() -> None:
    with busy_tests.busy_loops(2) as pids:
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize(
    ("run", "met"),
    [
        ({"code": 0, "passed": 10}, True),
        ({"code": 2, "passed": 10, "failed": 1}, False),
        ({"code": 0}, False),
        ({"code": 2, "passed": 10}, False),
    ],
)
def test_busy_tests_are_well_when_all_pass(run: dict[str, Any], met: bool) -> None:
    _, (goal,) = CAMPAIGNS["busy-tests"].conclude({"make test 1": run}, {"loops": 4, "runs": 1})
    assert goal.met is met


def test_make_takes_the_name_of_a_campaign_as_its_second_goal() -> None:
    def make(*words: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(
            ["make", "--dry-run", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )

    assert (
        "benchmarks.campaigns busy-tests --resume --runs 2\n"
        in make("campaign", "busy-tests", "RESUME=1", "ARGS=--runs 2").stdout
    )
    assert "benchmarks.campaigns busy-tests" in make("campaign", "NAME=busy-tests").stdout
    assert "One campaign at a time" in make("campaign", "busy-tests", "moved-benchmarks").stderr
