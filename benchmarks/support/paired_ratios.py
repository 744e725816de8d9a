"""Whether one of two things that took turns is slower: the median of the pairwise ratios, and an exact interval of it.

The interval is between two of the ratios themselves (order statistics, binomial, 95 % or more): it supposes nothing about
how ratios are distributed. Seven pairs give the smallest and the largest of them (98 %), nine the second and the eighth
(96 %); fewer than six give none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

__all__ = ["BOUND", "FEWEST_PAIRS", "Ratio", "verdict"]

BOUND = 1.03
"""No slower is what may be at most three in a hundred slower, for all that the interval says."""
FEWEST_PAIRS = 7
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """Now against before, above 1 where now takes more; `low` and `high` are None for fewer than six pairs."""

    median: float
    low: float | None
    high: float | None
    pairs: int

    @classmethod
    def of(cls, before: Sequence[float], now: Sequence[float]) -> Ratio | None:
        """Of what was measured in turns; None where there is nothing to divide by."""
        if not before or min(before) <= 0:
            return None
        ratios = sorted(b / a for a, b in zip(before, now, strict=True))
        place = _place(len(ratios))
        low, high = (None, None) if place is None else (ratios[place], ratios[-1 - place])
        return cls(median(ratios), low, high, len(ratios))


def verdict(ratio: Ratio | None) -> str:
    """`no slower` when the interval contains or lies below 1.03, `slower`, or `too few pairs`."""
    if ratio is None or ratio.low is None or ratio.pairs < FEWEST_PAIRS:
        return "too few pairs"
    return "no slower" if ratio.low <= BOUND else "slower"


def _place(count: int) -> int | None:
    """How many of the sorted ratios can be left out at each end: P(Binomial(count, ½) ≤ place) is at most 2.5 %."""
    place, tail = None, 0.0
    for left_out in range(count):
        tail += comb(count, left_out) / 2**count
        if tail > (1 - _CONFIDENCE) / 2:
            break
        place = left_out
    return place
