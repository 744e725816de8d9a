"""The records of campaigns under docs/campaigns, and what is wrong with one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = ["FIELDS", "is_ancestor", "problems", "record_file", "record_files"]

FIELDS: dict[str, type] = {
    "campaign": str,
    "about": str,
    "commit": str,
    "started": str,
    "date": str,
    "machine": str,
    "load": dict,
    "arguments": dict,
    "seeds": dict,
    "result": dict,
    "goals": list,
    "goals_met": bool,
}


def record_file(root: Path, name: str) -> Path:
    """Where the record of a campaign is kept."""
    return root / "docs" / "campaigns" / f"{name}.json"


def record_files(root: Path) -> list[Path]:
    """All records, in order of their names."""
    return sorted((root / "docs" / "campaigns").glob("*.json"))


def problems(file: Path) -> list[str]:
    """What is wrong with a record as a file: fields, goals. Whether its commit is in the history is `is_ancestor`'s."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        return [f"is no JSON ({error})"]
    if not isinstance(record, Mapping):
        return ["is no object"]
    found = [
        f"{name} is {'missing' if name not in record else f'no {kind.__name__}'}"
        for name, kind in FIELDS.items()
        if not isinstance(record.get(name), kind)
    ]
    if found:
        return found
    if record["campaign"] != file.stem:
        found.append(f"is the record of {record['campaign']}")
    found += [f"{name} is no time" for name in ("started", "date") if not _is_time(record[name])]
    found += _of_goals(record)
    return found


def is_ancestor(commit: str, *, root: Path) -> bool | None:
    """Whether HEAD came from `commit`; None where the clone is shallow and doesn't know it."""
    done = subprocess.run(
        ["git", "merge-base", "--is-ancestor", commit, "HEAD"], cwd=root, capture_output=True, check=False
    )
    if done.returncode in (0, 1):
        return done.returncode == 0
    asked = ["git", "rev-parse", "--is-shallow-repository"]
    shallow = subprocess.run(asked, cwd=root, capture_output=True, text=True, check=True).stdout.strip() == "true"
    return None if shallow else False


def _of_goals(record: Mapping[str, Any]) -> list[str]:
    goals = record["goals"]
    if not goals:
        return ["has no goals"]
    if not all(isinstance(goal, Mapping) and {"goal", "figure", "met"} <= set(goal) for goal in goals):
        return ["has a goal that does not say goal, figure and met"]
    missed = [f"misses a goal: {goal['goal']} ({goal['figure']})" for goal in goals if goal["met"] is not True]
    return missed if missed or record["goals_met"] else ["says that its goals are not met, and each goal that it is"]


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
