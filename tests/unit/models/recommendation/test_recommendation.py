"""What recommendations and popularity promise the people they answer."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from aap.features.datasets import Interactions
from aap.modeling.algorithms.als import ItemFactors
from aap.modeling.errors import SchemaMismatch, UnknownStrategy
from aap.modeling.evaluation.ranking import top_indices
from aap.modeling.interactions import Purchases, fewest_buyers
from aap.modeling.list_constraints import Wishes
from models.recommendation.purchase_history import History
from models.recommendation.training_examples import shelf_at
from models.recommendation.user_item_features import Habits
from tests.unit.modeling.shop import Shop


def test_folding_in_solves_the_equations_that_training_solved():
    generator = np.random.default_rng(0)
    counts = csr_matrix(np.log1p(generator.poisson(0.4, size=(60, 30))).astype(np.float32))
    trained = AlternatingLeastSquares(factors=8, regularization=2.0, num_threads=1, random_state=1)
    trained.fit(counts, show_progress=False)
    factors = ItemFactors.of(trained.item_factors, regularization=2.0)
    for user in range(20):
        row = counts[user]
        ours = factors.person(row.indices, np.rint(np.expm1(row.data)))
        theirs = trained.recalculate_user(np.array([user]), row)[0]
        assert ours == pytest.approx(theirs, abs=2e-5)


def test_an_empty_or_unknown_sequence_gets_what_is_popular(fitted):
    model = fitted["recommendation"]
    for nobody in ([], ["never sold"]):
        for strategy in ("buy_again", "discover"):
            (found,) = model.recommend([nobody], baskets=[["1"] * len(nobody)], n=5, strategy=strategy)
            assert [r.reason for r in found] == ["popular"] * 5
            assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)


def lines_of(cases, people=40):
    """The last lines of some people: items, and the baskets they were in."""
    before = Purchases.of(cases["recommendation"].train)
    items, baskets = before.sequences(limit=500), before.basket_sequences(limit=500)
    keys = list(items)[:people]
    return [items[key] for key in keys], [baskets[key] for key in keys]


def test_discover_never_shows_what_the_person_bought_and_says_what_it_goes_with(fitted, cases):
    items, baskets = lines_of(cases)
    for bought, found in zip(
        items, fitted["recommendation"].recommend(items, baskets=baskets, n=10, strategy="discover"), strict=True
    ):
        assert not {r.item_id for r in found} & set(bought)
        assert {r.reason for r in found} == {"similar_taste"}
        assert {r.because for r in found} <= set(bought)


def test_buy_again_starts_with_habits_and_says_how_strong_they_are(fitted):
    items = ["item-0009", *["item-0005"] * 6]
    baskets = [str(number) for number in range(7, 0, -1)]
    (found,) = fitted["recommendation"].recommend([items], baskets=[baskets], n=10, strategy="buy_again")
    habit = next(r for r in found if r.item_id == "item-0005")
    assert (habit.reason, habit.times, habit.visits_ago) == ("bought_before", 6, 1)
    assert habit.explain({}) == "Bought in 6 visits, last 2 visits ago."
    assert {r.reason for r in found} == {"bought_before", "similar_taste"}


def test_a_persons_list_does_not_depend_on_the_batch(fitted, cases):
    model, (items, baskets) = fitted["recommendation"], lines_of(cases)
    for strategy in ("buy_again", "discover"):
        together = model.recommend(items, baskets=baskets, n=10, strategy=strategy)
        assert together == [
            model.recommend([i], baskets=[b], n=10, strategy=strategy)[0] for i, b in zip(items, baskets, strict=True)
        ]


def test_scores_are_chances_and_the_best_come_first(fitted, cases):
    items, baskets = lines_of(cases)
    for found in fitted["recommendation"].recommend(items, baskets=baskets, n=10):
        scores = [r.score for r in found]
        assert scores == sorted(scores, reverse=True)
        assert all(0 < score < 1 for score in scores)


@pytest.mark.parametrize("strategy", ["buy_again", "discover"])
def test_wishes_are_kept_to_and_the_list_is_still_full(strategy, fitted, cases):
    model, (items, baskets) = fitted["recommendation"], lines_of(cases)
    plain = model.recommend(items, baskets=baskets, n=10, strategy=strategy)
    gone = tuple({r.item_id for found in plain for r in found[:1]})
    for wishes, fits in (
        (Wishes(without=gone), lambda found: not {r.item_id for r in found} & set(gone)),
        (Wishes(most_a_category=2), lambda found: max(Counter(r.item_id[-1] for r in found).values()) <= 2),
    ):
        lists = model.recommend(items, baskets=baskets, n=10, strategy=strategy, wishes=wishes)
        assert all(len(found) == 10 and fits(found) for found in lists)
    wanted = Wishes(category="aisle 3")
    lists = model.recommend(items, baskets=baskets, n=5, strategy=strategy, wishes=wanted)
    assert all(found and {r.item_id[-1] for r in found} == {"3"} for found in lists)


@pytest.mark.parametrize("strategy", ["buy_again", "discover"])
def test_only_items_a_caller_names_are_shown_in_the_order_they_have_without(strategy, fitted, cases):
    model, (items, baskets) = fitted["recommendation"], lines_of(cases)
    everything = model.recommend(items, baskets=baskets, n=len(model.item_ids), strategy=strategy)
    named = {f"item-{n:04d}" for n in range(0, 120, 2)} | {"never heard of"}
    lists = model.recommend(items, baskets=baskets, n=5, strategy=strategy, wishes=Wishes(among=named))
    for all_of_them, found in zip(everything, lists, strict=True):
        ids = [r.item_id for r in found]
        assert ids
        assert set(ids) <= named
        if strategy == "discover":  # buy_again looks at a limited number of items, other ones when some are ruled out
            assert ids == [r.item_id for r in all_of_them if r.item_id in named][:5]
    (nothing,) = model.recommend([[]], baskets=[[]], n=3, wishes=Wishes(among=()))
    assert nothing == []


def test_wishes_hold_for_somebody_unknown_too(fitted):
    model = fitted["recommendation"]
    (found,) = model.recommend([[]], baskets=[[]], n=3)
    (other,) = model.recommend([[]], baskets=[[]], n=3, wishes=Wishes(without=(found[0].item_id,)))
    assert [r.item_id for r in other][:2] == [r.item_id for r in found[1:]]
    (nothing,) = model.recommend([[]], baskets=[[]], n=3, wishes=Wishes(category="no such aisle"))
    assert nothing == []


def test_items_and_baskets_of_different_length_are_refused(fitted):
    with pytest.raises(SchemaMismatch, match="as many baskets as items"):
        fitted["recommendation"].recommend([["item-0001", "item-0002"]], baskets=[["1"]], n=3)


def test_visits_are_counted_back_from_the_newest_basket():
    items, baskets = [["c", "b", "a", "a"], [], ["a"]], [["9", "9", "7", "3"], [], ["1"]]
    history = History.of_sequences(items, baskets, codes={"a": 0, "b": 1})
    assert history.item.tolist() == [-1, 1, 0, 0, 0]
    assert history.visit.tolist() == [0, 0, 1, 2, 0]
    assert history.visits.tolist() == [3, 0, 1]


def test_history_from_purchases_is_what_the_sequences_would_have_said(cases):
    bought = Purchases.of(cases["recommendation"].train)
    codes = {item: i for i, item in enumerate(bought.item_ids)}
    until = int(np.median(bought.moments))
    seen = History.of_purchases(bought, position=np.arange(len(codes)), limit=50, until=until)
    for person in range(30):
        lines = np.flatnonzero((bought.users == person) & (bought.moments <= until))[::-1][:50]
        items, baskets = [bought.item_ids[i] for i in bought.items[lines]], [str(b) for b in bought.baskets[lines]]
        told = History.of_sequences([items], [baskets], codes=codes)
        mine = seen.person == person
        assert (seen.item[mine].tolist(), seen.visit[mine].tolist()) == (told.item.tolist(), told.visit.tolist())


def test_habits_count_visits_as_a_reader_would():
    history = History.of_sequences(
        [["a", "b", "a", "a", "b", "a"]], [["9", "9", "8", "6", "5", "1"]], codes={"a": 0, "b": 1}
    )
    habits = Habits.of(history, items=2)
    told = {name: column.tolist() for name, column in habits.columns.items()}
    assert habits.key.tolist() == [0, 1]
    assert (told["times"], told["lines"]) == ([4.0, 2.0], [4.0, 2.0])
    assert (told["visits_since_last"], told["visits_since_first"]) == ([0.0, 0.0], [4.0, 3.0])
    assert told["share"] == [4 / 5, 2 / 5]
    assert told["gap_mean"] == [(1 + 1 + 2) / 3, 3.0]
    assert (told["gap_median"], told["gap_newest"]) == ([1.0, 3.0], [1.0, 3.0])
    assert told["recent_2"] == pytest.approx([1 + 0.5**0.5 + 0.5**1 + 0.5**2, 1 + 0.5**1.5])
    assert {name: column.tolist() for name, column in habits.person.items()} == {
        "visits": [5.0],
        "items": [2.0],
        "lines_a_visit": [6 / 5],
        "lines_an_item": [3.0],
    }


def test_a_lesson_is_made_of_nothing_later_than_its_cut(shop, cases):
    parameters = dataclasses.replace(cases["recommendation"].parameters, cuts=1)
    table = cases["recommendation"].train.table
    cut = table["occurred_at"].to_pandas().max() - pd.Timedelta(days=parameters.horizon_days)
    for_others = pa.compute.less_equal(table["occurred_at"], pa.scalar(cut, table.schema.field("occurred_at").type))
    blind, seen = Purchases.of(Interactions(table.filter(for_others), None)), Purchases.of(Interactions(table, None))
    shelves = []
    for bought in (blind, seen):
        kept = np.array([bought.item_ids.index(f"item-{i:04d}") for i in range(40)])
        category = bought.categories_of(kept)[1]
        shelf = shelf_at(
            bought, kept=kept, category=category, until=int(cut.value // 1000), parameters=parameters, seed=1
        )
        position = np.full(len(bought.item_ids), -1)
        position[kept] = np.arange(40)
        history = History.of_purchases(bought, position=position, limit=500, until=int(cut.value // 1000))
        keys = np.array(bought.user_keys)[np.unique(history.person)]
        shelves.append((keys.tolist(), shelf.candidates(history, again=20, new=10).values))
    assert shelves[0][0] == shelves[1][0]
    assert np.array_equal(shelves[0][1], shelves[1][1], equal_nan=True)


def test_similar_items_leave_out_the_item_itself(fitted):
    found = fitted["recommendation"].similar("item-0004", 5)
    assert len(found) == 5
    assert "item-0004" not in {r.item_id for r in found}
    assert all(-1.0001 <= r.score <= 1.0001 for r in found)
    assert fitted["recommendation"].similar("never sold", 5) == []


def test_an_unknown_strategy_is_refused_by_name(fitted):
    with pytest.raises(UnknownStrategy, match=r"'psychic'; choose one of: buy_again, discover"):
        fitted["recommendation"].recommend([[]], baskets=[[]], n=1, strategy="psychic")


def test_popular_items_are_in_order_of_their_buyers(fitted, cases):
    bought = Purchases.of(cases["popularity"].train)
    buyers = dict(zip(bought.item_ids, bought.distinct_buyers(), strict=True))
    found = [buyers[item] for item in fitted["popularity"].item_ids]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("name", ["popularity", "recommendation"])
@pytest.mark.parametrize(("people", "shows"), [(4, False), (5, True)])
def test_an_item_shows_only_when_enough_different_people_bought_it(name, people, shows, shop, cases):
    case, when = cases[name], pd.Timestamp(cases[name].train.table["occurred_at"].to_pandas().max())
    buyers = sorted(shop.lines["user_key"].unique())[:people] * 50
    rare = shop.lines.head(len(buyers)).assign(user_key=buyers, item_id="rare", occurred_at=when)
    data = Shop(pd.concat([shop.lines, rare])).interactions("recommendation", as_of=when, until=when)
    model = case.kind.fit(data, parameters=case.parameters, seed=1)
    assert ("rare" in model.item_ids) is shows


@pytest.mark.parametrize(("people", "needed"), [(50, 5), (500, 5), (1_200, 12), (2_000, 20), (10**6, 20)])
def test_fewest_buyers_scales_down_for_small_shops_and_never_below_five(people, needed):
    assert fewest_buyers(20, people=people) == needed


def test_sequences_are_newest_first_and_keep_repeats(cases):
    table = cases["recommendation"].train.table
    key = table["user_key"][0].as_py()
    lines = [row["item_id"] for row in table.to_pylist() if row["user_key"] == key]
    assert Purchases.of(cases["recommendation"].train).sequences(limit=7)[key] == lines[::-1][:7]


def test_top_indices_breaks_ties_by_position_and_leaves_out_what_is_ruled_out():
    scores = np.array([1.0, -np.inf, 3.0, 1.0, 1.0])
    assert top_indices(scores, n=3).tolist() == [2, 0, 3]
    assert top_indices(scores, n=9).tolist() == [2, 0, 3, 4]
