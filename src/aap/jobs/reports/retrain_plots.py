"""The pictures of a retrain's summary: each model beside its champion and baselines, data in and refused, drift."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

__all__ = ["data_in", "drift_scores", "embedded", "models_beside"]

_MAIN, _CHAMPION, _RIVAL, _BAD = "#1b6ca8", "#e09f3e", "#9aa5b1", "#d1495b"


def models_beside(outcomes: Sequence[Mapping[str, Any]]) -> Figure | None:
    """A panel a trained model: its headline, the champion's before it and each baseline's. None if none was trained."""
    told = [outcome for outcome in outcomes if "version" in outcome]
    if not told:
        return None
    figure = Figure(figsize=(9.0, 0.4 + sum(0.75 + 0.24 * _rows(t) for t in told)), layout="constrained", dpi=110)
    panels = figure.subplots(len(told), 1, squeeze=False, height_ratios=[1.5 + _rows(t) for t in told])
    for axes, outcome in zip(panels[:, 0], told, strict=True):
        measure = outcome["headline"]
        values = {"this version": outcome["metrics"][measure]}
        if outcome.get("champion") is not None:
            values["champion before"] = outcome["champion"]
        values |= {name: found[measure] for name, found in outcome["baselines"].items() if measure in found}
        names = list(values)[::-1]
        colours = {"this version": _MAIN, "champion before": _CHAMPION}
        drawn = axes.barh(names, [values[n] for n in names], color=[colours.get(n, _RIVAL) for n in names])
        axes.bar_label(drawn, fmt="{:.4f}", padding=3, fontsize=8)
        axes.margins(x=0.15)
        axes.tick_params(labelsize=8)
        decided = "promoted" if outcome["promoted"] else "kept the champion"
        axes.set_title(f"{outcome['model']}: {measure} ({decided})", loc="left", fontsize=10)
    return figure


def data_in(sources: Sequence[Mapping[str, Any]]) -> Figure | None:
    """What became of each table's rows, as shares: accepted, known already, rejected, refused by consent."""
    if not sources:
        return None
    figure = Figure(figsize=(9.0, 1.3 + 0.4 * len(sources)), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    parts = {
        "accepted": [sum(s["accepted"].values()) for s in sources],
        "known already": [s["duplicates"] for s in sources],
        "rejected": [sum(s["rejected"].values()) for s in sources],
        "refused by consent": [sum(s["refused"].values()) for s in sources],
    }
    totals = [max(1, sum(counts)) for counts in zip(*parts.values(), strict=True)]
    names, left = [Path(s["name"]).name for s in sources], [0.0] * len(sources)
    for (name, counts), colour in zip(parts.items(), (_MAIN, _RIVAL, _BAD, _CHAMPION), strict=True):
        shares = [count / total for count, total in zip(counts, totals, strict=True)]
        axes.barh(names, shares, left=left, color=colour, label=name)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_xlabel("share of the table's rows")
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8, frameon=False)
    return figure


def drift_scores(drifted: Mapping[str, Mapping[str, float]], *, threshold: float) -> Figure | None:
    """The features that drifted, by service, with the mark they are above."""
    values = {f"{service}: {name}": v for service, found in drifted.items() for name, v in found.items()}
    if not values:
        return None
    names = sorted(values, key=values.__getitem__)[-20:]
    figure = Figure(figsize=(9.0, 1.2 + 0.25 * len(names)), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    axes.barh(names, [values[n] for n in names], color=_BAD)
    axes.axvline(threshold, color="black", linestyle="--", linewidth=0.8)
    axes.set_xlabel(f"population stability index; the line at {threshold} is the mark")
    axes.tick_params(labelsize=8)
    return figure


def embedded(figure: Figure | None, *, told: str) -> str:
    """The picture as HTML that needs no other file; `told` is what it shows, in words. Nothing for no picture."""
    if figure is None:
        return ""
    kept = BytesIO()
    figure.savefig(kept, format="png")
    image = base64.b64encode(kept.getvalue()).decode()
    return f"<img style='max-width:100%' alt='{escape(told)}' src='data:image/png;base64,{image}'>"


def _rows(outcome: Mapping[str, Any]) -> int:
    return 1 + (outcome.get("champion") is not None) + len(outcome["baselines"])
