"""The runner of jobs: steps one after the other under a lock, each written down when it is done, in one MLflow run.

A job that was killed goes on from the step it was in, under the same moment (`as_of`) and the same run. All jobs share one
lock: they read and write the same stores, so a second one says who is at it, and leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from aap.config import Settings
from aap.infra.locks import hold
from aap.infra.paths import Layout
from aap.jobs.errors import StepFailed
from aap.jobs.run_state import RetrainResult, StepRecord, load_record, save_record
from aap.modeling.registry.mlflow_run import Run
from aap.modeling.registry.registry import Registry, open_registry

__all__ = ["Say", "Step", "StepsOf", "run_job"]

Say = Callable[[str, int, int], None]
"""Called with (step, steps done, steps in all)."""
Step = Callable[[], dict[str, Any]]
"""What it found, JSON-ready. Doing it twice leaves what doing it once leaves."""
StepsOf = Callable[[Registry, Run, datetime], Mapping[str, Step]]
"""The steps in order, given the registry, the run to log to, and the moment."""


def run_job(
    settings: Settings,
    job: str,
    *,
    as_of: datetime,
    steps_of: StepsOf,
    finish: Callable[[RetrainResult, Run], None] | None = None,
    say: Say | None = None,
) -> RetrainResult:
    """Do every step that is not done yet, then `finish`, which may be done twice as well.

    Raises `LockHeld` while another job runs, `StepFailed` where a step fails."""
    layout = Layout(settings.home)
    state = layout.run / f"{job.replace(' ', '-')}.json"
    with hold(layout.run / "retrain.lock", what=f"the job {job}"):
        left, registry = load_record(state), open_registry(settings)
        with registry.run(f"{job} {as_of:%Y-%m-%d}", resume=left.run_id if left else None) as run:
            result = left or RetrainResult(as_of.isoformat(), run.id)
            save_record(result, state)
            steps = steps_of(registry, run, datetime.fromisoformat(result.as_of))
            for done, (name, step) in enumerate(steps.items()):
                if say:
                    say(name, done, len(steps))
                if name not in result.steps:
                    _do(name, step, job=job, result=result, state=state)
            if finish:
                finish(result, run)
            if say:
                say("", len(steps), len(steps))
        state.unlink(missing_ok=True)
    return result


def _do(name: str, step: Step, *, job: str, result: RetrainResult, state: Path) -> None:
    started = time.perf_counter()
    try:
        found = step()
    except Exception as error:
        told = " ".join(str(error).split()).rstrip(".")
        raise StepFailed(
            f"The job {job} stopped at step {name!r}: {told}. Run it again to go on from there."
        ) from error
    result.steps[name] = StepRecord(found, round(time.perf_counter() - started, 2))
    save_record(result, state)
