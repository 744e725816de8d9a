"""The page of a readout: the verdict in words, every number in a table, and the interval over time as a picture."""

from __future__ import annotations

import io
import json
import math
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aap.experiments.analysis.guardrails import Finding
from aap.experiments.analysis.metrics import METRICS
from aap.experiments.analysis.results import Comparison, Readout, Verdict, judge
from aap.infra.atomic_files import write_atomically

__all__ = ["sentence", "to_dict", "write_report"]

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.3rem .8rem;border-bottom:1px solid #ccc;"
    "text-align:left}td{font-variant-numeric:tabular-nums}.verdict{font-size:1.2rem}svg{max-width:100%;height:auto}"
)


def sentence(found: Readout, comparison: Comparison) -> str:
    """What may be said of one variant, in one sentence."""
    made = comparison.curve
    name, measure = comparison.variant, METRICS[found.plan.metric].what
    lift = f"{made.lift[-1]:+.1%} ({made.lift_low[-1]:+.1%} to {made.lift_high[-1]:+.1%})"
    match judge(found.split, found.guardrails, comparison):
        case Verdict.BLOCKED:
            return f"Nothing may be said of {name}: {found.split.why}"
        case Verdict.HARMFUL:
            return (
                f"{name} does harm: {' '.join(f.sentence for f in found.guardrails if f.broken and f.variant == name)}"
            )
        case Verdict.TOO_EARLY:
            return f"It is too early to say anything of {name}: {_people(made.people[-1])} count so far."
        case Verdict.BETTER:
            return f"{name} does better than {found.control}: {measure} {lift}."
        case Verdict.WORSE:
            return f"{name} does worse than {found.control}: {measure} {lift}."
        case _:
            return f"{name} and {found.control} can't be told apart yet: {measure} {lift}."


def to_dict(found: Readout) -> dict[str, Any]:
    """JSON-ready form; numbers that can't be said are null."""
    return {
        "experiment": found.flag.name,
        "as_of": found.as_of.isoformat(),
        "control": found.control,
        "metric": found.plan.metric,
        "window_days": found.plan.window_days,
        "error_rate": found.plan.error_rate,
        "first_exposure": found.first_exposure.isoformat() if found.first_exposure else None,
        "stopped": {**_plain(found.stop), "now": found.stopped_now} if found.stop else None,
        "share": found.share,
        "held_by": found.held_by or None,
        "split": {
            "sound": found.split.sound,
            "p_value": found.split.p_value,
            "people": found.split.people,
            "expected": found.split.expected,
            "why": found.split.why,
        },
        "excluded": found.excluded,
        "variants": [_variant(found, c) for c in found.comparisons],
        "guardrails": [{k: _number(v) for k, v in _plain(f).items()} for f in found.guardrails],
    }


def write_report(found: Readout, *, folder: Path) -> tuple[Path, Path]:
    """Write `experiment-<name>.html` and `.json` into `folder`; returns both."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in found.flag.name)
    html, page = folder / f"experiment-{safe}.html", folder / f"experiment-{safe}.json"
    write_atomically(page, json.dumps(to_dict(found), indent=1).encode())
    write_atomically(html, _html(found).encode())
    return html, page


def _variant(found: Readout, comparison: Comparison) -> dict[str, Any]:
    made = comparison.curve
    last = {
        name: _number(float(getattr(made, name)[-1]))
        for name in ("control", "treatment", "difference", "low", "high", "lift", "lift_low", "lift_high")
    }
    return {
        "variant": comparison.variant,
        "verdict": str(judge(found.split, found.guardrails, comparison)),
        "sentence": sentence(found, comparison),
        "people": int(made.people[-1]),
        **last,
        "variance_left_by_cuped": _number(float(made.variance[-1] / made.plain_variance[-1])),
        "detectable_lift": _number(comparison.detectable),
        "curve": [
            {"at": at.isoformat(), "people": int(n), "lift": _number(mid), "low": _number(low), "high": _number(high)}
            for at, n, mid, low, high in zip(
                found.times,
                made.people,
                made.lift.tolist(),
                made.lift_low.tolist(),
                made.lift_high.tolist(),
                strict=True,
            )
        ],
    }


def _html(found: Readout) -> str:
    told = [f"<p class='verdict'>{escape(sentence(found, c))}</p>{_picture(found, c)}" for c in found.comparisons]
    nothing = "<p class='verdict'>Nobody's time after their exposure is over yet; there is nothing to compare.</p>"
    stop = found.stop
    parts = [
        f"<h1>Experiment {escape(found.flag.name)}</h1>",
        f"<p>As of {found.as_of:%Y-%m-%d %H:%M} UTC. Control: {escape(found.control)}. Judged by "
        f"{escape(METRICS[found.plan.metric].what)} in the {found.plan.window_days:g} days after exposure.</p>",
        f"<p><b>Stopped</b> by {escape(stop.by)} at {stop.at:%Y-%m-%d %H:%M}: {escape(stop.reason)}</p>"
        if stop
        else "",
        "".join(told) or nothing,
        "<h2>Numbers</h2>",
        _table(
            ["variant", "people", "control", "variant's", "lift", "lowest", "highest", "could be found now"],
            [_row(c) for c in found.comparisons],
        ),
        f"<h2>Split</h2><p>{escape(found.split.why or 'People are split as intended.')} "
        f"(p = {found.split.p_value:.3g}, valid at any look)</p>",
        _table(
            ["variant", "people", "intended"],
            [[v, f"{n:,}", f"{found.split.expected.get(v, 0):,.0f}"] for v, n in found.split.people.items()],
        ),
        "<h2>Guardrails</h2>",
        _table(
            ["metric", "variant", "limit", "control", "variant's", "lowest", "highest", ""],
            [_guard(f) for f in found.guardrails],
        ),
        "<h2>Left out</h2>",
        _table(["why", "exposures"], [[w, f"{n:,}"] for w, n in found.excluded.items()]),
        f"<p>The interval is right at all looks together with a chance of {1 - found.plan.error_rate:.0%}: look as "
        "often as you like, and stop when you like.</p>",
    ]
    head = f"<meta charset='utf-8'><title>Experiment {escape(found.flag.name)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def _picture(found: Readout, comparison: Comparison) -> str:
    made = comparison.curve
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    axes = figure.add_subplot()
    days = [(at - (found.first_exposure or at)).total_seconds() / 86_400 for at in found.times]
    axes.fill_between(days, made.lift_low * 100, made.lift_high * 100, color="#1b6ca8", alpha=0.25, linewidth=0)
    axes.plot(days, made.lift * 100, color="#1b6ca8")
    axes.axhline(0, color="black", linewidth=0.8, linestyle="--")
    known = np.isfinite(made.lift)
    if known.any():  # the first looks are so wide that they would hide the rest
        reach = np.abs(np.concatenate([made.lift_low[known], made.lift_high[known]])) * 100
        most = min(float(reach.max()), 4 * float(np.median(reach)))
        axes.set_ylim(-most * 1.05, most * 1.05)
    axes.set_title(f"{comparison.variant} over {found.control}: lift in {METRICS[found.plan.metric].what}")
    axes.set_xlabel("days since the first exposure")
    axes.set_ylabel("lift, %")
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    said = escape(sentence(found, comparison), quote=True)
    svg = drawn.getvalue().partition("<svg")[2]
    return f'<svg role="img" aria-label="{said}"{svg}'


def _row(comparison: Comparison) -> list[str]:
    made = comparison.curve
    numbers = [f"{v[-1]:.4g}" for v in (made.control, made.treatment)]
    shares = [f"{v:+.1%}" for v in (made.lift[-1], made.lift_low[-1], made.lift_high[-1])]
    found = f"{comparison.detectable:.1%}" if math.isfinite(comparison.detectable) else "–"
    return [comparison.variant, f"{made.people[-1]:,.0f}", *numbers, *shares, found]


def _guard(found: Finding) -> list[str]:
    numbers = [f"{v:.4g}" if math.isfinite(v) else "–" for v in (found.control, found.treatment, found.low, found.high)]
    said = "broken" if found.broken else "held" if math.isfinite(found.low) else "too few yet"
    return [found.metric, found.variant, found.limit, *numbers, said]


def _table(headings: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _people(count: float) -> str:
    return "1 person" if count == 1 else f"{count:,.0f} people"


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(of: Any) -> dict[str, Any]:
    values = {name: getattr(of, name) for name in of.__dataclass_fields__}
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in values.items()}
