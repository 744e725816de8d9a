"""The jobs beside the weekly retrain, by the same runner: daily retention and aggregates, and the monthly trend report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from models.registry import Registry
from models.run import Run
from pipelines.aggregates import daily_aggregates, write_daily
from pipelines.errors import PipelineError
from pipelines.ingest import import_what_is_new
from pipelines.run_record import RetrainResult
from pipelines.runner import Say, Step, run_job
from pipelines.trends import write_trends
from privacy.holdings import open_holdings
from privacy.retention import retain
from settings.config import Settings

__all__ = ["JOBS", "run"]


def _daily(settings: Settings, registry: Registry, run: Run, as_of: datetime) -> Mapping[str, Step]:
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


def _monthly(settings: Settings, registry: Registry, run: Run, as_of: datetime) -> Mapping[str, Step]:
    def trends() -> dict[str, Any]:
        daily = daily_aggregates(settings, as_of=as_of)
        page = write_trends(settings, daily=daily, registry=registry, as_of=as_of)
        run.log_artifact(page, folder="trends")
        return {"days": daily.num_rows, "page": str(page)}

    return {"trends": trends}


JOBS: Mapping[str, Callable[[Settings, Registry, Run, datetime], Mapping[str, Step]]] = {
    "daily": _daily,
    "monthly": _monthly,
}


def run(settings: Settings, name: str, *, as_of: datetime, say: Say | None = None) -> RetrainResult:
    """Run the job called `name` as of `as_of`. Raises `PipelineError` for an unknown one, and what the runner raises."""
    if name not in JOBS:
        raise PipelineError(f"No job {name!r}; choose one of: {', '.join(JOBS)}. The weekly one is `aap retrain`.")
    return run_job(settings, name, as_of=as_of, steps_of=lambda *given: JOBS[name](settings, *given), say=say)
