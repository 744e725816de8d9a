"""How models look at a terminal: a version's lineage in sentences, and tables of reports, challengers, alerts and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aap.cli.terminal import console, table

if TYPE_CHECKING:
    from datetime import datetime

    from aap.modeling.registry.provenance import Provenance
    from aap.modeling.registry.registry import ModelVersion
    from aap.serving.analysis.online_evaluation import LiveQuality
    from aap.serving.rollout.shadow import Compared

__all__ = [
    "ended_of",
    "headline",
    "lineage_of",
    "print_alerts",
    "print_live_quality",
    "print_report",
    "print_shadow",
]


def lineage_of(version: ModelVersion, provenance: Provenance, *, now: datetime) -> list[str]:
    """A version's manifest and whose consent to it ended since, in sentences; or why it may not answer."""
    from aap.modeling.errors import UnsoundLineage

    try:
        checked = provenance.check(version)
        ended = provenance.ended(version, now=now, checked=checked)
    except UnsoundLineage as error:
        return [f"It may not answer: {error}"]
    manifest = checked.manifest
    under = " and ".join([manifest["purpose"], *manifest["requires"]])
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(manifest["excluded"].items())) or "none"
    return [
        f"Its {manifest['rows']} rows were used under {under}, and the first {manifest['ledger_size']} records of consent; "
        f"left out: {left_out}. The signed manifest holds.",
        str(ended),
    ]


def ended_of(version: ModelVersion, provenance: Provenance, *, now: datetime) -> str:
    """The same in a word, for a list: how many have ended their consent, or that nobody can say."""
    from aap.modeling.errors import UnsoundLineage

    try:
        found = provenance.ended(version, now=now)
    except UnsoundLineage:
        return "unsound"
    return f"{found.ended} of {found.people}"


def headline(tags: dict[str, str], metrics: dict[str, float]) -> str | None:
    """The measure a version is judged by, with its value, where it has one."""
    name = tags.get("headline", "")
    return f"{name} {metrics[name]:.4f}" if name in metrics else None


def print_report(name: str, told: dict[str, Any]) -> None:
    """A model's figures, a line a part, with its baselines."""
    parts = {f"{name} {key}": part for key, part in told.items() if isinstance(part, dict) and "interval" in part}
    rows = []
    for part, found in (parts or {name: told}).items():
        figures = {k: v for k, v in found.items() if isinstance(v, float)}
        rows += [(part, metric, f"{value:.4f}") for metric, value in figures.items()]
        for rival, theirs in found["baselines"].items():
            shown = theirs.items() if isinstance(theirs, dict) else [("", theirs)]
            rows += [(f"  {rival}", metric, f"{value:.4f}") for metric, value in shown]
    for people, theirs in told.get("price", {}).items():
        if isinstance(theirs, dict):
            of = f"  {people} %" if people.isdigit() else f"  {people}"
            rows += [(of, metric, "too few" if value is None else f"{value:.4f}") for metric, value in theirs.items()]
    table("model", "metric", "figure", rows=rows, numbers=["figure"])


def print_shadow(found: Sequence[Compared]) -> None:
    """How each challenger differed from its champion."""
    rows = [
        (
            one.model,
            f"{one.challenger} over {one.champion}",
            f"{one.people:,}",
            _or_none(one.difference, ".4f"),
            f"{one.largest:.4f}",
            _or_none(one.champion_ms, ".2f"),
            _or_none(one.challenger_ms, ".2f"),
            one.errors,
            one.dropped,
        )
        for one in found
    ]
    headings = ["people", "mean difference", "largest", "champion ms", "challenger ms", "errors", "dropped"]
    if rows:
        table("model", "versions", *headings, rows=rows, numbers=headings)
    else:
        console.print("No challenger had a copy of the traffic yet; see `aap models challenge` and AAP_SHADOW.")


def print_alerts(found: Sequence[dict[str, Any]]) -> None:
    """What was found unusual, a line each."""
    rows = [
        (f"{a['time']:%Y-%m-%d %H:%M:%S}", a["kind"], a["user_key"][:8], a["about"], f"{a['score']:.3f}",
         f"{a['threshold']:.3f}", ", ".join(a["drivers"]))
        for a in found
    ]  # fmt: skip
    if rows:
        table("time", "kind", "who", "about", "score", "above", "driven by", rows=rows, numbers=["score", "above"])
    else:
        console.print("No alerts; `aap live --watch` gives them once the anomaly models have champions.")


def print_live_quality(found: Sequence[LiveQuality]) -> None:
    """How the answers of each version did."""
    if not found:
        console.print("Nobody was answered yet; ask the service, or wait a few seconds for its records.")
        return
    rows = [(q.model, q.version, q.variant, q.answers, q.waiting, _said(q.measured)) for q in found]
    table("model", "version", "variant", "judged", "waiting", "measured", rows=rows, numbers=["judged", "waiting"])


def _or_none(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)


def _said(measured: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {'–' if value is None else f'{value:.4f}'}" for name, value in measured.items())
