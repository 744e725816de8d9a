"""The page a person reads about what is held of them. It loads nothing from anywhere and runs no script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

__all__ = ["page"]

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem;width:100%}th,td{padding:.3rem .6rem;border-bottom:1px solid #ccc;"
    "text-align:left;vertical-align:top;overflow-wrap:anywhere}h2{margin-top:2.5rem}"
)
_EVENTS_SHOWN = 500


def page(told: dict[str, Any]) -> str:
    """HTML of what `aap.privacy.export.collect` gave."""
    parts = [
        "<h1>What is held about you</h1>",
        f"<p>As of {_day(told['exported_at'])}, by {escape(told['controller'])}. Everything on this page is also in "
        "<code>data.json</code> and the Parquet files beside it.</p>",
        "<h2>What you allow</h2>",
        _table(
            ["purpose", "what it means", "now", "why"],
            (
                [d["purpose"], d["means"], "yes" if d["allowed"] else "no", _words(d["reason"])]
                for d in told["decisions"]
            ),
        ),
        "<h2>What you chose</h2>",
        _table(
            ["no.", "purpose", "choice", "how", "notice"],
            ([c["seq"], c["purpose"], c["status"], c["method"], c["notice_version"]] for c in told["consents"]),
        ),
        "<h2>What happened</h2>",
        *(_events(name, rows) for name, rows in told["events"].items()),
        "<h2>What is worked out from it</h2>",
        _table(
            ["what", "value", "unit", "for"],
            (
                [f["means"], _shown(f["value"]), f["unit"], f["purpose"]]
                for f in told["features"]
                if f["value"] is not None
            ),
        ),
        "<h2>What was predicted or shown, and why</h2>",
        _table(
            ["when", "asked for", "model", "answer", "allowed by"],
            (
                [
                    _day(p["time"]),
                    p["endpoint"],
                    f"{p['model']} {p['model_version']}",
                    p["answer"],
                    f"{p['consent_purpose']}: {_words(p['consent_reason'])}",
                ]
                for p in told["predictions"]
            ),
        ),
        "<h2>Experiments</h2>",
        _table(
            ["when", "experiment", "variant"], ([_day(e["time"]), e["flag"], e["variant"]] for e in told["exposures"])
        ),
        "<h2>Models that learned from you</h2>",
        _table(["model", "version"], ([t["model"], t["version"]] for t in told["trained_on_by"])),
        "<h2>Who read your data</h2>",
        _table(
            ["when", "who", "what", "for"],
            ([_day(r["time"]), r["who"], _words(r["what"]), r["purpose"] or ""] for r in told["reads"]),
        ),
        "<h2>Rows that didn't fit</h2>",
        _table(["event", "reason", "row"], ([r["event"], r["reason"], json.dumps(r["row"])] for r in told["rejected"])),
    ]
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    head = f"<meta charset='utf-8'>{policy}<title>What is held about you</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def _events(name: str, rows: Sequence[dict[str, Any]]) -> str:
    shown = [[_day(r["occurred_at"]), ", ".join(f"{k} {v}" for k, v in _fields(r))] for r in rows[-_EVENTS_SHOWN:]]
    more = len(rows) - len(shown)
    tail = f"<p>… and {more:,} earlier ones, in <code>events/{escape(name)}.parquet</code>.</p>" if more else ""
    return f"<h3>{escape(_words(name))} ({len(rows):,})</h3>{_table(['when', 'what'], shown)}{tail}"


def _fields(row: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    envelope = ("source", "id", "occurred_at", "available_at")
    return ((k, v) for k, v in row.items() if v is not None and k not in envelope)


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    if not body:
        return "<p>Nothing.</p>"
    return f"<table><thead><tr>{''.join(f'<th>{escape(h)}</th>' for h in headings)}</tr></thead><tbody>{body}</tbody></table>"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(v) for v in value[:20]) + (f" … ({len(value)})" if len(value) > 20 else "")
    return f"{value:,.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _day(moment: str) -> str:
    return escape(moment[:16].replace("T", " "))
