"""The pictures of an evaluation. Each returns a titled figure with labelled axes and touches no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aap.modeling.evaluation.evaluation import Interval
from aap.modeling.evaluation.metrics import reliability

__all__ = ["bars", "calibration", "distribution", "gains", "heatmap", "lines", "roc"]

_MAIN, _OTHER = "#1b6ca8", "#9aa5b1"
_RIVALS = ("#d1495b", "#e09f3e", "#5b8e7d", "#6d597a")


def bars(values: Mapping[str, float], *, title: str, axis: str, highlight: str | None = None) -> Figure:
    """Horizontal bars, one a name, the value printed at its end."""
    figure, axes = _figure(title, height=1.5 + 0.38 * len(values))
    names = list(values)[::-1]
    numbers = [values[name] for name in names]
    colours = [_MAIN if highlight is None or name == highlight else _OTHER for name in names]
    drawn = axes.barh(names, numbers, color=colours)
    axes.bar_label(drawn, fmt=lambda value: f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}", padding=3)
    axes.margins(x=0.15)
    axes.set_xlabel(axis)
    return figure


def gains(found: Mapping[str, Interval], *, title: str, metric: str) -> Figure:
    """The model minus each baseline with its 95 % interval; right of the line is better."""
    figure, axes = _figure(title, height=1.6 + 0.4 * len(found))
    for row, interval in enumerate(found.values()):
        axes.plot([interval.low, interval.high], [row, row], color=_MAIN, linewidth=3, solid_capstyle="round")
        axes.plot(interval.estimate, row, "o", color=_MAIN)
    axes.axvline(0, color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(found)), [f"over {name}" for name in found])
    axes.set_ylim(-0.7, max(0.7, len(found) - 0.3))
    axes.set_xlabel(f"gain in {metric}, 95 % interval by person")
    return figure


def calibration(labels: np.ndarray, probabilities: np.ndarray, *, title: str, event: str, bins: int = 10) -> Figure:
    """What was said against what happened, in bins of equal count; on the diagonal is best."""
    figure, axes = _figure(title, height=4.5)
    said, happened, _ = reliability(labels, probabilities, bins=bins)
    most = max([*said, *happened, 0.05]) * 1.05
    axes.plot([0, most], [0, most], color="black", linewidth=0.8, linestyle="--", label="perfectly calibrated")
    axes.plot(said, happened, "o-", color=_MAIN, label="model, bins of equal count")
    axes.set_xlabel(f"predicted probability of {event}")
    axes.set_ylabel(f"share with {event}")
    axes.legend()
    return figure


def roc(labels: np.ndarray, scores: Mapping[str, np.ndarray], *, title: str) -> Figure:
    """One ROC curve a way of scoring; the first is the model."""
    figure, axes = _figure(title, height=4.5)
    for index, (name, score) in enumerate(scores.items()):
        ranked = np.asarray(labels, dtype=bool)[np.argsort(-score, kind="stable")]
        caught = np.concatenate([[0], np.cumsum(ranked) / max(1, ranked.sum())])
        alarms = np.concatenate([[0], np.cumsum(~ranked) / max(1, (~ranked).sum())])
        rival = {"color": _RIVALS[(index - 1) % len(_RIVALS)], "linewidth": 1.2, "linestyle": "--"}
        style = {"color": _MAIN, "linewidth": 2.2} if index == 0 else rival
        axes.plot(alarms, caught, label=name, **style)  # type: ignore[arg-type]
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":", label="chance")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.legend(loc="lower right")
    return figure


def distribution(groups: Mapping[str, np.ndarray], *, title: str, axis: str, threshold: float | None = None) -> Figure:
    """Histograms of a score, one a group, each summing to 1; a vertical line marks the threshold."""
    figure, axes = _figure(title, height=4.0)
    together = np.concatenate(list(groups.values()))
    edges = np.linspace(float(together.min()), float(together.max()) + 1e-9, 41)
    for name, values in groups.items():
        weights = np.full(len(values), 1.0 / max(1, len(values)))
        axes.hist(values, bins=list(edges), weights=weights, alpha=0.6, label=f"{name} (n={len(values):,})")
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.3f}")
    axes.set_xlabel(axis)
    axes.set_ylabel("share of rows")
    axes.legend()
    return figure


def heatmap(values: np.ndarray, *, rows: Sequence[str], columns: Sequence[str], title: str, legend: str) -> Figure:
    """A grid of numbers around zero: blue below, red above, each printed in its cell."""
    figure, axes = _figure(title, height=2.8 + 0.5 * len(rows))
    reach = max(1e-9, float(np.abs(values).max()))
    image = axes.imshow(values, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    for row, column in np.ndindex(*values.shape):
        number = float(values[row, column])
        ink = "white" if abs(number) > 0.6 * reach else "black"
        axes.text(column, row, f"{number:+.1f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xlabel("feature")
    axes.set_ylabel("segment")
    figure.colorbar(image, ax=axes, label=legend)
    return figure


def lines(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    points: Mapping[str, tuple[float, float]],
    title: str,
    across: str,
    up: str,
) -> Figure:
    """Curves through (x, y) with the y of each place printed, and single points beside them."""
    figure, axes = _figure(title, height=4.0)
    for index, (name, places) in enumerate(curves.items()):
        colour = (_MAIN, *_RIVALS)[index % 5]
        axes.plot(*zip(*places, strict=True), "o-", color=colour, label=name)
        for place in places:
            axes.annotate(f"{place[1]:.3f}", place, textcoords="offset points", xytext=(0, 8), ha="center", fontsize=8)
    for name, place in points.items():
        axes.plot(*place, "D", color=_RIVALS[0], markersize=8, label=f"{name} ({place[0]:.0f} %): {place[1]:.3f}")
    axes.margins(x=0.08, y=0.25)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(loc="lower right")
    return figure


def _figure(title: str, *, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.0, height), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes
