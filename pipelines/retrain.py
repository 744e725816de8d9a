"""The weekly retrain: one idempotent command that brings everything up to date, and says what it did.

Import what is new → recompute a sample of what was served → build features and bring them online → drift report → for
each model train, judge, gate, promote or keep → guardrails of the experiments → summary. A model that has too little to
learn from keeps its champion; the others go on.

Each finished step is written down before the next begins; a run that was killed goes on from the step it
was in, under the same moment (`as_of`) and the same MLflow run. Two at once: the second says so and leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.report import write_report
from experiments.running import open_experiments
from feature_repo.errors import NothingToVerify
from feature_repo.retrieval import open_retrieval
from models.errors import OneClassOnly, TooFewRows
from models.registry import Registry, Run, open_registry
from models.roster import MODELS
from pipelines.consistency import check_consistency
from pipelines.drift import report_drift
from pipelines.errors import StepFailed
from pipelines.ingest import archive_live_events, import_again
from pipelines.promotion import Outcome, train_and_decide, training_settings
from pipelines.publish import bring_online, build_features
from pipelines.run_record import RetrainResult, StepRecord, load_record, save_record
from pipelines.summary import write_summary
from settings.config import Settings
from storage.layout import Layout
from storage.locks import hold

__all__ = ["describe", "retrain"]

Say = Callable[[str, int, int], None]
"""Called with (step, steps done, steps in all)."""


def retrain(settings: Settings, *, as_of: datetime, say: Say | None = None) -> RetrainResult:
    """Run every step that is not done yet. Raises `LockHeld` while another retrain runs, `StepFailed` where one fails."""
    layout = Layout(settings.home)
    with hold(layout.run / "retrain.lock", what="a retrain"):
        registry = open_registry(settings)
        with _parent(registry, layout, as_of=as_of) as (run, result):
            moment = datetime.fromisoformat(result.as_of)
            steps = _steps(settings, registry=registry, run=run, as_of=moment)
            for done, (name, step) in enumerate(steps.items()):
                if say:
                    say(name, done, len(steps) + 1)
                if name not in result.steps:
                    _do(name, step, result=result, layout=layout)
            pages = write_summary(result, folder=layout.reports)
            for page in pages:
                run.log_artifact(page, folder="summary")
            result.summary = str(pages[0])
            if say:
                say("summary", len(steps) + 1, len(steps) + 1)
        _state_file(layout).unlink(missing_ok=True)
    return result


def _do(name: str, step: Callable[[], dict[str, Any]], *, result: RetrainResult, layout: Layout) -> None:
    started = time.perf_counter()
    try:
        found = step()
    except Exception as error:
        raise StepFailed(
            f"The retrain stopped at step {name!r}: {' '.join(str(error).split()).rstrip('.')}. "
            "Run it again to go on from there."
        ) from error
    result.steps[name] = StepRecord(found, round(time.perf_counter() - started, 2))
    save_record(result, _state_file(layout))


def _steps(
    settings: Settings, *, registry: Registry, run: Run, as_of: datetime
) -> dict[str, Callable[[], dict[str, Any]]]:
    """The steps in order. Each may be repeated: doing one twice leaves what doing it once leaves."""
    layout = Layout(settings.home)
    training = training_settings(settings)

    def import_new() -> dict[str, Any]:
        live = archive_live_events(settings, now=as_of)
        return {"live": _plain(asdict(live)), "sources": [_plain(asdict(r)) for r in import_again(settings, now=as_of)]}

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
        return {"drifted": report.drifted, "compared": report.compared, "pages": [str(p) for p in report.html]}

    def model(name: str) -> Callable[[], dict[str, Any]]:
        def train_it() -> dict[str, Any]:
            try:
                outcome = train_and_decide(
                    name,
                    retrieval=open_retrieval(settings),
                    registry=registry,
                    settings=training,
                    as_of=as_of,
                    parent=run,
                )
            except (TooFewRows, OneClassOnly) as error:
                return {"model": name, "promoted": False, "reasons": [f"Not trained: {error}"]}
            return describe(outcome)

        return train_it

    def experiments() -> dict[str, Any]:
        found = open_experiments(settings).watch(as_of=as_of, now=max(as_of, settings.now()))
        pages = [write_report(one, folder=layout.reports)[0] for one in found]
        stopped = {one.flag.name: one.stop.reason for one in found if one.stopped_now and one.stop}
        return {"read_out": [one.flag.name for one in found], "stopped": stopped, "pages": [str(p) for p in pages]}

    first = {"import": import_new, "consistency": consistency, "features": features, "drift": drift}
    return {**first, **{f"train {n}": model(n) for n in MODELS}, "experiments": experiments}


def describe(outcome: Outcome) -> dict[str, Any]:
    """One model's outcome, JSON-ready."""
    evaluation = outcome.trained.evaluation
    return {
        "model": outcome.trained.name,
        "version": outcome.trained.version.version,
        "promoted": outcome.promoted,
        "replaced": outcome.replaced,
        "reasons": list(outcome.reasons),
        "headline": evaluation.headline,
        "metrics": evaluation.metrics,
        "baselines": evaluation.baselines,
        "rows": outcome.trained.manifest.rows,
        "excluded": outcome.trained.manifest.excluded,
    }


@contextmanager
def _parent(registry: Registry, layout: Layout, *, as_of: datetime) -> Iterator[tuple[Run, RetrainResult]]:
    """The run to log to: the unfinished one if there is any, else a new one."""
    left = load_record(_state_file(layout))
    with registry.run(f"retrain {as_of:%Y-%m-%d}", resume=left.run_id if left else None) as run:
        result = left or RetrainResult(as_of.isoformat(), run.id)
        save_record(result, _state_file(layout))
        yield run, result


def _state_file(layout: Layout) -> Path:
    return layout.run / "retrain.json"


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    return {k: dict(v) if isinstance(v, dict) else v for k, v in report.items()}
