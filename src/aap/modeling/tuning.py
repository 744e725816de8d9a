"""Tuning: a search for better training settings, on days that no reported figure is of.

Training judges a version on the last horizon before `as_of`. A search that looked there would choose what flatters it, so
every cut here ends at least a horizon earlier (the inner split). Each trial is judged at several such cuts, newest first,
on the model's own headline; one that falls behind the median of the others is given up early (Optuna's median pruner).
The settings as they are come first, so the winner is never worse than them, here.

A study lies in SQLite and goes on where it was. Its name holds a digest of the rows it judges on and of what isn't searched:
other data, or another consent, is another study.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from aap.modeling.base import AnyModel, Parameters, Retrieval
from aap.modeling.catalog import evaluate, model_class
from aap.modeling.errors import BadParameters
from aap.modeling.leakage import require_known
from aap.modeling.registry.mlflow_run import Run
from aap.modeling.registry.registry import Registry
from aap.modeling.training_config import TrainingSettings

__all__ = ["SPACES", "Span", "Tuned", "inner_cuts", "tune"]

_DONE = (TrialState.COMPLETE, TrialState.PRUNED)
_FIRST = 5
"""Trials that are seen to the end before any is given up."""


@dataclass(frozen=True, slots=True)
class Span:
    """From where to where a setting is searched; whole numbers where `low` is one."""

    low: float
    high: float
    logarithmic: bool = False

    def suggest(self, trial: optuna.Trial, name: str) -> float | int:
        """A value for `trial`."""
        if isinstance(self.low, int):
            return trial.suggest_int(name, self.low, int(self.high), log=self.logarithmic)
        return trial.suggest_float(name, self.low, self.high, log=self.logarithmic)


_TREES = {
    "max_depth": Span(2, 8),
    "learning_rate": Span(0.02, 0.3, True),
    "min_child_weight": Span(1.0, 100.0, True),
    "subsample": Span(0.3, 1.0),
    "colsample_bytree": Span(0.2, 1.0),
    "reg_lambda": Span(0.1, 50.0, True),
}
SPACES: Mapping[str, Mapping[str, Span]] = {
    "popularity": {"weeks": Span(2, 26)},
    "recommendation": {
        **_TREES,
        "trees": Span(50, 400),
        "factors": Span(16, 128, True),
        "regularization": Span(0.1, 100.0, True),
    },
    "churn": {**_TREES, "parallel_trees": Span(1, 4)},
    "anomaly": {"trees": Span(50, 400), "rows_per_tree": Span(64, 1024, True)},
}
"""What is searched, by model. The segments' number is chosen by its own criterion while they are made."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search has found so far."""

    model: str
    headline: str
    study: str
    cuts: tuple[datetime, ...]
    """Newest first."""
    finished: int
    """Trials judged at every cut, over all sittings."""
    pruned: int
    """Trials given up early."""
    before: tuple[float, ...]
    """The headline with the settings as they are, at each cut."""
    after: tuple[float, ...]
    """With the best found."""
    best: dict[str, float | int]
    """The settings of the best trial."""
    changed: dict[str, float | int]
    """Those of them that differ from the settings as they are."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "model": self.model,
            "headline": self.headline,
            "study": self.study,
            "cuts": [cut.isoformat() for cut in self.cuts],
            "trials": {"finished": self.finished, "pruned": self.pruned},
            "before": {"mean": float(np.mean(self.before)), "by_cut": list(self.before)},
            "after": {"mean": float(np.mean(self.after)), "by_cut": list(self.after)},
            "best": self.best,
            "changed": self.changed,
        }


def inner_cuts(as_of: datetime, *, horizon_days: int, count: int, step_days: int = 14) -> tuple[datetime, ...]:
    """Cuts whose horizons all end a horizon or more before `as_of`, newest first."""
    newest = as_of - timedelta(days=2 * horizon_days)
    return tuple(newest - timedelta(days=step_days * i) for i in range(count))


def tune(
    name: str,
    *,
    retrieval: Retrieval,
    registry: Registry,
    settings: TrainingSettings,
    as_of: datetime,
    folder: Path,
    trials: int,
    cuts: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> Tuned:
    """Go on with the search for `name` until `trials` are done, in this sitting and those before.

    `folder` holds the studies. Raises `BadParameters` for a model that has nothing to search, and what reading raises.
    """
    kind = model_class(name)
    if name not in SPACES:
        raise BadParameters(f"{name} has nothing to search; choose one of: {', '.join(SPACES)}.")
    if trials < 1 or cuts < 1:
        raise BadParameters(f"A search needs at least one trial and one cut, not {trials} and {cuts}.")
    current: Any = settings.models[name]
    judge = _Judge.of(kind, retrieval, parameters=current, seed=settings.seed, as_of=as_of, cuts=cuts)
    space = SPACES[name]
    start = {setting: getattr(current, setting) for setting in space}
    with _quiet():
        study = _study(name, folder, as_of=as_of, digest=judge.digest(space), seed=settings.seed)
        with registry.run(f"tune {name}", resume=study.user_attrs.get("run"), tags={"model": name}) as run:
            study.set_user_attr("run", run.id)
            if not _judged_with(study, start):
                study.enqueue_trial(start)
            while (done := len(study.get_trials(deepcopy=False, states=_DONE))) < trials:
                if progress:
                    progress(done, trials)
                study.optimize(lambda trial: _attempt(trial, judge, space, registry, run), n_trials=1)
            if progress:
                progress(trials, trials)
            found = _told(study, judge, start)
            run.log_dict(found.to_dict(), path="tuning.json")
            run.log_metrics({"before": float(np.mean(found.before)), "after": float(np.mean(found.after))})
    return found


@dataclass(slots=True)
class _Judge:
    """The data of every cut, read once, and how settings are judged on it."""

    kind: type[AnyModel]
    parameters: Any
    seed: int
    cuts: tuple[datetime, ...]
    data: list[tuple[Any, Any]]
    """Of each cut what teaches and what judges."""
    headline: str = ""

    @classmethod
    def of(
        cls, kind: type[AnyModel], retrieval: Retrieval, *, parameters: Any, seed: int, as_of: datetime, cuts: int
    ) -> _Judge:
        horizon: int = parameters.horizon_days
        moments, data = inner_cuts(as_of, horizon_days=horizon, count=cuts), []
        for cut in moments:
            until = cut + timedelta(days=horizon)
            past = kind.examples(retrieval, until=cut, as_of=as_of, parameters=parameters)
            require_known(past, cut=cut, horizon_days=horizon, label=kind.label)
            held_out = kind.held_out(retrieval, cut=cut, until=until, as_of=as_of, parameters=parameters)
            data.append((past, held_out))
        return cls(kind, parameters, seed, moments, data)

    def score(self, values: Mapping[str, float | int], *, at: int) -> float:
        """The headline at cut number `at` with `values` in place of the settings as they are."""
        past, held_out = self.data[at]
        parameters: Parameters = replace(self.parameters, **values)
        model = self.kind.fit(past, parameters=parameters, seed=self.seed)
        made = evaluate(model, held_out=held_out, train=past, parameters=parameters, seed=self.seed)
        self.headline = made.headline
        return made.metrics[made.headline]

    def digest(self, space: Mapping[str, Span]) -> str:
        """Of the rows, the seed, and the settings that are not searched."""
        rows = [[part.manifest.rows_root for part in pair] for pair in self.data]
        fixed = {k: getattr(self.parameters, k) for k in self.parameters.__dataclass_fields__ if k not in space}
        told = json.dumps([rows, self.seed, fixed, {k: repr(v) for k, v in space.items()}], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:12]


def _study(name: str, folder: Path, *, as_of: datetime, digest: str, seed: int) -> optuna.Study:
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder / 'studies.db'}"
    called = f"{name} {as_of:%Y-%m-%d} {digest}"
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_FIRST)
    study = optuna.create_study(
        study_name=called, storage=storage, direction="maximize", pruner=pruner, load_if_exists=True
    )
    # A seed of its own for each sitting: the same one again would propose the trials of the first sitting again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def _attempt(trial: optuna.Trial, judge: _Judge, space: Mapping[str, Span], registry: Registry, parent: Run) -> float:
    values = {name: span.suggest(trial, name) for name, span in space.items()}
    with registry.run(f"trial {trial.number}", parent=parent) as run:
        run.log_params(values)
        scores: list[float] = []
        for at in range(len(judge.cuts)):
            scores.append(judge.score(values, at=at))
            run.log_metrics({judge.headline: scores[-1]}, step=at)
            trial.report(float(np.mean(scores)), step=at)
            if trial.number and at + 1 < len(judge.cuts) and trial.should_prune():
                run.set_tags({"pruned": f"after {at + 1} of {len(judge.cuts)} cuts"})
                raise optuna.TrialPruned
        run.log_metrics({"mean": float(np.mean(scores))})
        trial.set_user_attr("by_cut", scores)
        trial.set_user_attr("headline", judge.headline)
    return float(np.mean(scores))


def _judged_with(study: optuna.Study, values: Mapping[str, float | int]) -> FrozenTrial | None:
    """The finished trial with exactly these settings, if there is one."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((trial for trial in finished if trial.params == values), None)


def _told(study: optuna.Study, judge: _Judge, start: Mapping[str, float | int]) -> Tuned:
    best, first = study.best_trial, _judged_with(study, start)
    if first is None:
        raise BadParameters("The settings as they are have not been judged yet; allow one more trial.")
    counts = [len(study.get_trials(deepcopy=False, states=(state,))) for state in _DONE]
    return Tuned(
        model=judge.kind.name,
        headline=best.user_attrs["headline"],
        study=study.study_name,
        cuts=judge.cuts,
        finished=counts[0],
        pruned=counts[1],
        before=tuple(first.user_attrs["by_cut"]),
        after=tuple(best.user_attrs["by_cut"]),
        best=dict(best.params),
        changed={name: value for name, value in best.params.items() if value != start[name]},
    )


class _quiet(warnings.catch_warnings):  # noqa: N801 - a context manager, read as a verb
    """Without Optuna's line a trial, and its warning that settings by hand may lie outside of the search."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", UserWarning)
        optuna.logging.set_verbosity(logging.WARNING)
