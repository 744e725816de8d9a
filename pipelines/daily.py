"""The daily job: what is new is imported, the day is aggregated, and what no purpose may use any more is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from aap.config import Settings
from aap.jobs.ingest import import_what_is_new
from aap.jobs.reports.daily_aggregates import write_daily
from aap.jobs.run_state import RetrainResult
from aap.jobs.runner import Say, Step, run_job
from aap.modeling.registry.mlflow_run import Run
from aap.modeling.registry.registry import Registry
from aap.privacy.data_inventory import open_holdings
from aap.privacy.retention import retain

__all__ = ["run"]


def run(settings: Settings, *, as_of: datetime, say: Say | None = None) -> RetrainResult:
    """Run the daily job as of `as_of`. Raises what the runner raises."""

    def steps_of(registry: Registry, run: Run, moment: datetime) -> Mapping[str, Step]:
        return _steps(settings, run=run, as_of=moment)

    return run_job(settings, "daily", as_of=as_of, steps_of=steps_of, say=say)


def _steps(settings: Settings, *, run: Run, as_of: datetime) -> dict[str, Step]:
    def retention() -> dict[str, Any]:
        done = retain(open_holdings(settings), now=as_of)
        return {"deleted": dict(done.deleted), "kept": dict(done.kept), "ids_forgotten": done.ids_forgotten}

    def aggregates() -> dict[str, Any]:
        file, table = write_daily(settings, as_of=as_of)
        run.log_artifact(file, folder="aggregates")
        return {"days": table.num_rows, "file": str(file)}

    return {
        "import": partial(import_what_is_new, settings, now=as_of),
        # Before the purchases of a day that is past its time are gone.
        "aggregates": aggregates,
        "retention": retention,
    }
