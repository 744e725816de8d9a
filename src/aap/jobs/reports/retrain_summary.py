"""The summary of one retrain: a page a person reads in a minute, and the same as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from aap.infra.atomic_files import write_atomically
from aap.infra.html import number, page, table
from aap.jobs.reports.drift import PSI_THRESHOLD
from aap.jobs.reports.retrain_plots import data_in, drift_scores, embedded, models_beside
from aap.jobs.run_state import RetrainResult

__all__ = ["write_summary"]


def write_summary(result: RetrainResult, *, folder: Path) -> tuple[Path, Path]:
    """Write `retrain-<moment>.html` and `.json` into `folder`; returns both."""
    stem = folder / f"retrain-{result.as_of[:16].replace(':', '')}"
    html, plain = stem.with_suffix(".html"), stem.with_suffix(".json")
    write_atomically(plain, json.dumps(asdict(result), indent=1).encode())
    write_atomically(html, _html(result).encode())
    return html, plain


def _html(result: RetrainResult) -> str:
    steps = result.steps
    models = [record.result for name, record in steps.items() if name.startswith("train ")]
    parts = [
        f"<h1>Retrain of {escape(result.as_of[:16].replace('T', ' '))} UTC</h1>",
        "<h2>Models</h2>",
        embedded(models_beside(models), told="Each model beside its champion and baselines"),
        table(["model", "version", "decision", "measure", "model", "baselines"], [_model_row(m) for m in models]),
        *(f"<p><b>{escape(m['model'])}</b>: {escape(' '.join(m['reasons']))}</p>" for m in models),
        "<h2>Data</h2>",
        embedded(data_in(steps["import"].result["sources"]), told="What became of each table's rows"),
        table(["source", "rows", "accepted", "known", "rejected", "refused"], _import_rows(steps["import"].result)),
        "<h2>Features</h2>",
        table(["view", "people or items", "change points"], _feature_rows(steps["features"].result)),
        "<h2>Served values recomputed</h2>",
        _consistency(steps["consistency"].result),
        "<h2>Drift</h2>",
        _drift(steps["drift"].result),
        "<h2>Experiments</h2>",
        _experiments(steps["experiments"].result),
        "<h2>Steps</h2>",
        table(["step", "seconds"], [[escape(n), number(f"{r.seconds:.1f}")] for n, r in steps.items()]),
    ]
    return page(f"Retrain {result.as_of[:10]}", parts)


def _model_row(m: dict[str, Any]) -> list[str]:
    decision = "<span class='yes'>promoted</span>" if m["promoted"] else "<span class='no'>kept the champion</span>"
    if "version" not in m:
        return [escape(m["model"]), "", decision, "", "", ""]
    measure = m["headline"]
    baselines = "<br>".join(f"{escape(n)} {v[measure]:.4f}" for n, v in m["baselines"].items() if measure in v)
    ours = number(f"{m['metrics'][measure]:.4f}")
    return [escape(m["model"]), number(str(m["version"])), decision, escape(measure), ours, baselines]


def _import_rows(found: dict[str, Any]) -> list[list[str]]:
    rows = []
    live = found["live"]
    archived, known, refused = sum(live["archived"].values()), live["duplicates"], live["refused"]
    if events := archived + known + refused:
        # What doesn't fit never gets into the live log.
        rows.append(["live events", *(number(f"{c:,}") for c in (events, archived, known, 0, refused))])
    for source in found["sources"]:
        cells = [source["rows"], sum(source["accepted"].values()), source["duplicates"]]
        cells += [sum(source["rejected"].values()), sum(source["refused"].values())]
        rows.append([escape(Path(source["name"]).name), *(number(f"{c:,}") for c in cells)])
    return rows or [["nothing has changed since the last import", "", "", "", "", ""]]


def _feature_rows(found: dict[str, Any]) -> list[list[str]]:
    return [[escape(v["view"]), number(f"{v['entities']:,}"), number(f"{v['rows']:,}")] for v in found["views"]]


def _consistency(found: dict[str, Any]) -> str:
    if not found["checked"]:
        return f"<p>{escape(found.get('why', 'Nothing that was served could be compared.'))}</p>"
    link = f"<a href='{escape(Path(found['page']).name)}'>the page</a>"
    mark = "no" if found["mismatches"] else "yes"
    told = f"<span class='{mark}'>{found['mismatches']:,} of {found['checked']:,} values mismatched</span>"
    return f"<p>{told}, {found['missing']:,} were missing; {link} shows each feature.</p>"


def _drift(found: dict[str, Any]) -> str:
    rows = []
    for service, compared in found["compared"].items():
        drifted = found["drifted"][service]
        told = ", ".join(f"{escape(n)} ({v:.2f})" for n, v in drifted.items()) or "none"
        left_out = found["left_out"][service]
        rows.append([escape(service), number(str(compared)), number(str(left_out)), told])
    pages = " · ".join(
        f"<a href='{escape(Path(p).parent.name)}/{escape(Path(p).name)}'>{escape(Path(p).stem)}</a>"
        for p in found["pages"]
    )
    return (
        f"<p>Evidently compares each feature with four weeks ago by the population stability index; above {PSI_THRESHOLD} it "
        "has drifted. Features without values, and those that age by themselves, are left out.</p>"
        + embedded(drift_scores(found["drifted"], threshold=PSI_THRESHOLD), told="Features that drifted")
        + table(["service", "features compared", "left out", "drifted"], rows)
        + f"<p>{pages}</p>"
    )


def _experiments(found: dict[str, Any]) -> str:
    pages = dict(zip(found["read_out"], found["pages"], strict=True))
    rows = [
        [f"<a href='{escape(Path(page).name)}'>{escape(name)}</a>", escape(found["stopped"].get(name, "goes on"))]
        for name, page in pages.items()
    ]
    return table(["experiment", "guardrails"], rows or [["none runs", ""]])
