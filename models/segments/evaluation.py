"""How segments are judged: how well apart they are, and whether they come out again, beside fixed RFM quantiles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from aap.features.datasets import TrainingFrame
from aap.modeling.algorithms.kmeans import Clusters, Recipe, agreement, drawn_anew, some_rows
from aap.modeling.evaluation.evaluation import Evaluation, Interval
from aap.modeling.evaluation.metrics import paired_bootstrap, silhouettes
from aap.modeling.evaluation.plots import bars, gains, heatmap
from aap.modeling.snapshot import checked
from models.segments.model import Segments, SegmentsParameters

__all__ = ["evaluate"]

_RFM = (("days_since_last_purchase", True), ("basket_count_90d", False), ("amount_sum_90d", False))
"""Recency, frequency, monetary value, and whether less is better."""
_AXES = {"silhouette": "silhouette", "stability": "adjusted Rand index"}
_MOST = 4_000
"""People the silhouette is taken over; its cost is quadratic."""
Grouping = Callable[[np.ndarray], np.ndarray]


def evaluate(
    model: Segments, *, held_out: TrainingFrame, train: TrainingFrame, parameters: SegmentsParameters, seed: int
) -> Evaluation:
    """Silhouette is the headline, in the scaled features both are judged in; stability is an adjusted Rand index.

    Stability: the grouping is made anew from people drawn with replacement; both group the later rows; mean agreement.
    The baseline is fixed RFM quantiles. Raises `SchemaMismatch`, `TooFewRows`.
    """
    model.require(held_out.features)
    earlier = checked(train, what="People to form segments from", fewest=parameters.min_rows)
    everyone = checked(held_out, what="People to judge segments on", fewest=parameters.min_rows)
    later = some_rows(everyone, most=_MOST, seed=seed)
    points, ours, count = model.clusters.points(later), model.groups(later), len(model.names)
    draws = drawn_anew(earlier, parameters.stability_draws, seed=seed)
    spread = silhouettes(points, ours)
    recipe = Recipe(parameters.starts, parameters.clip, seed)
    metrics = {
        "silhouette": float(spread.mean()),
        "stability": agreement(ours, [Clusters.fit(rows, count=count, recipe=recipe).groups(later) for rows in draws]),
        "smallest_share": float(np.bincount(ours, minlength=count).min() / len(ours)),
        "segments": float(count),
    }
    where = [(held_out.features.index(name), less) for name, less in _RFM if name in held_out.features]
    if len(where) < len(_RFM):
        return _report(model, metrics, {}, {}, rows=len(later))
    theirs = _rfm(earlier, where, count=count)(later)
    rival = silhouettes(points, theirs)
    again = [_rfm(rows, where, count=count)(later) for rows in draws]
    baseline = {"silhouette": float(rival.mean()), "stability": agreement(theirs, again)}
    gain = paired_bootstrap(lambda drawn: float((spread - rival)[drawn].mean()), units=len(later), seed=seed)
    return _report(model, metrics, {"rfm_quantiles": baseline}, {"rfm_quantiles": gain}, rows=len(later))


def _rfm(rows: np.ndarray, where: list[tuple[int, bool]], *, count: int) -> Grouping:
    """The usual recipe: a quintile score for each of R, F, M by fixed edges, summed, cut into `count` equal parts."""
    edges = [np.nanquantile(rows[:, column], [0.2, 0.4, 0.6, 0.8]) for column, _ in where]

    def total(values: np.ndarray) -> np.ndarray:
        found = np.zeros(len(values))
        for (column, less), edge in zip(where, edges, strict=True):
            score = np.searchsorted(edge, np.nan_to_num(values[:, column], nan=np.inf if less else 0.0), side="right")
            found += 4 - score if less else score
        return found

    bounds = np.quantile(total(rows), np.arange(1, count) / count)
    return lambda values: np.searchsorted(bounds, total(values), side="right")


def _report(
    model: Segments,
    metrics: dict[str, float],
    baselines: dict[str, dict[str, float]],
    found: dict[str, Interval],
    *,
    rows: int,
) -> Evaluation:
    return Evaluation(
        model=model.name,
        headline="silhouette",
        metrics=metrics,
        baselines=baselines,
        gains=found,
        rows=rows,
        notes=(
            "Silhouette is measured in the scaled features k-means works in, which favours it over quantiles of three.",
            *model.described,
        ),
        plots={
            "profiles": _profiles(model),
            "sizes": _sizes(model),
            "silhouette": _beside(metrics, baselines, "silhouette", title=f"Separation, {rows:,} people"),
            "gains": gains(found, title="Gain of k-means over each baseline", metric="silhouette"),
            "stability": _beside(metrics, baselines, "stability", title="Same groups when people are drawn anew"),
        },
    )


def _profiles(model: Segments) -> Figure:
    shares = zip(_labels(model), model.shares, strict=True)
    labels = [f"{label} ({share:.0%})" for label, share in shares]
    title, legend = "How each segment differs from everyone", "robust standard deviations"
    return heatmap(model.clusters.centers, rows=labels, columns=model.features, title=title, legend=legend)


def _sizes(model: Segments) -> Figure:
    sizes = dict(zip(_labels(model), map(float, model.sizes), strict=True))
    return bars(sizes, title=f"Size of each of {len(sizes)} segments", axis="people")


def _labels(model: Segments) -> list[str]:
    return [f"{number} {name}" for number, name in zip(model.numbers, model.names, strict=True)]


def _beside(metrics: dict[str, float], baselines: dict[str, dict[str, float]], metric: str, *, title: str) -> Figure:
    shown = {"model": metrics[metric], **{name: found[metric] for name, found in baselines.items()}}
    return bars(shown, title=title, axis=f"{_AXES[metric]} (higher is better)", highlight="model")
