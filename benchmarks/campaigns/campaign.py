"""What a campaign is, and running one part by part, so that it can be interrupted and resumed."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.campaigns.records import record_file
from benchmarks.support.environment import describe_machine

__all__ = ["Arguments", "Campaign", "CannotRun", "Goal", "run_campaign"]

Arguments = Mapping[str, Any]
"""What a campaign was told, by option, JSON-ready."""
Parts = Mapping[str, Any]
"""What came of each part, by its name, JSON-ready."""


class CannotRun(Exception):
    """A campaign can't be started, or resumed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing that the result had to show, in words, and whether it does."""

    goal: str
    figure: Any
    met: bool


@dataclass(frozen=True, slots=True)
class Campaign:
    """A measurement in parts.

    `parts` names them in order, `run_part` measures one, `conclude` makes the result and its goals of all. None of them
    knows of state or record.
    """

    name: str
    about: str
    options: Callable[[argparse.ArgumentParser], None]
    parts: Callable[[Arguments], Sequence[str]]
    run_part: Callable[[str, Arguments], Any]
    conclude: Callable[[Parts, Arguments], tuple[dict[str, Any], list[Goal]]]
    check: Callable[[Arguments], None] = lambda _: None
    """Raises `CannotRun` where something is missing that every part needs."""
    seeds: Mapping[str, int] = field(default_factory=dict)


def run_campaign(campaign: Campaign, arguments: Arguments, *, root: Path, resume: bool) -> tuple[Path, bool]:
    """Run what is left of it, and write its record; returns where that is, and whether all goals are met.

    With uncommitted changes the record stays beside the state: no commit is what was measured.

    Raises `CannotRun`.
    """
    campaign.check(arguments)
    folder = root / "var" / "campaigns" / campaign.name
    state_file, commit = folder / "state.json", _git(root, "rev-parse", "HEAD")
    state: dict[str, Any] | None = _resumed(state_file, commit, arguments) if resume else None
    if state is None:
        state = {"commit": commit, "arguments": dict(arguments), "started": _now()}
        state |= {"changed": False, "load": [], "parts": {}}
        _write(state_file, state)
    names = campaign.parts(arguments)
    for place, name in enumerate(names, start=1):
        if name in state["parts"]:
            continue
        _say(f"{place}/{len(names)} {name}")
        if _git(root, "rev-parse", "HEAD") != commit:
            raise CannotRun(f"The checkout has left commit {commit}: go back to it, and resume with RESUME=1.")
        state["changed"] = state["changed"] or _changed(root)
        state["load"].append(round(os.getloadavg()[0], 2))
        state["parts"][name] = campaign.run_part(name, arguments)
        _write(state_file, state)
    result, goals = campaign.conclude(state["parts"], arguments)
    record = {
        "campaign": campaign.name,
        "about": campaign.about,
        "commit": state["commit"],
        "started": state["started"],
        "date": _now(),
        "machine": describe_machine(),
        "load": {"first": state["load"][0], "highest": max(state["load"]), "last": round(os.getloadavg()[0], 2)},
        "arguments": dict(arguments),
        "seeds": dict(campaign.seeds),
        "result": result,
        "goals": [asdict(goal) for goal in goals],
        "goals_met": all(goal.met for goal in goals),
    }
    file = folder / "record.json" if state["changed"] else record_file(root, campaign.name)
    _write(file, record)
    if state["changed"]:
        _say("There were uncommitted changes, so this is a try, and not kept under docs/.")
    return file, record["goals_met"]


def _resumed(file: Path, commit: str, arguments: Arguments) -> dict[str, Any] | None:
    """The state to go on from; None where there is none yet."""
    if not file.exists():
        return None
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for what, was, now in (("commit", state["commit"], commit), ("arguments", state["arguments"], dict(arguments))):
        if was != now:
            raise CannotRun(f"It was begun with {what} {was}, and now {what} is {now}: start anew, without RESUME=1.")
    return state


def _changed(root: Path) -> bool:
    """Whether a file that git knows differs from its commit, other than a record."""
    lines = _git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    return any("docs/campaigns/" not in line for line in lines)


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRun(f"A campaign needs a git checkout: {done.stderr.strip()}")
    return done.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all, for a campaign may be ended at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(file)


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)
