"""The page of several weeks: how good the champion of each model was, week by week, and what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure

from aap.infra.atomic_files import write_atomically
from aap.infra.html import number, page, table
from aap.jobs.reports.retrain_plots import embedded

__all__ = ["champions_over_weeks", "write_weeks"]

Weeks = Mapping[str, Mapping[str, Mapping[str, Any]]]
_MAIN, _RIVAL, _KEPT = "#1b6ca8", "#9aa5b1", "#d1495b"


def write_weeks(weeks: Weeks, *, stem: Path) -> tuple[Path, Path]:
    """Write `<stem>.html` and `<stem>.png`; returns both."""
    html, png = stem.with_suffix(".html"), stem.with_suffix(".png")
    write_atomically(png, _png(champions_over_weeks(weeks)))
    write_atomically(html, _html(weeks).encode())
    return html, png


def champions_over_weeks(weeks: Weeks) -> Figure:
    """A panel a model: its headline each week beside its best baseline's; a cross where it was not promoted.

    Every point is judged on the four weeks before its day, which the judged version had not seen.
    """
    models = sorted({name for week in weeks.values() for name, told in week.items() if "version" in told})
    figure = Figure(figsize=(8.0, 0.6 + 1.9 * max(1, len(models))), layout="constrained", dpi=110)
    for row, name in enumerate(models):
        axes = figure.add_subplot(max(1, len(models)), 1, row + 1)
        told = {date.fromisoformat(day): w[name] for day, w in weeks.items() if "version" in w.get(name, {})}
        headline = next(iter(told.values()))["headline"]
        ours = [t["metrics"][headline] for t in told.values()]
        theirs = [
            max((b[headline] for b in t["baselines"].values() if headline in b), default=None) for t in told.values()
        ]
        days = list(told)
        axes.plot(days, ours, "o-", color=_MAIN, markersize=4, label=name)  # type: ignore[arg-type]
        if any(value is not None for value in theirs):
            axes.plot(days, theirs, "--", color=_RIVAL, label="best baseline")  # type: ignore[arg-type]
        kept = [(day, value) for day, value in zip(days, ours, strict=True) if not told[day]["promoted"]]
        if kept:
            axes.plot([d for d, _ in kept], [v for _, v in kept], "x", color=_KEPT, markersize=9, label="not promoted")  # type: ignore[arg-type]
        axes.set_title(f"{name}: {headline}", loc="left", fontsize=10)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
        axes.xaxis.set_major_formatter(DateFormatter("%d %b"))
        axes.margins(y=0.25)
    return figure


def _html(weeks: Weeks) -> str:
    first, last = min(weeks), max(weeks)
    decisions = [told for week in weeks.values() for told in week.values()]
    promoted = sum(told["promoted"] for told in decisions)
    rows = [
        [escape(day), escape(name), *_row(told), escape(" ".join(told["reasons"]))]
        for day, week in weeks.items()
        for name, told in week.items()
    ]
    parts = [
        f"<h1>{len(weeks)} weekly retrains, {first} to {last}</h1>",
        f"<p>{len(decisions)} decisions about a model, {promoted} of them promotions. Each point is a version judged on the "
        "weeks just before its day, which it had not seen.</p>",
        embedded(champions_over_weeks(weeks), told="Headline of each model by week"),
        table(["week", "model", "version", "decision", "figure", "why"], rows),
    ]
    return page(f"Retrains {first} to {last}", parts)


def _row(told: Mapping[str, Any]) -> list[str]:
    decision = "<span class='yes'>promoted</span>" if told["promoted"] else "<span class='no'>kept</span>"
    if "version" not in told:
        return ["", decision, ""]
    return [number(str(told["version"])), decision, number(f"{told['metrics'][told['headline']]:.4f}")]


def _png(figure: Figure) -> bytes:
    kept = BytesIO()
    figure.savefig(kept, format="png")
    return kept.getvalue()
