"""The console as one HTML page: pure, from what was gathered. No script, and no style but the one its policy names."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from html import escape
from typing import Any

from aap.serving.dashboard.charts import bar, bars, lift
from aap.serving.dashboard.data import Console, Latency, Permission, Running, Section, Version, hidden

__all__ = ["POLICY", "render"]

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59626c;--paper:#fff;--card:#f5f7f9;--edge:#d5dbe1;--blue:#14619c;
--band:#14619c33;--rest:#d5dbe1;--good:#12631b;--bad:#9b1c1c}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaee;--soft:#a5afba;--paper:#14181d;--card:#1c2229;--edge:#37414c;
--blue:#76b9ec;--band:#76b9ec40;--rest:#37414c;--good:#7fd18b;--bad:#ff9d9d}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0;color:var(--ink);background:var(--paper)}
header,main,footer,nav ul{max-width:68rem;margin:0 auto;padding:0 1rem}
h1{margin:1.5rem 0 .2rem;font-size:1.7rem}h2{margin:0 0 .4rem;font-size:1.25rem}h3{margin:1rem 0 .2rem;font-size:1.05rem}
p{margin:.3rem 0 .7rem;max-width:46rem}.soft,caption,footer{color:var(--soft)}
a{color:var(--blue)}a:focus-visible,[tabindex]:focus-visible{outline:3px solid var(--blue);outline-offset:2px}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--paper);padding:.4rem .8rem}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;list-style:none;margin-bottom:1rem}
section{background:var(--card);border:1px solid var(--edge);border-radius:.6rem;padding:1rem;margin:0 0 1rem}
.wide{overflow-x:auto}table{border-collapse:collapse;min-width:min(100%,30rem);font-size:.94rem}
caption{text-align:left;padding:.2rem 0 .4rem}
th,td{padding:.35rem 1.3rem .35rem 0;border-bottom:1px solid var(--edge);text-align:left;vertical-align:top}
thead th{color:var(--soft);font-weight:600;white-space:nowrap}tbody th{font-weight:600}
tbody tr:last-child>*{border-bottom:0}tr>:last-child{padding-right:0}td svg{min-width:7rem;margin-top:.35rem}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.when{white-space:nowrap}.good{color:var(--good)}.bad{color:var(--bad)}ul.why{min-width:16rem;margin:0;padding-left:1.1rem}
svg{max-width:100%;height:auto;display:block}.part{fill:var(--blue)}.rest{fill:var(--rest)}.band{fill:var(--band)}
.line{fill:none;stroke:var(--blue);stroke-width:2}.zero{stroke:var(--soft);stroke-dasharray:4 4}
.tick{fill:var(--soft);font-size:12px}footer{padding-bottom:2rem}
@media (max-width:34rem){th,td{padding-right:.7rem}section{padding:.8rem}ul.why{min-width:24rem}}
@media (prefers-reduced-motion:no-preference){html{scroll-behavior:smooth}}
"""
_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The page's content security policy: its own style by hash, and nothing else."""


def render(found: Console) -> str:
    """The whole page, in a file that needs nothing else."""
    parts = [
        ("models", "Models", _said(found.models, _models, "No model is trained yet: run `aap train all`.")),
        (
            "experiments",
            "Experiments",
            _said(found.experiments, _experiments, "No flag splits people: conf/flags.json says which do."),
        ),
        (
            "freshness",
            "Freshness of features",
            _said(found.freshness, _freshness, "No features are built yet: run `aap features build`."),
        ),
        (
            "consistency",
            "Consistency of served values",
            _said(
                found.consistency,
                _consistency,
                "No served value was recomputed yet: `aap features consistency` does it.",
            ),
        ),
        ("consent", "Consent", _said(found.consent, _consent, "The ledger holds no choice yet.")),
        (
            "denials",
            "Answers that consent denied",
            _said(found.denials, _denials, "None since the service started, or no service runs."),
        ),
        ("drift", "Drift", _said(found.drift, _drift, "No drift report is written yet: `aap retrain` makes one.")),
        (
            "latency",
            "Latency",
            _said(found.latency, _latency, "No call was answered since the service started, or no service runs."),
        ),
    ]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in parts)
    sections = "".join(
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{title}</h2>{body}</section>'
        for name, title, body in parts
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>AAP console</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>"
        '<a class="skip" href="#main">Skip to the content</a>'
        f'<header><h1>AAP console</h1><p class="soft">As of {found.now:%Y-%m-%d %H:%M} UTC. Load the page again for '
        f'newer figures.</p></header><nav aria-label="Sections"><ul>{links}</ul></nav>'
        f'<main id="main" tabindex="-1">{sections}</main>'
        "<footer><p>Counts of fewer than ten are not told.</p></footer></body></html>"
    )


def _said(section: Section[Any], draw: Any, nothing: str) -> str:
    if section.problem:
        return f'<p class="bad">This can\'t be shown now: {escape(section.problem)}</p>'
    if not section.rows:
        return f'<p class="soft">{escape(nothing)}</p>'
    drawn: str = draw(section.rows)
    return drawn


def _models(rows: Sequence[Version]) -> str:
    def row(v: Version) -> list[str]:
        reasons = [*v.reasons, *([f"The service refuses to answer with it: {v.refusal}."] if v.refusal else [])]
        told = "".join(f"<li>{escape(r)}</li>" for r in reasons)
        gate = f'<ul class="why">{told}</ul>' if told else "No decision is recorded."
        return [
            escape(v.model),
            f"{v.version}",
            escape(", ".join(v.aliases)) or "–",
            f'<span class="when">{escape(v.as_of) or "–"}</span>',
            gate,
        ]

    return _table(
        "The newest versions of each model, with what the gate said",
        ["model", "version.n", "alias", "as of", "gate"],
        map(row, rows),
    )


def _experiments(rows: Sequence[Running]) -> str:
    parts = []
    for number, one in enumerate(rows):
        parts.append(f"<h3>{escape(one.name)}: {escape(one.state)}</h3>")
        parts.extend(f'<p class="bad">{escape(said)}</p>' for said in (one.why_stopped, one.split) if said)
        people = [[escape(v), _count(n)] for v, n in one.people.items()]
        parts.append(_table(f"People exposed to {escape(one.name)}", ["variant", "people.n"], people))
        for place, curve in enumerate(one.curves):
            drawn = lift(curve, name=f"curve-{number}-{place}", of=one.metric)
            parts.append(f"<p>{escape(curve.says)}</p>{drawn}")
        if not one.curves:
            parts.append('<p class="soft">Nothing can be compared yet.</p>')
    return "".join(parts)


def _freshness(rows: Iterable[Any]) -> str:
    cells = [[escape(f.view), f'<span class="when">{f.as_of:%Y-%m-%d %H:%M}</span>', f"{f.hours:,.1f}"] for f in rows]
    return _table("When each view was last built", ["view", "as of (UTC)", "hours ago.n"], cells)


def _consistency(rows: Iterable[Any]) -> str:
    cells = [
        [
            escape(c.report),
            f"{c.checked:,}",
            f'<span class="{"bad" if c.mismatches else "good"}">{c.mismatches:,}</span>',
            f"{c.missing:,}",
        ]
        for c in rows
    ]
    return _table(
        "The newest check: served values recomputed", ["report", "checked.n", "mismatched.n", "missing.n"], cells
    )


def _consent(rows: Sequence[Permission]) -> str:
    def row(number: int, p: Permission) -> list[str]:
        if p.permit is None or p.known is None:
            return [escape(p.purpose), "not told", "not told", "–"]
        share = p.permit / p.known
        drawn = bar(share, name=f"consent-{number}", title=f"Share of people who permit {p.purpose}")
        return [escape(p.purpose), f"{p.permit:,} of {p.known:,}", f"{share:.0%}", drawn]

    cells = [row(i, p) for i, p in enumerate(rows)]
    return _table("People who permit each purpose now", ["purpose", "people.n", "share.n", "picture"], cells)


def _denials(rows: Iterable[Any]) -> str:
    cells = [[escape(d.endpoint), escape(d.purpose), escape(d.reason), _count(d.answers)] for d in rows]
    return _table("Since the service started", ["endpoint", "purpose", "reason", "answers.n"], cells)


def _drift(rows: Iterable[Any]) -> str:
    def row(d: Any) -> list[str]:
        told = ", ".join(f"{escape(f)} ({psi:.2f})" for f, psi in d.drifted.items())
        return [escape(d.service), f"{d.compared:,}", f'<span class="bad">{told}</span>' if told else "none"]

    caption = "Features against four weeks before, in the newest retrain; drifted means an index (PSI) of 0.2 or more"
    return _table(caption, ["service", "compared.n", "drifted"], map(row, rows))


def _latency(rows: Sequence[Latency]) -> str:
    def row(number: int, one: Latency) -> list[str]:
        counts = [(f"up to {_seconds(end)}", n) for end, n in one.buckets]
        drawn = bars(counts, name=f"latency-{number}", title=f"Calls of {one.endpoint} by duration")
        return [escape(one.endpoint), f"{one.calls:,}", f"≤ {_seconds(one.median)}", f"≤ {_seconds(one.p99)}", drawn]

    cells = [row(i, one) for i, one in enumerate(rows)]
    return _table(
        "Calls since the service started; a quantile is told by the bucket it is in",
        ["endpoint", "calls.n", "median.n", "99 %.n", "from 0.5 ms to 5 s and longer"],
        cells,
    )


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; a heading that ends in `.n` is of numbers, and the first cell is its row's heading."""
    names = [h.removesuffix(".n") for h in headings]
    kinds = [' class="n"' if h.endswith(".n") else "" for h in headings]
    head = "".join(f'<th scope="col"{k}>{escape(h)}</th>' for h, k in zip(names, kinds, strict=True))
    body = "".join(
        f'<tr><th scope="row">{first}</th>'
        + "".join(f"<td{k}>{cell}</td>" for cell, k in zip(rest, kinds[1:], strict=True))
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="wide" role="region" aria-label="{caption}" tabindex="0"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _count(n: int) -> str:
    return "under 10" if hidden(n) else f"{n:,}"


def _seconds(value: float) -> str:
    if value == float("inf"):
        return "any time"
    return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"
