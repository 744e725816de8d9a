"""The gate: may a newly trained version take the champion's place? A pure function that says why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aap.modeling.evaluation.evaluation import Evaluation

__all__ = ["GateDecision", "GateRules", "decide"]

_FLOORS = {"roc_auc": 0.5, "auc": 0.5, "silhouette": 0.0, "ndcg_at_10": 0.0}
"""What guessing reaches on each headline; a model must be above it."""


@dataclass(frozen=True, slots=True)
class GateRules:
    """Section `gate` of training.yaml; what each means is said there."""

    tolerance: float
    largest_calibration_error: float
    lowest_stability: float
    forbidden_features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Promote or not, and every reason for it, the refusals first."""

    promote: bool
    reasons: tuple[str, ...]


def decide(
    candidate: Evaluation, champion: Mapping[str, float] | None, *, features: Sequence[str], rules: GateRules
) -> GateDecision:
    """Let `candidate` through unless something speaks against it.

    It is refused if it is worse than a baseline beyond the noise, no better than guessing, below the `champion`'s
    headline (its metrics when it was trained; None if there is none) by more than the tolerance and than its own noise,
    badly calibrated, unstable, or reads a forbidden feature. A tie with a baseline passes and is said.
    """
    against = [
        *_forbidden(features, rules),
        *_beyond_guessing(candidate),
        *(
            f"{reason}."
            for name, reason in zip(candidate.gains, candidate.reasons, strict=True)
            if name in candidate.trails
        ),
        *_calibration(candidate, rules),
        *_stability(candidate, rules),
        *_champion(candidate, champion, rules),
    ]
    if against:
        return GateDecision(False, tuple(against))
    found = candidate.metrics[candidate.headline]
    versus = "there is no champion yet" if champion is None else "no worse than the champion within tolerance"
    return GateDecision(
        True, (*(f"{r}." for r in candidate.reasons), f"{candidate.headline} is {found:.4f}: {versus}.")
    )


def _forbidden(features: Sequence[str], rules: GateRules) -> list[str]:
    words = {word.lower() for word in rules.forbidden_features}
    return [
        f"Feature {name} is forbidden (its name says {found})."
        for name in features
        for found in sorted(words & set(re.split(r"[^a-z]+", name.lower())))
    ]


def _beyond_guessing(candidate: Evaluation) -> list[str]:
    floor, found = _FLOORS.get(candidate.headline, float("-inf")), candidate.metrics[candidate.headline]
    return [] if found > floor else [f"{candidate.headline} is {found:.4f}, no better than guessing ({floor})."]


def _calibration(candidate: Evaluation, rules: GateRules) -> list[str]:
    """Refuse an error above the limit, unless even perfect probabilities would show as much on so few rows."""
    error, noise = (candidate.metrics.get(name, 0.0) for name in ("calibration_error", "calibration_noise"))
    most = max(rules.largest_calibration_error, noise)
    return [] if error <= most else [f"Calibration error is {error:.4f}, above {most:.4f}."]


def _stability(candidate: Evaluation, rules: GateRules) -> list[str]:
    stability, least = candidate.metrics.get("stability", 1.0), rules.lowest_stability
    return [] if stability >= least else [f"Stability under resampling is {stability:.3f}, below {least}."]


def _champion(candidate: Evaluation, champion: Mapping[str, float] | None, rules: GateRules) -> list[str]:
    if champion is None or candidate.headline not in champion:
        return []
    ours, theirs = candidate.metrics[candidate.headline], champion[candidate.headline]
    widths = [(gain.high - gain.low) / 2 for gain in candidate.gains.values()]
    allowed = max([rules.tolerance, *[width for width in widths if width < float("inf")]])
    if ours >= theirs - allowed:
        return []
    return [f"{candidate.headline} is {ours:.4f}, below the champion's {theirs:.4f} by more than {allowed:.4f}."]
