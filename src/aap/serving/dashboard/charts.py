"""The console's pictures: small SVGs, each with a title and a description that say what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from aap.serving.dashboard.data import Curve

__all__ = ["bar", "bars", "lift"]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 220, 56, 34, 10


def lift(curve: Curve, *, name: str, of: str) -> str:
    """The lift over time inside its interval; nothing where fewer than two looks can be drawn."""
    looks = [
        (d, mid, low, high)
        for d, mid, low, high in zip(curve.days, curve.lift, curve.low, curve.high, strict=True)
        if all(math.isfinite(v) for v in (mid, low, high))
    ]
    if len(looks) < 2:
        return ""
    reaches = sorted(max(abs(low), abs(high)) for _, _, low, high in looks)
    reach = (
        min(reaches[-1], 4 * reaches[len(reaches) // 2]) or 0.01
    )  # the first looks are so wide that they'd hide the rest
    first, last = looks[0][0], looks[-1][0]

    def x(day: float) -> float:
        return _LEFT + (day - first) / ((last - first) or 1) * (_WIDTH - _LEFT - 10)

    def y(value: float) -> float:
        inside = max(-reach, min(reach, value))
        return _TOP + (reach - inside) / (2 * reach) * (_HEIGHT - _TOP - _BOTTOM)

    upper = [f"{x(d):.1f},{y(high):.1f}" for d, _, _, high in looks]
    lower = [f"{x(d):.1f},{y(low):.1f}" for d, _, low, _ in reversed(looks)]
    middle = [f"{x(d):.1f},{y(mid):.1f}" for d, mid, _, _ in looks]
    marks = "".join(
        f'<text class="tick" text-anchor="end" x="{_LEFT - 8}" y="{y(v) + 4:.1f}">{label}</text>'
        for v, label in ((reach, f"+{reach:.0%}"), (0.0, "0%"), (-reach, f"−{reach:.0%}"))
    )
    drawn = (
        f'<polygon class="band" points="{" ".join(upper + lower)}"/>'
        f'<line class="zero" x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>'
        f'<polyline class="line" points="{" ".join(middle)}"/>{marks}'
        f'<text class="tick" x="{_LEFT}" y="{_HEIGHT - 10}">day {first:.0f}</text>'
        f'<text class="tick" text-anchor="end" x="{_WIDTH - 10}" y="{_HEIGHT - 10}">day {last:.0f}</text>'
    )
    return _svg(name, f"Lift of {curve.variant} in {of}, over control", curve.says, drawn, _WIDTH, _HEIGHT)


def bar(share: float, *, name: str, title: str) -> str:
    """A share, 0 to 1, as a bar."""
    drawn = (
        '<rect class="rest" width="160" height="12" rx="3"/>'
        f'<rect class="part" width="{160 * share:.1f}" height="12" rx="3"/>'
    )
    return _svg(name, title, f"{share:.0%} of the whole bar.", drawn, 160, 12)


def bars(counts: Sequence[tuple[str, int]], *, name: str, title: str) -> str:
    """Counts side by side."""
    most = max((n for _, n in counts), default=0) or 1
    heights = [34 * n / most for _, n in counts]
    drawn = "".join(
        f'<rect class="part" x="{12 * i}" y="{36 - h:.1f}" width="10" height="{h:.1f}"/>' for i, h in enumerate(heights)
    )
    said = ", ".join(f"{label}: {n:,}" for label, n in counts if n) or "nothing"
    return _svg(name, title, f"{said}.", f'{drawn}<line class="zero" x1="0" x2="160" y1="36" y2="36"/>', 160, 38)


def _svg(name: str, title: str, says: str, drawn: str, width: int, height: int) -> str:
    made = escape(name, quote=True)
    return (
        f'<svg role="img" aria-labelledby="{made}-t {made}-d" viewBox="0 0 {width} {height}" width="{width}">'
        f'<title id="{made}-t">{escape(title)}</title><desc id="{made}-d">{escape(says)}</desc>{drawn}</svg>'
    )
