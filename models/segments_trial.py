"""How segments are judged: how well apart they are, and whether they come out again, beside fixed RFM quantiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from feature_repo.frame import TrainingFrame
from models.clustering import cluster, nearest
from models.evaluation import Evaluation, Interval
from models.metrics import adjusted_rand, paired_bootstrap, silhouettes
from models.plots import bars, gains, heatmap
from models.scaling import Scaling
from models.snapshot import checked

if TYPE_CHECKING:
    from models.segments import Segments, SegmentsParameters

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
    """
    earlier = checked(train, what="People to form segments from", fewest=parameters.min_rows)
    later = _some(checked(held_out, what="People to judge segments on", fewest=parameters.min_rows), seed=seed)
    points, ours = model.points(later), model.groups(later)
    draws = _draws(len(earlier), parameters.stability_draws, seed=seed)
    spread = silhouettes(points, ours)
    again = [_refit(model, earlier[drawn], parameters, seed)(later) for drawn in draws]
    metrics = {
        "silhouette": float(spread.mean()),
        "stability": _agreement(ours, again),
        "smallest_share": float(np.bincount(ours, minlength=len(model.names)).min() / len(ours)),
        "segments": float(len(model.names)),
    }
    where = [(held_out.features.index(name), less) for name, less in _RFM if name in held_out.features]
    if len(where) < len(_RFM):
        return _report(model, metrics, {}, {}, rows=len(later))
    theirs = _rfm(earlier, where, count=len(model.names))(later)
    rival = silhouettes(points, theirs)
    again = [_rfm(earlier[drawn], where, count=len(model.names))(later) for drawn in draws]
    baseline = {"silhouette": float(rival.mean()), "stability": _agreement(theirs, again)}
    gain = paired_bootstrap(lambda drawn: float((spread - rival)[drawn].mean()), units=len(later), seed=seed)
    return _report(model, metrics, {"rfm_quantiles": baseline}, {"rfm_quantiles": gain}, rows=len(later))


def _some(values: np.ndarray, *, seed: int) -> np.ndarray:
    if len(values) <= _MOST:
        return values
    return values[np.sort(np.random.default_rng(seed).choice(len(values), size=_MOST, replace=False))]


def _draws(people: int, count: int, *, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [np.sort(generator.integers(0, people, size=people)) for _ in range(count)]


def _agreement(groups: np.ndarray, again: list[np.ndarray]) -> float:
    return float(np.mean([adjusted_rand(groups, other) for other in again])) if again else float("nan")


def _refit(model: Segments, rows: np.ndarray, parameters: SegmentsParameters, seed: int) -> Grouping:
    scaling = Scaling.fit(rows)

    def points(values: np.ndarray) -> np.ndarray:
        return np.clip(scaling.apply(values), -parameters.clip, parameters.clip)

    centers = cluster(points(rows), count=len(model.names), starts=parameters.starts, seed=seed)
    return lambda values: nearest(points(values), centers)[0]


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
        ),
        plots={
            "profiles": _profiles(model),
            "silhouette": _beside(metrics, baselines, "silhouette", title=f"Separation, {rows:,} people"),
            "gains": gains(found, title="Gain of k-means over each baseline", metric="silhouette"),
            "stability": _beside(metrics, baselines, "stability", title="Same groups when people are drawn anew"),
        },
    )


def _profiles(model: Segments) -> Figure:
    labels = [
        f"{i} {name} ({share:.0%})" for i, (name, share) in enumerate(zip(model.names, model.shares, strict=True))
    ]
    title, legend = "How each segment differs from everyone", "robust standard deviations"
    return heatmap(model.centers, rows=labels, columns=model.features, title=title, legend=legend)


def _beside(metrics: dict[str, float], baselines: dict[str, dict[str, float]], metric: str, *, title: str) -> Figure:
    shown = {"model": metrics[metric], **{name: found[metric] for name, found in baselines.items()}}
    return bars(shown, title=title, axis=f"{_AXES[metric]} (higher is better)", highlight="model")
