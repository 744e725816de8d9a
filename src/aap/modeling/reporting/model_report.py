"""The report: every model judged at one fixed cut beside every baseline, as one object.

The cut is an argument, so that figures of different days, settings and machines are of the same question. Nothing is
registered and nothing is promoted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aap.modeling.base import Parameters, Retrieval
from aap.modeling.catalog import declaration, evaluate, model_class
from aap.modeling.errors import BadParameters
from aap.modeling.evaluation.evaluation import Evaluation
from aap.modeling.evaluation.metrics import auc, paired_bootstrap
from aap.modeling.leakage import require_known
from aap.modeling.reporting.consent_coverage import plot, price
from aap.modeling.training_config import TrainingSettings

__all__ = ["CHURN_HORIZONS", "REPORTED", "report", "with_price"]

CHURN_HORIZONS = (14, 28)
REPORTED = ("recommendation", "churn", "segments", "anomaly", "event_anomaly", "session_anomaly")
_CALLED = {
    "plain_als": "als",
    "personal_frequency": "personal",
    "ndcg_at_10": "ndcg10",
    "roc_auc": "auc",
    "average_precision": "ap",
    "calibration_error": "ece",
    "stability": "ari",
}
"""Names in the report that are shorter than ours."""
_PRICED = {
    "recommendation": ("ndcg_at_10", "new_ndcg_at_10"),
    "churn": ("auc",),
    "segments": ("silhouette", "stability"),
    "anomaly": ("roc_auc", "average_precision"),
    "event_anomaly": ("roc_auc",),
    "session_anomaly": ("roc_auc",),
}
"""What is told of each model as fewer people agree; the first is plotted too."""


def report(
    retrieval: Retrieval,
    *,
    settings: TrainingSettings,
    cut: datetime,
    models: Sequence[str] = REPORTED,
    weeks: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Fit each of `models` on what was known at `cut` and judge it on the horizon after.

    With `weeks`, churn is also fitted and judged at so many weekly cuts before, all together beside logistic regression.
    Raises what fitting and judging raise.
    """
    tell = progress or (lambda stage: None)
    found: dict[str, Any] = {}
    for name in models:
        if name == "churn":
            found[name] = {}
            for days in CHURN_HORIZONS:
                tell(f"churn in {days} days")
                parameters: Any = replace(settings.models[name], horizon_days=days)  # type: ignore[type-var]
                told = _churn(judged(name, retrieval, cut=cut, parameters=parameters, seed=settings.seed))
                if weeks:
                    tell(f"churn in {days} days, {weeks} earlier weeks")
                    told["weeks"] = _weekly(retrieval, cut=cut, weeks=weeks, parameters=parameters, seed=settings.seed)
                found[name][str(days)] = told
        else:
            tell(name)
            made = judged(name, retrieval, cut=cut, parameters=settings.models[name], seed=settings.seed)
            found[name] = _recommendation(made) if name == "recommendation" else _other(made)
    return found


def with_price(
    found: dict[str, Any],
    retrieval: Retrieval,
    *,
    settings: TrainingSettings,
    cut: datetime,
    consented: Callable[[str], frozenset[str]] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Figure]:
    """Put under `price` of each model in `found` how it does as fewer people agree; returns a plot a model.

    `consented` says who said yes to a service. Churn is told at the horizon of the settings.
    """
    plots = {}
    for name, told in found.items():
        metrics, service = _PRICED[name], model_class(name).service
        told["price"] = price(
            name,
            retrieval,
            cut=cut,
            parameters=settings.models[name],
            seed=settings.seed,
            metrics=metrics,
            consented=consented(service) if consented else None,
            progress=progress,
        )
        title, called = f"The price of consent: {name}", metrics[0].replace("_", " ")
        plots[name] = plot(told["price"], title=title, metric=metrics[0], name=f"{called} (higher is better)")
    return plots


def judged(name: str, retrieval: Retrieval, *, cut: datetime, parameters: Parameters, seed: int) -> Evaluation:
    """One model fitted at `cut` and judged on the horizon after."""
    kind = model_class(name)
    until = cut + timedelta(days=parameters.horizon_days)
    past = kind.examples(retrieval, until=cut, as_of=until, parameters=parameters)
    require_known(past, cut=cut, horizon_days=parameters.horizon_days, label=kind.label)
    held_out = kind.held_out(retrieval, cut=cut, until=until, as_of=until, parameters=parameters)
    model = kind.fit(past, parameters=parameters, seed=seed)
    return evaluate(model, held_out=held_out, train=past, parameters=parameters, seed=seed)


def _recommendation(made: Evaluation) -> dict[str, Any]:
    return {"any": _ranking(made, ""), "new": _ranking(made, "new_")} | {
        "people": made.rows,
        "items": int(made.metrics["items"]),
    }


def _ranking(made: Evaluation, prefix: str) -> dict[str, Any]:
    metric = f"{prefix}ndcg_at_10"
    extras = ("recall_at_10", "coverage_at_10", "popularity_bias_at_10")
    return {
        "ndcg10": made.metrics[metric],
        "interval": [made.metrics[f"{metric}_low"], made.metrics[f"{metric}_high"]],
        "baselines": {_CALLED.get(n, n): found[metric] for n, found in made.baselines.items() if metric in found},
        **{name: made.metrics[prefix + name] for name in extras if prefix + name in made.metrics},
    }


def _churn(made: Evaluation) -> dict[str, Any]:
    return {
        "auc": made.metrics["auc"],
        "interval": [made.metrics["auc_low"], made.metrics["auc_high"]],
        "ece": made.metrics["calibration_error"],
        "brier": made.metrics["brier"],
        "baselines": {name: found["auc"] for name, found in made.baselines.items()},
        "gains": {name: [gain.low, gain.high] for name, gain in made.gains.items()},
        "people": made.rows,
        "churn_rate": made.metrics["churn_rate"],
    }


def _other(made: Evaluation) -> dict[str, Any]:
    """Metrics and baselines under their short names."""
    metrics = {_CALLED.get(name, name): value for name, value in made.metrics.items()}
    if "segments" in metrics:
        metrics["k"] = int(metrics.pop("segments"))
    baselines = {
        name: {_CALLED.get(metric, metric): value for metric, value in found.items()}
        for name, found in made.baselines.items()
    }
    gains = {name: [gain.low, gain.high] for name, gain in made.gains.items()}
    return {**metrics, "baselines": baselines, "gains": gains, "people": made.rows}


def _weekly(retrieval: Retrieval, *, cut: datetime, weeks: int, parameters: Any, seed: int) -> dict[str, Any]:
    """The mean AUC at the weekly cuts before `cut`, and the gain over logistic regression, people drawn anew."""
    declared, parts = declaration("churn"), []
    kind, compare = declared.model, declared.compare
    if compare is None:
        raise BadParameters(
            "The model churn declares no comparison with a baseline, so earlier weeks can't be reported."
        )
    for week in range(1, weeks + 1):
        at = cut - timedelta(days=7 * week)
        until = at + timedelta(days=parameters.horizon_days)
        past = kind.examples(retrieval, until=at, as_of=until, parameters=parameters)
        held_out = kind.held_out(retrieval, cut=at, until=until, as_of=until, parameters=parameters)
        model: Any = kind.fit(past, parameters=parameters, seed=seed)
        parts.append(compare(model, held_out=held_out, train=past))
    return _over_weeks(parts, seed=seed)


def _over_weeks(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], *, seed: int) -> dict[str, Any]:
    """`parts`: of each cut the user keys, labels, our scores and the rival's."""
    people = np.unique(np.concatenate([keys for keys, *_ in parts]))
    places = [np.searchsorted(people, keys) for keys, *_ in parts]

    def gain(drawn: np.ndarray) -> float:
        times = np.bincount(drawn, minlength=len(people))
        found = []
        for place, (_, labels, ours, theirs) in zip(places, parts, strict=True):
            rows = np.repeat(np.arange(len(place)), times[place])
            found.append(auc(labels[rows], ours[rows]) - auc(labels[rows], theirs[rows]))
        return float(np.mean(found))

    interval = paired_bootstrap(gain, units=len(people), seed=seed)
    return {
        "cuts": len(parts),
        "auc": float(np.mean([auc(labels, ours) for _, labels, ours, _ in parts])),
        "logistic": float(np.mean([auc(labels, theirs) for _, labels, _, theirs in parts])),
        "gain": interval.estimate,
        "interval": [interval.low, interval.high],
    }
