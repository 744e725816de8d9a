"""How recommendations are judged: any product and new ones, by full ranking, beside popularity, habits and plain ALS."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from aap.features.datasets import Interactions
from aap.modeling.algorithms.single_threaded import one_thread
from aap.modeling.errors import TooFewRows
from aap.modeling.evaluation.evaluation import Evaluation, Interval
from aap.modeling.evaluation.metrics import paired_bootstrap
from aap.modeling.evaluation.plots import bars, gains
from aap.modeling.evaluation.ranking import ListScores, judge, top_indices
from aap.modeling.interactions import Purchases
from models.recommendation.model import RecommendationModel
from models.recommendation.parameters import RecommendationParameters

__all__ = ["evaluate"]

_K = 10
_FEWEST_PEOPLE = 20
_FEW_LINES = 20
"""Somebody with fewer purchase lines before the cut is reported as cold."""
_HALF_LIFE_LINES = 100.0
Lists = dict[str, list[str]]
Truth = Mapping[str, Collection[str]]


@dataclass(frozen=True, slots=True)
class _Past:
    """Everyone's lines before the cut, newest first, as the online sequences would hold them."""

    items: Lists
    baskets: Lists
    ever: dict[str, set[str]]
    """Everything each person bought, however long ago."""

    @classmethod
    def of(cls, train: Interactions, *, limit: int) -> _Past:
        before = Purchases.of(train)
        return cls(before.sequences(limit=limit), before.basket_sequences(limit=limit), before.bought())


def evaluate(
    model: RecommendationModel,
    *,
    held_out: Interactions,
    train: Interactions,
    parameters: RecommendationParameters,
    seed: int,
) -> Evaluation:
    """Any-product NDCG@10 (the headline, `buy_again`) and new-product NDCG@10 (`discover`), full catalogue."""
    past = _Past.of(train, limit=parameters.sequence_length)
    known, later = set(model.item_ids), Purchases.of(held_out).bought()
    bought = {u: items & known for u, items in later.items() if u in past.items and items & known}
    if len(bought) < _FEWEST_PEOPLE:
        raise TooFewRows("People who bought before and after the cut", found=len(bought), needed=_FEWEST_PEOPLE)
    any_product = _judge(model, past, bought, "buy_again")
    new = {user: items - past.ever[user] for user, items in bought.items() if items - past.ever[user]}
    new_product = _judge(model, past, new, "discover") if new else {}
    cold = _cold(model, past, any_product["model"], list(bought), later)
    return _report(model, any_product, new_product, cold, seed=seed)


def _judge(model: RecommendationModel, past: _Past, truth: Truth, strategy: str) -> dict[str, ListScores]:
    """The model and every baseline on the same people; for `discover` the baselines too leave out what was bought."""
    users = list(truth)
    answers = model.recommend(
        [past.items[u] for u in users], baskets=[past.baskets[u] for u in users], n=_K, strategy=strategy
    )
    lists = {"model": {u: [r.item_id for r in answer] for u, answer in zip(users, answers, strict=True)}}
    with one_thread():
        rivals = {user: _rivals(model, past.items[user], again=strategy == "buy_again") for user in users}
    for name in rivals[users[0]]:
        lists[name] = {user: rivals[user][name] for user in users}
    popularity = dict(zip(model.item_ids, model.popularity.tolist(), strict=True))
    return {
        name: judge(found, bought=truth, k=_K, catalogue_size=len(model.item_ids), popularity=popularity)
        for name, found in lists.items()
    }


def _rivals(model: RecommendationModel, sequence: Sequence[str], *, again: bool) -> dict[str, list[str]]:
    """The simple ways: each person's list by each."""
    codes = np.array([model.codes.get(item, -1) for item in sequence], dtype=np.int64)
    places = np.flatnonzero(codes >= 0)
    owned, counts = np.unique(codes[places], return_counts=True)
    plain = model.shelf.factors.scores(owned, counts) if len(owned) else model.popularity.copy()
    if not again:
        popular = model.popularity.copy()
        plain[owned], popular[owned] = -np.inf, -np.inf
        return {"popularity": _named(model, popular), "plain_als": _named(model, plain)}
    size = len(model.item_ids)
    frequency = np.bincount(codes[places], minlength=size).astype(np.float64)
    recency = np.bincount(codes[places], 0.5 ** (places / _HALF_LIFE_LINES), minlength=size)
    habit = np.log1p(frequency) + 0.75 * recency
    return {
        "popularity": _named(model, model.popularity),
        "personal_frequency": _named(model, frequency + model.popularity),
        "frequency_and_recency": _named(model, habit + 1e-3 * model.popularity),
        "plain_als": _named(model, plain),
    }


def _named(model: RecommendationModel, scores: np.ndarray) -> list[str]:
    return [model.item_ids[i] for i in top_indices(scores, n=_K)]


def _cold(
    model: RecommendationModel, past: _Past, scores: ListScores, users: list[str], later: Mapping[str, set[str]]
) -> dict[str, float]:
    """People of whom little or nothing is known, and what was bought of items the model doesn't know."""
    few = np.array([len(past.items[user]) < _FEW_LINES for user in users])
    known = set(model.item_ids)
    strangers = {user: items & known for user, items in later.items() if user not in past.items and items & known}
    pairs = sum(len(items) for items in later.values())
    found = {
        "cold_people": float(few.sum()),
        "strangers": float(len(strangers)),
        "cold_items_share": sum(len(items - known) for items in later.values()) / max(1, pairs),
    }
    if few.any():
        found[f"cold_people_ndcg_at_{_K}"] = float(scores.ndcg[few].mean())
    if strangers:
        (popular,) = model.recommend([[]], baskets=[[]], n=_K)
        likewise = [r.item_id for r in popular]
        lists = dict.fromkeys(strangers, likewise)
        judged = judge(lists, bought=strangers, k=_K, catalogue_size=len(known))
        found[f"strangers_ndcg_at_{_K}"] = float(judged.ndcg.mean())
    return found


def _gain(scores: Mapping[str, ListScores], rival: str, *, seed: int) -> Interval:
    difference = scores["model"].ndcg - scores[rival].ndcg
    return _mean(difference, seed=seed)


def _mean(values: np.ndarray, *, seed: int) -> Interval:
    return paired_bootstrap(lambda drawn: float(values[drawn].mean()), units=len(values), seed=seed)


def _report(
    model: RecommendationModel,
    any_product: dict[str, ListScores],
    new: dict[str, ListScores],
    cold: dict[str, float],
    *,
    seed: int,
) -> Evaluation:
    rivals = [name for name in any_product if name != "model"]
    metrics = any_product["model"].to_metrics(k=_K) | cold
    baselines = {name: any_product[name].to_metrics(k=_K) for name in rivals}
    headline, people = f"ndcg_at_{_K}", len(any_product["model"].ndcg)
    metrics |= _spread(headline, any_product["model"], seed=seed)
    if new:
        metrics |= new["model"].to_metrics(k=_K, prefix="new_") | {"new_people": float(len(new["model"].ndcg))}
        metrics |= _spread(f"new_{headline}", new["model"], seed=seed)
        for name in (rival for rival in new if rival != "model"):
            baselines[name] |= new[name].to_metrics(k=_K, prefix="new_")
            gain = _gain(new, name, seed=seed)
            metrics |= {f"new_gain_over_{name}_{end}": getattr(gain, end) for end in ("low", "estimate", "high")}
    return Evaluation(
        model=model.name,
        headline=headline,
        metrics={**metrics, "items": float(len(model.item_ids))},
        baselines=baselines,
        gains={name: _gain(any_product, name, seed=seed) for name in rivals},
        rows=people,
        notes=(
            f"Ranked over all {len(model.item_ids):,} items with enough buyers; purchases of others are not counted.",
            "new: items nowhere in a person's past, ranked by discover; what they bought before counts as a miss.",
        ),
        plots=_plots(model, any_product, new, seed=seed),
    )


def _spread(name: str, scores: ListScores, *, seed: int) -> dict[str, float]:
    found = _mean(scores.ndcg, seed=seed)
    return {f"{name}_low": found.low, f"{name}_high": found.high}


def _plots(
    model: RecommendationModel, any_product: dict[str, ListScores], new: dict[str, ListScores], *, seed: int
) -> dict[str, Figure]:
    people = len(any_product["model"].ndcg)
    title = f"Any product, full catalogue of {len(model.item_ids):,} items, {people:,} people"
    shown = {name: float(scores.ndcg.mean()) for name, scores in any_product.items()}
    found = {name: _gain(any_product, name, seed=seed) for name in any_product if name != "model"}
    plots = {
        "ndcg": bars(shown, title=title, axis=f"NDCG@{_K} (higher is better)", highlight="model"),
        "gains": gains(found, title="Gain of buy_again over each baseline", metric=f"NDCG@{_K}"),
    }
    if new:
        shown = {name: float(scores.ndcg.mean()) for name, scores in new.items()}
        plots["discover"] = bars(
            shown, title="Products new to the person", axis=f"NDCG@{_K} (higher is better)", highlight="model"
        )
    return plots
