"""The recommender's parameters, apart from the model so that what makes its training examples can read them too."""

from __future__ import annotations

from dataclasses import dataclass

from models.recommendation.ranker import BlendParameters

__all__ = ["RecommendationParameters"]


@dataclass(frozen=True, slots=True)
class RecommendationParameters(BlendParameters):
    """Section `recommendation` of training.yaml; what each means is said there."""

    horizon_days: int
    als: str
    factors: int
    regularization: float
    iterations: int
    min_buyers: int
    popularity_weeks: int
    items_sequence: str
    baskets_sequence: str
    sequence_length: int
    cuts: int
    cut_step_days: int
    own_candidates: int
    new_candidates: int
    discoveries: int
