"""Past weeks filled in: what the retrain would have decided then, from what could be known then.

A past week imports nothing and brings nothing online: what is served is of now. The features that are built know every
moment before, so they are built as of now or not at all. Consent must hold then and now. A version of a past week never
takes the place of a champion that knows later days (`aap.modeling.train_and_promote`), so weeks are filled in from the oldest
on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from aap.config import Settings
from aap.features.errors import FeaturesNotBuilt
from aap.features.offline.build import built_as_of
from aap.infra.atomic_files import write_atomically
from aap.infra.object_store import features_folder
from aap.infra.paths import Layout
from aap.jobs.errors import PipelineError
from aap.jobs.publish_features import build_features
from aap.jobs.reports.backfill import write_weeks
from aap.jobs.run_state import RetrainResult
from aap.jobs.runner import Say, Step, run_job
from aap.modeling.catalog import model_classes
from aap.modeling.registry.mlflow_run import Run
from aap.modeling.registry.registry import Registry
from aap.modeling.train_and_promote import training_settings
from pipelines.retrain import training_steps

__all__ = ["Replayed", "is_past", "replay", "retrain_past"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of several weeks."""

    weeks: dict[str, dict[str, dict[str, Any]]]
    """By day, then by model: what `aap.modeling.train_and_promote.describe` tells of the outcome."""
    pages: tuple[Path, ...]
    """The page, its JSON, and the plot."""


def is_past(settings: Settings, as_of: datetime) -> bool:
    """Whether the features that are built know later moments than `as_of`."""
    try:
        return as_of < built_as_of(features_folder(settings))
    except FeaturesNotBuilt:
        return False


def retrain_past(
    settings: Settings, *, as_of: datetime, models: Sequence[str] | None = None, say: Say | None = None
) -> RetrainResult:
    """Train, judge and decide about `models`, or all, as of a past moment. Raises what `run_job` raises."""
    training, chosen = training_settings(settings), model_classes() if models is None else models

    def steps(registry: Registry, run: Run, moment: datetime) -> Mapping[str, Step]:
        def features() -> dict[str, Any]:
            return {"views": [] if is_past(settings, moment) else _built(settings)}

        trained = training_steps(settings, chosen, training=training, registry=registry, run=run, as_of=moment)
        return {"features": features, **trained}

    return run_job(settings, f"retrain of {as_of:%Y-%m-%d}", as_of=as_of, steps_of=steps, say=say)


def replay(
    settings: Settings,
    *,
    first: datetime,
    weeks: int,
    models: Sequence[str] | None = None,
    say: Say | None = None,
) -> Replayed:
    """`weeks` weekly retrains of `models`, or all, from `first` on, oldest first. What is done of a week is not done again.

    The page and the plot are written after every week. Raises `PipelineError` for a week that has not come yet.
    """
    layout, chosen = Layout(settings.home), model_classes() if models is None else models
    last = first + timedelta(weeks=weeks - 1)
    if last > settings.now():
        raise PipelineError(f"The week of {last:%Y-%m-%d} has not come yet; replay fewer weeks or begin earlier.")
    stem = layout.reports / f"replay-{first:%Y-%m-%d}"
    record = stem.with_suffix(".json")
    done: dict[str, dict[str, dict[str, Any]]] = json.loads(record.read_text()) if record.is_file() else {}
    pages: tuple[Path, ...] = ()
    for week in range(weeks):
        moment = first + timedelta(weeks=week)
        if say:
            say(f"{moment:%Y-%m-%d}", week, weeks)
        day = f"{moment:%Y-%m-%d}"
        if left := [name for name in chosen if name not in done.get(day, {})]:
            result = retrain_past(settings, as_of=moment, models=left)
            told = [r.result for name, r in result.steps.items() if name.startswith("train ")]
            done.setdefault(day, {}).update({outcome["model"]: outcome for outcome in told})
            write_atomically(record, json.dumps(done, indent=1).encode())
        pages = (*write_weeks(done, stem=stem), record)
    if say:
        say("", weeks, weeks)
    return Replayed(done, pages)


def _built(settings: Settings) -> list[dict[str, Any]]:
    return [asdict(made) for made in build_features(settings, as_of=settings.now())]
