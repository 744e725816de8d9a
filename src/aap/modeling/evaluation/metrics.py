"""Measures of how good an answer is, in plain numpy. Every one says its formula, range, direction and source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import adjusted_rand_score, silhouette_samples

from aap.modeling.evaluation.evaluation import Interval

__all__ = [
    "adjusted_rand",
    "auc",
    "average_popularity",
    "average_precision",
    "brier",
    "calibration_noise",
    "coverage",
    "expected_calibration_error",
    "ndcg_at_k",
    "paired_bootstrap",
    "recall_at_k",
    "reliability",
    "silhouettes",
]


def ndcg_at_k(hits: np.ndarray, *, relevant: np.ndarray) -> np.ndarray:
    """Normalised discounted cumulative gain of each ranked list, binary relevance.

    `hits`: bool `[n_users, k]`, whether the item at that rank is relevant; the list must come from ranking the full
    catalogue, since ranking against sampled negatives orders models differently (Krichene & Rendle 2020).
    `relevant`: int `[n_users]`, how many items were relevant at all, at least 1.
    DCG = Σ hit_r / log2(r + 1); divided by the DCG of the best possible list. 0 to 1, higher is better.
    Järvelin & Kekäläinen 2002.
    """
    k = hits.shape[1]
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    best = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(relevant, k)]
    return np.asarray((hits * discount).sum(axis=1) / best)


def recall_at_k(hits: np.ndarray, *, relevant: np.ndarray) -> np.ndarray:
    """Share of each user's relevant items that are in the first k: Σ hits / min(relevant, k), "capped recall".

    Dividing by min(relevant, k) instead of relevant makes 1 reachable for everyone. Shapes as in `ndcg_at_k`.
    0 to 1, higher is better.
    """
    return np.asarray(hits.sum(axis=1) / np.minimum(relevant, hits.shape[1]))


def coverage(lists: Sequence[Sequence[str]], *, catalogue_size: int) -> float:
    """Share of the catalogue that is in anybody's list: |∪ lists| / catalogue. 0 to 1, higher is more varied.

    Aggregate diversity of Adomavicius & Kwon 2012, over the size of the catalogue.
    """
    return len({item for row in lists for item in row}) / max(1, catalogue_size)


def average_popularity(lists: Sequence[Sequence[str]], *, popularity: Mapping[str, float]) -> float:
    """Mean over people of the mean popularity of what they are shown; popularity bias.

    `popularity`: share of customers who bought each item, 0 where it is not named. 0 to 1; above the catalogue's own
    mean the lists favour what is popular anyway, so lower is more daring. ARP of Yin et al. 2012.
    """
    shown = [float(np.mean([popularity.get(item, 0.0) for item in row])) for row in lists if row]
    return float(np.mean(shown)) if shown else float("nan")


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    `labels` bool `[n]`, `scores` float `[n]`. U / (n₊ n₋) with U of Mann & Whitney 1947. 0.5 is chance, 1 is best; NaN
    if only one class is present.
    """
    positive = np.asarray(labels, dtype=bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Σ (recall_i − recall_{i−1}) · precision_i over distinct thresholds, without interpolation.

    The share of positives is chance, 1 is best; NaN with no positive. The definition of scikit-learn.
    """
    positive = np.asarray(labels, dtype=bool)
    if not positive.any():
        return float("nan")
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    ranked, sorted_scores = positive[order], np.asarray(scores, dtype=np.float64)[order]
    last_of_tie = np.append(sorted_scores[1:] != sorted_scores[:-1], True)
    found = np.cumsum(ranked)[last_of_tie]
    precision = found / (np.flatnonzero(last_of_tie) + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / positive.sum())


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean squared distance of a probability from what happened. 0 to 1, lower is better. Brier 1950."""
    return float(np.mean((np.asarray(probabilities, dtype=np.float64) - np.asarray(labels, dtype=np.float64)) ** 2))


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 10) -> float:
    """Σ_b n_b / n · |mean label − mean probability| over bins of equal count. 0 to 1, lower is better.

    Equal-count bins, since with equal widths most rows of a rare event fall into one (Nixon et al. 2019).
    """
    said, happened, sizes = reliability(labels, probabilities, bins=bins)
    return float(np.sum(np.abs(happened - said) * sizes) / max(1, sizes.sum()))


def reliability(
    labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The reliability curve: mean probability, share that happened, and rows, of each bin of equal count.

    Three float64 arrays `[at most bins]`, lowest probabilities first; the first two are 0 to 1, and equal when perfectly
    calibrated. Murphy & Winkler 1977; equal counts as in Nixon et al. 2019.
    """
    order = np.argsort(np.asarray(probabilities), kind="stable")
    happened = np.asarray(labels, dtype=np.float64)[order]
    said = np.asarray(probabilities, dtype=np.float64)[order]
    parts = [part for part in np.array_split(np.arange(len(order)), bins) if len(part)]
    found = [(said[part].mean(), happened[part].mean(), float(len(part))) for part in parts]
    told = np.array(found, dtype=np.float64).reshape(-1, 3)
    return told[:, 0], told[:, 1], told[:, 2]


def calibration_noise(probabilities: np.ndarray, *, seed: int, bins: int = 10, draws: int = 200) -> float:
    """The calibration error that perfect probabilities would stay below in 95 of 100 samples of this size. 0 to 1.

    Outcomes are drawn from `probabilities` themselves, so any error found is chance: with few rows it is not small
    (Vaicenavicius et al. 2019, consistency resampling).
    """
    random = np.random.default_rng(seed)
    drawn = (random.random(len(probabilities)) < probabilities for _ in range(draws))
    return float(np.quantile([expected_calibration_error(d, probabilities, bins=bins) for d in drawn], 0.95))


def silhouettes(points: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(b − a) / max(a, b) of each row: a the mean distance to one's own group, b to the nearest other. Rousseeuw 1987.

    `points` float `[n, d]`, `groups` int `[n]`. −1 to 1, higher is better, 0 for a row alone in its group; NaN
    throughout with fewer than two groups or no group of two. The cost is quadratic in n.
    """
    if not 2 <= len(np.unique(groups)) < len(points):
        return np.full(len(points), np.nan)
    return np.asarray(silhouette_samples(points, groups))


def adjusted_rand(one: np.ndarray, other: np.ndarray) -> float:
    """Agreement of two groupings of the same rows, corrected for chance. 0 is chance, 1 is the same.

    Hubert & Arabie 1985.
    """
    return float(adjusted_rand_score(one, other))


def paired_bootstrap(
    statistic: Callable[[np.ndarray], float], *, units: int, seed: int, draws: int = 400, level: float = 0.95
) -> Interval:
    """Percentile interval of `statistic(indices)` when the `units` people are drawn anew with replacement.

    Pass a difference of two models over the same people to compare them paired. Draws on which the statistic is NaN
    (one class only) are left out. Efron 1979.
    """
    generator = np.random.default_rng(seed)
    found = np.array([statistic(generator.integers(0, units, size=units)) for _ in range(draws)])
    estimate = statistic(np.arange(units))
    if np.isnan(found).all():
        return Interval(estimate, float("-inf"), float("inf"))
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))
