"""How popularity is judged: one list for everybody, against what they bought later. Nothing is simpler to compare with."""

from __future__ import annotations

from aap.features.datasets import Interactions
from aap.modeling.errors import TooFewRows
from aap.modeling.evaluation.evaluation import Evaluation
from aap.modeling.evaluation.plots import bars
from aap.modeling.evaluation.ranking import judge
from aap.modeling.interactions import Purchases
from models.popularity.model import Popularity, PopularityParameters

__all__ = ["evaluate"]

_K = 10


def evaluate(
    model: Popularity, *, held_out: Interactions, train: Interactions, parameters: PopularityParameters, seed: int
) -> Evaluation:
    """How well one list for all does for everyone who bought a listed item later. Nothing is simpler."""
    known = set(model.item_ids)
    bought = {user: items & known for user, items in Purchases.of(held_out).bought().items() if items & known}
    if not bought:
        raise TooFewRows("People who bought a popular item after the cut", found=0, needed=1)
    top = [r.item_id for r in model.top(_K)]
    scores = judge(dict.fromkeys(bought, top), bought=bought, k=_K, catalogue_size=len(known))
    shown = dict(zip(model.item_ids[:15], model.shares[:15], strict=True))
    title = f"Most popular items of the last {parameters.weeks} weeks"
    return Evaluation(
        model=model.name,
        headline=f"ndcg_at_{_K}",
        metrics={**scores.to_metrics(k=_K), "items": float(len(known)), "buyers_needed": float(model.buyers_needed)},
        baselines={},
        gains={},
        rows=len(bought),
        notes=(f"An item is listed when {model.buyers_needed} people or more bought it.",),
        plots={"popular_items": bars(shown, title=title, axis="share of customers who bought it")},
    )
