"""How recommendations are judged: buying again and discovering, beside popularity, personal frequency and plain ALS."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from feature_repo.frame import Interactions
from models.errors import TooFewRows
from models.evaluation import Evaluation, Interval
from models.metrics import paired_bootstrap
from models.one_thread import one_thread
from models.plots import bars, gains
from models.purchases import Purchases
from models.ranking import ListScores, judge, top_indices

if TYPE_CHECKING:
    from models.recommendation import RecommendationModel, RecommendationParameters

__all__ = ["evaluate"]

_K = 10
_FEWEST_PEOPLE = 20
Lists = dict[str, list[str]]
Truth = Mapping[str, Collection[str]]


def evaluate(
    model: RecommendationModel,
    *,
    held_out: Interactions,
    train: Interactions,
    parameters: RecommendationParameters,
    seed: int,
) -> Evaluation:
    """Any-product NDCG@10 (the headline, `buy_again`) and new-product NDCG@10 (`discover`), full catalogue."""
    before = Purchases.of(train)
    history = before.sequences(limit=parameters.sequence_length)
    known = set(model.item_ids)
    bought = {
        u: items & known for u, items in Purchases.of(held_out).baskets().items() if u in history and items & known
    }
    if len(bought) < _FEWEST_PEOPLE:
        raise TooFewRows("People who bought before and after the cut", found=len(bought), needed=_FEWEST_PEOPLE)
    with one_thread():
        any_product = _judge_all(_rivals(model, history, bought), bought, size=len(known))
    any_product["model"] = _judge_all({"model": _ours(model, history, bought, "buy_again")}, bought, size=len(known))[
        "model"
    ]
    owned = before.baskets()
    unseen = _discoveries(model, history, {user: items - set(history[user]) for user, items in bought.items()})
    never = _discoveries(model, history, {user: items - owned[user] for user, items in bought.items()})
    return _report(model, any_product, {"discover": unseen, "never_bought": never}, seed=seed)


def _discoveries(model: RecommendationModel, history: Lists, truth: Truth) -> dict[str, ListScores]:
    """Model and popularity on what people bought that was new to them; nothing if nobody did."""
    new = {user: items for user, items in truth.items() if items}
    if not new:
        return {}
    lists = {"model": _ours(model, history, new, "discover"), "popularity": _popular(model, history, new, unseen=True)}
    return _judge_all(lists, new, size=len(model.item_ids))


def _ours(model: RecommendationModel, history: Lists, users: Truth, strategy: str) -> Lists:
    order = list(users)
    answers = model.recommend([history[user] for user in order], n=_K, strategy=strategy)
    return {user: [r.item_id for r in answer] for user, answer in zip(order, answers, strict=True)}


def _rivals(model: RecommendationModel, history: Lists, users: Truth) -> dict[str, Lists]:
    frequency, plain = {}, {}
    for user in users:
        codes = np.array([model.codes[item] for item in history[user] if item in model.codes], dtype=np.int64)
        owned, counts = np.unique(codes, return_counts=True)
        habit = np.bincount(codes, minlength=len(model.item_ids)).astype(np.float64)
        frequency[user] = _named(model, habit + model.popularity)
        plain[user] = _named(model, model.factors.scores(owned, counts) if len(owned) else model.popularity)
    return {
        "popularity": _popular(model, history, users, unseen=False),
        "personal_frequency": frequency,
        "plain_als": plain,
    }


def _popular(model: RecommendationModel, history: Lists, users: Truth, *, unseen: bool) -> Lists:
    if not unseen:
        return dict.fromkeys(users, _named(model, model.popularity))
    lists = {}
    for user in users:
        scores = model.popularity.copy()
        scores[[model.codes[item] for item in history[user] if item in model.codes]] = -np.inf
        lists[user] = _named(model, scores)
    return lists


def _named(model: RecommendationModel, scores: np.ndarray) -> list[str]:
    return [model.item_ids[i] for i in top_indices(scores, n=_K)]


def _judge_all(lists: Mapping[str, Mapping[str, Sequence[str]]], truth: Truth, *, size: int) -> dict[str, ListScores]:
    return {name: judge(found, bought=truth, k=_K, catalogue_size=size) for name, found in lists.items()}


def _gain(scores: Mapping[str, ListScores], rival: str, *, seed: int) -> Interval:
    difference = scores["model"].ndcg - scores[rival].ndcg
    return paired_bootstrap(lambda drawn: float(difference[drawn].mean()), units=len(difference), seed=seed)


def _report(
    model: RecommendationModel, any_product: dict[str, ListScores], new: dict[str, dict[str, ListScores]], *, seed: int
) -> Evaluation:
    rivals = [name for name in any_product if name != "model"]
    metrics = any_product["model"].to_metrics(k=_K)
    baselines = {name: any_product[name].to_metrics(k=_K) for name in rivals}
    for kind, scores in new.items():
        if scores:
            metrics |= scores["model"].to_metrics(k=_K, prefix=f"{kind}_")
            baselines["popularity"] |= scores["popularity"].to_metrics(k=_K, prefix=f"{kind}_")
            gain = _gain(scores, "popularity", seed=seed)
            metrics |= {f"{kind}_gain": gain.estimate, f"{kind}_gain_low": gain.low, f"{kind}_gain_high": gain.high}
    headline, people = f"ndcg_at_{_K}", len(any_product["model"].ndcg)
    return Evaluation(
        model=model.name,
        headline=headline,
        metrics={**metrics, "items": float(len(model.item_ids))},
        baselines=baselines,
        gains={name: _gain(any_product, name, seed=seed) for name in rivals},
        rows=people,
        notes=(
            f"Ranked over all {len(model.item_ids):,} items with enough buyers; purchases of others are not counted.",
            "discover: items outside the sequence the model is given; never_bought: items nowhere in their past.",
        ),
        plots=_plots(model, any_product, new, seed=seed),
    )


def _plots(
    model: RecommendationModel, any_product: dict[str, ListScores], new: dict[str, dict[str, ListScores]], *, seed: int
) -> dict[str, Figure]:
    people = len(any_product["model"].ndcg)
    title = f"Any product, full catalogue of {len(model.item_ids):,} items, {people:,} people"
    shown = {
        name: float(any_product[name].ndcg.mean()) for name in ("model", *(n for n in any_product if n != "model"))
    }
    found = {name: _gain(any_product, name, seed=seed) for name in any_product if name != "model"}
    plots = {
        "ndcg": bars(shown, title=title, axis=f"NDCG@{_K} (higher is better)", highlight="model"),
        "gains": gains(found, title="Gain of buy_again over each baseline", metric=f"NDCG@{_K}"),
    }
    if new["discover"]:
        scores = {name: float(found.ndcg.mean()) for name, found in new["discover"].items()}
        plots["discover"] = bars(
            scores, title="Products new to the person", axis=f"NDCG@{_K} (higher is better)", highlight="model"
        )
    return plots
