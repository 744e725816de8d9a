"""The monthly job: the trend report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aap.config import Settings
from aap.jobs.reports.daily_aggregates import daily_aggregates
from aap.jobs.reports.monthly_trends import write_trends
from aap.jobs.run_state import RetrainResult
from aap.jobs.runner import Say, Step, run_job
from aap.modeling.registry.mlflow_run import Run
from aap.modeling.registry.registry import Registry

__all__ = ["run"]


def run(settings: Settings, *, as_of: datetime, say: Say | None = None) -> RetrainResult:
    """Run the monthly job as of `as_of`. Raises what the runner raises."""

    def steps_of(registry: Registry, run: Run, moment: datetime) -> Mapping[str, Step]:
        return _steps(settings, registry=registry, run=run, as_of=moment)

    return run_job(settings, "monthly", as_of=as_of, steps_of=steps_of, say=say)


def _steps(settings: Settings, *, registry: Registry, run: Run, as_of: datetime) -> dict[str, Step]:
    def trends() -> dict[str, Any]:
        daily = daily_aggregates(settings, as_of=as_of)
        page = write_trends(settings, daily=daily, registry=registry, as_of=as_of)
        run.log_artifact(page, folder="trends")
        return {"days": daily.num_rows, "page": str(page)}

    return {"trends": trends}
