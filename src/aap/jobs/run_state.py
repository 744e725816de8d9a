"""What a retrain has done so far: kept on disk after every step, so that a killed run can go on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aap.infra.atomic_files import write_atomically

__all__ = ["RetrainResult", "StepRecord", "load_record", "save_record"]


@dataclass(slots=True)
class StepRecord:
    """One finished step: what it found, JSON-ready, and how many seconds it took."""

    result: dict[str, Any]
    seconds: float


@dataclass(slots=True)
class RetrainResult:
    """One run of the retrain."""

    as_of: str
    """The moment everything is as of, ISO 8601."""
    run_id: str
    """Of the parent run in MLflow."""
    steps: dict[str, StepRecord] = field(default_factory=dict)
    resumed: bool = False
    summary: str = ""
    """Path of the HTML summary, once there is one."""


def save_record(result: RetrainResult, file: Path) -> None:
    """Keep `result`, whole or not at all."""
    write_atomically(file, json.dumps(asdict(result), indent=1).encode())


def load_record(file: Path) -> RetrainResult | None:
    """The run that has not finished, marked as resumed; None when there is none."""
    if not file.is_file():
        return None
    found = json.loads(file.read_text())
    steps = {name: StepRecord(**step) for name, step in found["steps"].items()}
    return RetrainResult(found["as_of"], found["run_id"], steps, resumed=True)
