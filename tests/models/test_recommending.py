"""What recommendations and popularity promise the people they answer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from models.errors import UnknownStrategy
from models.factors import ItemFactors
from models.purchases import Purchases, fewest_buyers
from models.ranking import top_indices
from tests.models.shop import Shop


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
            (found,) = model.recommend([nobody], n=5, strategy=strategy)
            assert [r.reason for r in found] == ["popular"] * 5
            assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)


def test_discover_never_shows_what_the_person_bought(fitted, cases):
    model, history = fitted["recommendation"], Purchases.of(cases["recommendation"].train).sequences(limit=500)
    sequences = list(history.values())[:50]
    for sequence, found in zip(sequences, model.recommend(sequences, n=10, strategy="discover"), strict=True):
        assert not {r.item_id for r in found} & set(sequence)
        assert {r.reason for r in found} == {"similar_taste"}


def test_buy_again_starts_with_habits_and_says_so(fitted):
    sequence = ["item-0005"] * 9 + ["item-0009"]
    (found,) = fitted["recommendation"].recommend([sequence], n=10, strategy="buy_again")
    assert (found[0].item_id, found[0].reason) == ("item-0005", "bought_before")
    assert any(r.reason == "similar_taste" for r in found)


def test_a_persons_list_does_not_depend_on_the_batch(fitted, cases):
    model, history = fitted["recommendation"], Purchases.of(cases["recommendation"].train).sequences(limit=500)
    sequences = list(history.values())[:30]
    for strategy in ("buy_again", "discover"):
        together = model.recommend(sequences, n=10, strategy=strategy)
        assert together == [model.recommend([s], n=10, strategy=strategy)[0] for s in sequences]


def test_similar_items_leave_out_the_item_itself(fitted):
    found = fitted["recommendation"].similar("item-0004", 5)
    assert len(found) == 5
    assert "item-0004" not in {r.item_id for r in found}
    assert all(-1.0001 <= r.score <= 1.0001 for r in found)
    assert fitted["recommendation"].similar("never sold", 5) == []


def test_an_unknown_strategy_is_refused_by_name(fitted):
    with pytest.raises(UnknownStrategy, match=r"'psychic'; choose one of: buy_again, discover"):
        fitted["recommendation"].recommend([[]], n=1, strategy="psychic")


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
