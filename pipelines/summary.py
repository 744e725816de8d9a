"""The summary of one retrain: a page a person reads in a minute, and the same as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from pipelines.run_record import RetrainResult
from storage.files import write_atomically

__all__ = ["write_summary"]

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.3rem .8rem;border-bottom:1px solid #ccc;"
    "text-align:left;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".yes{color:#12631b}.no{color:#8a1c1c}"
)


def write_summary(result: RetrainResult, *, folder: Path) -> tuple[Path, Path]:
    """Write `retrain-<moment>.html` and `.json` into `folder`; returns both."""
    stem = folder / f"retrain-{result.as_of[:16].replace(':', '')}"
    html, page = stem.with_suffix(".html"), stem.with_suffix(".json")
    write_atomically(page, json.dumps(asdict(result), indent=1).encode())
    write_atomically(html, _html(result).encode())
    return html, page


def _html(result: RetrainResult) -> str:
    steps = result.steps
    models = [record.result for name, record in steps.items() if name.startswith("train ")]
    parts = [
        f"<h1>Retrain of {escape(result.as_of[:16].replace('T', ' '))} UTC</h1>",
        "<h2>Models</h2>",
        _table(["model", "version", "decision", "measure", "model", "baselines"], [_model_row(m) for m in models]),
        *(f"<p><b>{escape(m['model'])}</b>: {escape(' '.join(m['reasons']))}</p>" for m in models),
        "<h2>Data</h2>",
        _table(["source", "rows", "accepted", "known", "rejected", "refused"], _import_rows(steps["import"].result)),
        "<h2>Features</h2>",
        _table(["view", "people or items", "change points"], _feature_rows(steps["features"].result)),
        "<h2>Drift</h2>",
        _drift(steps["drift"].result),
        "<h2>Experiments</h2>",
        _experiments(steps["experiments"].result),
        "<h2>Steps</h2>",
        _table(["step", "seconds"], [[escape(n), _number(f"{r.seconds:.1f}")] for n, r in steps.items()]),
    ]
    head = f"<meta charset='utf-8'><title>Retrain {escape(result.as_of[:10])}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def _model_row(m: dict[str, Any]) -> list[str]:
    decision = "<span class='yes'>promoted</span>" if m["promoted"] else "<span class='no'>kept the champion</span>"
    if "version" not in m:
        return [escape(m["model"]), "", decision, "", "", ""]
    measure = m["headline"]
    baselines = "<br>".join(f"{escape(n)} {v[measure]:.4f}" for n, v in m["baselines"].items() if measure in v)
    ours = _number(f"{m['metrics'][measure]:.4f}")
    return [escape(m["model"]), _number(str(m["version"])), decision, escape(measure), ours, baselines]


def _import_rows(found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for source in found["sources"]:
        cells = [source["rows"], sum(source["accepted"].values()), source["duplicates"]]
        cells += [sum(source["rejected"].values()), sum(source["refused"].values())]
        rows.append([escape(Path(source["name"]).name), *(_number(f"{c:,}") for c in cells)])
    return rows or [["nothing has changed since the last import", "", "", "", "", ""]]


def _feature_rows(found: dict[str, Any]) -> list[list[str]]:
    return [[escape(v["view"]), _number(f"{v['entities']:,}"), _number(f"{v['rows']:,}")] for v in found["views"]]


def _drift(found: dict[str, Any]) -> str:
    rows = []
    for service, compared in found["compared"].items():
        drifted = found["drifted"][service]
        told = ", ".join(f"{escape(n)} ({v:.2f})" for n, v in drifted.items()) or "none"
        rows.append([escape(service), _number(str(compared)), told])
    pages = " · ".join(
        f"<a href='{escape(Path(p).parent.name)}/{escape(Path(p).name)}'>{escape(Path(p).stem)}</a>"
        for p in found["pages"]
    )
    return (
        _table(["service", "features compared", "drifted (population stability index above 0.2)"], rows)
        + f"<p>{pages}</p>"
    )


def _experiments(found: dict[str, Any]) -> str:
    pages = dict(zip(found["read_out"], found["pages"], strict=True))
    rows = [
        [f"<a href='{escape(Path(page).name)}'>{escape(name)}</a>", escape(found["stopped"].get(name, "goes on"))]
        for name, page in pages.items()
    ]
    return _table(["experiment", "guardrails"], rows or [["none runs", ""]])


def _number(text: str) -> str:
    return f"\0{escape(text)}"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    """Cells are HTML; one that begins with NUL is a number, set to the right."""
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "".join(
        "<tr>"
        + "".join(f"<td class='n'>{c[1:]}</td>" if c.startswith("\0") else f"<td>{c}</td>" for c in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
