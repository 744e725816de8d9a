"""The weekly retrain: one idempotent command that brings everything up to date, and says what it did.

Import what is new → recompute a sample of what was served → build features and bring them online → drift report → for
each model train, judge, gate, promote or keep → guardrails of the experiments → summary. A model that has too little to
learn from keeps its champion; the others go on.

Each finished step is written down before the next begins; a run that was killed goes on from the step it
was in, under the same moment (`as_of`) and the same MLflow run. Two at once: the second says so and leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

from aap.config import Settings
from aap.consent.service import open_ledger
from aap.experiments.analysis.report import write_report
from aap.experiments.service import open_experiments
from aap.features.errors import NothingToVerify
from aap.features.retrieval import open_retrieval
from aap.infra.paths import Layout
from aap.jobs.ingest import import_what_is_new
from aap.jobs.publish_features import bring_online, build_features
from aap.jobs.reports.drift import report_drift
from aap.jobs.reports.online_offline_skew import check_consistency
from aap.jobs.reports.retrain_summary import write_summary
from aap.jobs.run_state import RetrainResult
from aap.jobs.runner import Say, Step, run_job
from aap.modeling.catalog import model_classes
from aap.modeling.errors import OneClassOnly, TooFewRows
from aap.modeling.registry.mlflow_run import Run
from aap.modeling.registry.registry import Registry
from aap.modeling.train_and_promote import describe, train_and_decide, training_settings
from aap.modeling.training_config import TrainingSettings

__all__ = ["Say", "retrain", "training_steps"]


def retrain(settings: Settings, *, as_of: datetime, say: Say | None = None) -> RetrainResult:
    """Run every step that is not done yet. Raises `LockHeld` while another job runs, `StepFailed` where one fails."""

    def steps_of(registry: Registry, run: Run, moment: datetime) -> Mapping[str, Step]:
        return _steps(settings, registry=registry, run=run, as_of=moment)

    def summarize(result: RetrainResult, run: Run) -> None:
        pages = write_summary(result, folder=Layout(settings.home).reports)
        for page in pages:
            run.log_artifact(page, folder="summary")
        result.summary = str(pages[0])

    return run_job(settings, "retrain", as_of=as_of, steps_of=steps_of, finish=summarize, say=say)


def _steps(settings: Settings, *, registry: Registry, run: Run, as_of: datetime) -> dict[str, Step]:
    """The steps in order. Each may be repeated: doing one twice leaves what doing it once leaves."""
    layout = Layout(settings.home)
    training = training_settings(settings)

    def consistency() -> dict[str, Any]:
        try:
            report = check_consistency(settings, now=settings.now())
        except NothingToVerify as error:
            return {"checked": 0, "why": str(error)}
        run.log_artifact(report.page, folder="consistency")
        return report.figures()

    def features() -> dict[str, Any]:
        built = build_features(settings, as_of=as_of)
        bring_online(settings, as_of=as_of)
        return {"views": [asdict(b) for b in built]}

    def drift() -> dict[str, Any]:
        folder = layout.reports / f"{as_of:%Y-%m-%dT%H%M}"
        report = report_drift(open_retrieval(settings), folder=folder, as_of=as_of, seed=training.seed)
        for page in (*report.html, *report.json):
            run.log_artifact(page, folder="drift")
        left = {name: len(columns) for name, columns in report.left_out.items()}
        return {
            "drifted": report.drifted,
            "compared": report.compared,
            "left_out": left,
            "pages": [str(p) for p in report.html],
        }

    def experiments() -> dict[str, Any]:
        found = open_experiments(settings).watch(as_of=as_of, now=max(as_of, settings.now()))
        pages = [write_report(one, folder=layout.reports)[0] for one in found]
        stopped = {one.flag.name: one.stop.reason for one in found if one.stopped_now and one.stop}
        return {"read_out": [one.flag.name for one in found], "stopped": stopped, "pages": [str(p) for p in pages]}

    first: dict[str, Step] = {
        "import": partial(import_what_is_new, settings, now=as_of),
        "consistency": consistency,
        "features": features,
        "drift": drift,
    }
    trained = training_steps(settings, model_classes(), training=training, registry=registry, run=run, as_of=as_of)
    return {**first, **trained, "experiments": experiments}


def training_steps(
    settings: Settings,
    models: Iterable[str],
    *,
    training: TrainingSettings,
    registry: Registry,
    run: Run,
    as_of: datetime,
) -> dict[str, Step]:
    """A step for each model: train, judge, gate, promote or keep. One with too little to learn from says so."""

    def model(name: str) -> Step:
        def train_it() -> dict[str, Any]:
            try:
                outcome = train_and_decide(
                    name,
                    retrieval=open_retrieval(settings),
                    registry=registry,
                    ledger=open_ledger(settings),
                    settings=training,
                    as_of=as_of,
                    now=max(as_of, settings.now()),
                    parent=run,
                )
            except (TooFewRows, OneClassOnly) as error:
                return {"model": name, "promoted": False, "reasons": [f"Not trained: {error}"]}
            return describe(outcome)

        return train_it

    return {f"train {name}": model(name) for name in models}
