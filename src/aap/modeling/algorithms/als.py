"""Item factors of implicit-feedback matrix factorization, and folding a person in by the normal equations."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix

from aap.modeling.algorithms.single_threaded import one_thread
from aap.modeling.interactions import Purchases

__all__ = ["IMPLICIT", "ItemFactors", "factorize"]

IMPLICIT = "implicit"
"""The library that factorizes on one machine."""


@dataclass(frozen=True, slots=True, eq=False)
class ItemFactors:
    """One vector an item. The score of item i for a person with vector x is y_i · x, about 0 (no) to 1 (yes)."""

    items: np.ndarray
    """float32 `[n_items, n_factors]`."""
    regularization: float
    gram: np.ndarray
    """YᵀY + λI, float64 `[n_factors, n_factors]`; derived."""

    @classmethod
    def of(cls, items: np.ndarray, *, regularization: float) -> ItemFactors:
        """From the trained vectors and the λ they were trained with."""
        exact = items.astype(np.float64)
        gram = np.einsum("if,ig->fg", exact, exact) + regularization * np.eye(items.shape[1])
        return cls(np.ascontiguousarray(items), regularization, gram)

    def person(self, owned: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The vector of someone who bought the items `owned` (codes) `counts` times each, float64 `[n_factors]`.

        x = (YᵀY + λI + Σ (c−1) y yᵀ)⁻¹ Σ c y over owned items, with confidence c = log1p(count) as in training (Hu
        et al. 2008, equation 4, in the form implicit solves it).
        """
        theirs = self.items[owned].astype(np.float64)
        confidence = np.log1p(counts)
        left = self.gram + (theirs.T * (confidence - 1.0)) @ theirs
        vector: np.ndarray = cho_solve(cho_factor(left, check_finite=False), confidence @ theirs, check_finite=False)
        return vector

    def scores(self, owned: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Score of every item for one person, float64 `[n_items]`.

        One matrix-vector product a person: a product over a batch sums in another order, and an answer would then
        depend on who else asked.
        """
        return (self.items @ self.person(owned, counts).astype(np.float32)).astype(np.float64)

    def cosines(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Cosines between the vectors of `some` items and `others` (codes), float64 `[n_some, n_others]`."""
        one, other = (self.items[codes].astype(np.float64) for codes in (some, others))
        lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)[None, :]
        return np.asarray(one @ other.T / np.maximum(lengths, 1e-12))

    def cosine(self, item: int) -> np.ndarray:
        """Cosine of every item's vector with that of `item`, float64 `[n_items]`."""
        lengths = np.linalg.norm(self.items, axis=1).astype(np.float64)
        return np.asarray((self.items @ self.items[item]) / np.maximum(lengths * lengths[item], 1e-12))


def factorize(
    bought: Purchases,
    *,
    kept: np.ndarray,
    factors: int,
    regularization: float,
    iterations: int,
    seed: int,
    until: int | None = None,
    als: str = IMPLICIT,
) -> ItemFactors:
    """Alternating least squares over people × the `kept` items, on one thread so that one seed gives the same bytes.

    `als` is `implicit`, or the Spark master on which Spark's own ALS does it instead (`aap.modeling.algorithms.spark_als`).
    Fewer factors than asked for are used when there are few people or items: at most a quarter of either. Lines after
    `until` (microseconds) are not seen.
    """
    position = np.full(len(bought.item_ids), -1, dtype=np.int64)
    position[kept] = np.arange(len(kept))
    lines = position[bought.items] >= 0
    if until is not None:
        lines &= bought.moments <= until
    shape = (len(bought.user_keys), len(kept))
    cells = (np.ones(int(lines.sum()), dtype=np.float32), (bought.users[lines], position[bought.items[lines]]))
    counts = csr_matrix(cells, shape=shape)
    counts.data = np.log1p(counts.data)
    size = max(2, min(factors, min(shape) // 4))
    if als != IMPLICIT:
        from aap.modeling.algorithms.spark_als import spark_item_factors

        vectors = spark_item_factors(
            counts, factors=size, regularization=regularization, iterations=iterations, seed=seed, master=als
        )
        return ItemFactors.of(vectors, regularization=regularization)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        model = AlternatingLeastSquares(
            factors=size, regularization=regularization, iterations=iterations, num_threads=1, random_state=seed
        )
        model.fit(counts, show_progress=False)
    return ItemFactors.of(np.asarray(model.item_factors, dtype=np.float32), regularization=regularization)
