"""How anomaly detection is judged, there being no labels: stated kinds are planted into copies of later rows.

The figures say how well planted anomalies are found, not how well real fraud is, and the reports repeat that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from aap.features.datasets import TrainingFrame
from aap.modeling.algorithms.robust_scaling import MEDIAN_ABSOLUTE_DEVIATION_TO_SIGMA
from aap.modeling.evaluation.evaluation import Evaluation, Interval
from aap.modeling.evaluation.metrics import auc, average_precision, paired_bootstrap
from aap.modeling.evaluation.plots import bars, distribution, gains, roc
from aap.modeling.snapshot import checked
from models.anomaly.customers import Anomaly, AnomalyParameters
from models.anomaly.synthetic_anomalies import KINDS, plant

__all__ = ["evaluate", "mad_rule"]


def evaluate(
    model: Anomaly, *, held_out: TrainingFrame, train: TrainingFrame, parameters: AnomalyParameters, seed: int
) -> Evaluation:
    """ROC AUC over ordinary later rows and planted ones is the headline; alarms among ordinary rows are reported.

    The baseline is a median-absolute-deviation rule. Raises `SchemaMismatch`, `TooFewRows`.
    """
    model.require(held_out.features)
    earlier = checked(train, what="People to learn what is usual from", fewest=parameters.min_rows)
    ordinary = checked(held_out, what="People to judge anomalies on", fewest=parameters.min_rows)
    planted = plant(ordinary, features=held_out.features, seed=seed)
    everything = np.concatenate([ordinary, *planted.values()])
    labels = np.arange(len(everything)) >= len(ordinary)
    ours, theirs = model.score(everything), mad_rule(earlier)(everything)
    kinds = dict(zip(planted, np.split(ours[labels], len(planted)), strict=True))
    usual = ours[~labels]
    metrics = {
        **_measures(labels, ours),
        "false_alarm_rate": float(np.mean(usual > model.threshold)),
        "planted_caught": float(np.mean(ours[labels] > model.threshold)),
        **{
            f"roc_auc_{kind}": auc(_marks(usual, found), np.concatenate([usual, found]))
            for kind, found in kinds.items()
        },
    }
    gain = {"mad_rule": _gain(labels, ours, theirs, seed=seed)}
    return Evaluation(
        model=model.name,
        headline="roc_auc",
        metrics=metrics,
        baselines={"mad_rule": _measures(labels, theirs)},
        gains=gain,
        rows=len(ordinary),
        notes=(
            f"Anomalies are planted ({', '.join(planted)}), not real: nothing here says how well real misuse is found.",
            f"The threshold allows {parameters.false_alarm_budget:.1%} false alarms on the rows it was fitted on.",
        ),
        plots=_plots(labels, ours, theirs, metrics, gain, threshold=model.threshold),
    )


def mad_rule(earlier: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The rule of thumb: largest |x − median| / (1.4826 · MAD) over features; higher is more unusual.

    Where the MAD is 0, 1.2533 times the mean absolute deviation takes its place (Iglewicz & Hoaglin 1993).
    """
    center = np.nan_to_num(np.nanmedian(earlier, axis=0))
    away = np.abs(earlier - center)
    robust, mean = MEDIAN_ABSOLUTE_DEVIATION_TO_SIGMA * np.nanmedian(away, axis=0), 1.2533 * np.nanmean(away, axis=0)
    scale = np.nan_to_num(np.where(robust > 0, robust, mean))
    scale[scale == 0] = 1.0
    return lambda values: np.nan_to_num(np.abs(values - center) / scale, nan=0.0).max(axis=1)


def _measures(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    return {"roc_auc": auc(labels, scores), "average_precision": average_precision(labels, scores)}


def _marks(usual: np.ndarray, found: np.ndarray) -> np.ndarray:
    return np.arange(len(usual) + len(found)) >= len(usual)


def _gain(labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray, *, seed: int) -> Interval:
    def difference(drawn: np.ndarray) -> float:
        return auc(labels[drawn], ours[drawn]) - auc(labels[drawn], theirs[drawn])

    return paired_bootstrap(difference, units=len(labels), seed=seed)


def _plots(
    labels: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
    metrics: dict[str, float],
    gain: dict[str, Interval],
    *,
    threshold: float,
) -> dict[str, Figure]:
    kinds = {kind: metrics[f"roc_auc_{kind}"] for kind in KINDS if f"roc_auc_{kind}" in metrics}
    title = f"{len(kinds)} kinds of planted anomalies, {int((~labels).sum()):,} people"
    groups = {"ordinary": ours[~labels], "planted": ours[labels]}
    return {
        "roc": roc(labels, {"isolation forest": ours, "MAD rule": theirs}, title=title),
        "scores": distribution(groups, title=title, axis="anomaly score", threshold=threshold),
        "kinds": bars(kinds, title="Which planted kinds are found", axis="ROC AUC"),
        "gains": gains(gain, title="Gain of the isolation forest", metric="ROC AUC"),
    }
