"""The effect of a variant over control, at every look, from moments: lift, interval, CUPED, ratio metrics, strata.

Each person is a row of four numbers: numerator and denominator of the metric after exposure, and the same two before it
(the covariate). A metric that is a mean has denominators of 1. Everything follows from counts, means and covariances of
these rows up to each look, so a curve over fifty looks costs little more than one number.

- A ratio metric is Σ numerator / Σ denominator of an arm; its variance is that of the delta method (Deng, Knoblich & Lu,
  Applying the delta method in metric analytics, KDD 2018).
- CUPED takes from it what the time before exposure explains (Deng, Xu, Kohavi & Walker, WSDM 2013): the estimate stays
  the same on average, the interval shrinks.
- People assigned under different weights are compared among themselves, and the results averaged by people: a growing
  share would otherwise mix early and late people differently into the arms (Simpson's paradox).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aap.experiments.analysis.sequential import mixture, radius

__all__ = ["FEWEST", "Curve", "Moments", "curve", "moments"]

FEWEST = 20
"""People an arm of one stratum must have before the stratum counts."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one arm in one stratum, at each look."""

    count: np.ndarray
    """float64 `[n_looks]`."""
    mean: np.ndarray
    """float64 `[n_looks, 4]`."""
    covariance: np.ndarray
    """float64 `[n_looks, 4, 4]`, unbiased."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What is known of one variant against control at each look; all float64 `[n_looks]`, NaN while too few are in.

    `low` and `high` bound `difference` = `treatment` − `control` at every look at once; likewise for `lift`, the
    difference as a share of `control`.
    """

    people: np.ndarray
    control: np.ndarray
    treatment: np.ndarray
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    lift: np.ndarray
    lift_low: np.ndarray
    lift_high: np.ndarray
    variance: np.ndarray
    """Of `difference`."""
    plain_variance: np.ndarray
    """The same without CUPED."""


def moments(rows: np.ndarray, looks: np.ndarray) -> Moments:
    """Moments of the first `looks[k]` of `rows` float64 `[n, 4]`, for each k; `looks` ascends."""
    centre = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
    moved = rows - centre  # sums of squares of large numbers would cancel
    edges = np.concatenate([[0], looks]).astype(np.intp)
    sums = np.zeros((len(looks), rows.shape[1]))
    crosses = np.zeros((len(looks), rows.shape[1], rows.shape[1]))
    for k in range(len(looks)):
        part = moved[edges[k] : edges[k + 1]]
        sums[k], crosses[k] = part.sum(axis=0), part.T @ part
    count = np.asarray(looks, dtype=np.float64)
    sums, crosses = sums.cumsum(axis=0), crosses.cumsum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums / count[:, None]
        covariance = (crosses - count[:, None, None] * mean[:, :, None] * mean[:, None, :]) / (count - 1)[:, None, None]
    return Moments(count, mean + centre, covariance)


def curve(strata: list[tuple[Moments, Moments]], *, error_rate: float, tightest_at: int, adjust: bool = True) -> Curve:
    """The effect at each look, from (control, treatment) moments of each stratum; `adjust` uses the covariate."""
    parts = [_stratum(control, treatment, adjust=adjust) for control, treatment in strata]
    weights = np.array([np.where(p[4], p[5], 0.0) for p in parts])
    people = weights.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = weights / people

        def together(values: list[np.ndarray], power: int = 1) -> np.ndarray:
            kept = np.where(weights > 0, np.array(values), 0.0)
            return np.where(people > 0, (shares**power * kept).sum(axis=0), np.nan)

        control, treatment = together([p[0] for p in parts]), together([p[1] for p in parts])
        v_control, v_treatment = together([p[2] for p in parts], 2), together([p[3] for p in parts], 2)
        plain = together([p[6] for p in parts], 2)
        rho2 = mixture(error_rate=error_rate, tightest_at=tightest_at)
        difference, variance = treatment - control, v_control + v_treatment
        reach = radius(variance, people, error_rate=error_rate, rho2=rho2)
        lift = difference / control
        of_lift = (v_treatment + (treatment / control) ** 2 * v_control) / control**2
        lift_reach = radius(of_lift, people, error_rate=error_rate, rho2=rho2)
    return Curve(
        people,
        control,
        treatment,
        difference,
        difference - reach,
        difference + reach,
        lift,
        lift - lift_reach,
        lift + lift_reach,
        variance,
        plain,
    )


def _stratum(control: Moments, treatment: Moments, *, adjust: bool) -> tuple[np.ndarray, ...]:
    """(control, treatment, variance of each, whether it counts, people, plain variance) at each look."""
    arms = (control, treatment)
    enough = (control.count >= FEWEST) & (treatment.count >= FEWEST)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [m.mean[:, 0] / m.mean[:, 1] for m in arms]
        slopes = [_gradient(r, m.mean[:, 1], at=0) for r, m in zip(ratios, arms, strict=True)]
        plain = [_spread(s, s, m) / m.count for s, m in zip(slopes, arms, strict=True)]
        if adjust:
            before, earlier = _covariate(arms)
            both = sum(_spread(s, before, m) / m.count for s, m in zip(slopes, arms, strict=True))
            own = sum(_spread(before, before, m) / m.count for m in arms)
            theta = np.where(own > 0, both / own, 0.0)
            theta = np.where(np.isfinite(theta), theta, 0.0)
            ratios = [r - theta * np.where(theta != 0, e, 0.0) for r, e in zip(ratios, earlier, strict=True)]
            slopes = [s - theta[:, None] * np.where(theta[:, None] != 0, before, 0.0) for s in slopes]
        spreads = [_spread(s, s, m) / m.count for s, m in zip(slopes, arms, strict=True)]
        enough = enough & np.isfinite(ratios[0]) & np.isfinite(ratios[1])
    return ratios[0], ratios[1], spreads[0], spreads[1], enough, control.count + treatment.count, plain[0] + plain[1]


def _covariate(arms: tuple[Moments, Moments]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The covariate's gradient, and by how much each arm's is above the level of both together."""
    counts = [m.count[:, None] for m in arms]
    level = (counts[0] * arms[0].mean + counts[1] * arms[1].mean) / (counts[0] + counts[1])
    ratio = level[:, 2] / level[:, 3]
    gradient = _gradient(ratio, level[:, 3], at=2)
    return gradient, [(m.mean[:, 2] - ratio * m.mean[:, 3]) / level[:, 3] for m in arms]


def _gradient(ratio: np.ndarray, denominator: np.ndarray, *, at: int) -> np.ndarray:
    """How a ratio of columns `at` and `at + 1` follows a change in them, `[n_looks, 4]`."""
    found = np.zeros((len(ratio), 4))
    found[:, at], found[:, at + 1] = 1.0 / denominator, -ratio / denominator
    return found


def _spread(left: np.ndarray, right: np.ndarray, arm: Moments) -> np.ndarray:
    found: np.ndarray = np.einsum("ki,kij,kj->k", left, arm.covariance, right)
    return found
