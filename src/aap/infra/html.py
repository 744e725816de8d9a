"""An HTML page of a report: headings, tables and words, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["number", "page", "table"]

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.3rem .8rem;border-bottom:1px solid #ccc;"
    "text-align:left;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".yes{color:#12631b}.no{color:#8a1c1c}"
)


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of `parts`, which are HTML; the title is text."""
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def number(text: str) -> str:
    """A cell set to the right."""
    return f"\0{escape(text)}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; one made by `number` is set to the right."""
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "".join(
        "<tr>"
        + "".join(f"<td class='n'>{c[1:]}</td>" if c.startswith("\0") else f"<td>{c}</td>" for c in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
