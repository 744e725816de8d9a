"""A mistake in a declaration is found when it is declared, in one sentence that names the feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import features as shop_features
from aap.consent.purposes import Purpose
from aap.features import views
from aap.features.declarations import Aggregate, Entity, Op, Ratio, Service, Where, by_category, micros
from aap.features.errors import UnknownFeature, UnusableDeclaration

pytestmark = pytest.mark.fast

RETAIN = frozenset({Purpose.MARKETING_RETENTION})
SOUND: dict[str, Any] = {
    "event": "product_purchased", "op": Op.SUM, "column": "amount", "window": "30d", "purposes": RETAIN,
    "description": "Money spent.", "unit": "currency",
}  # fmt: skip

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"purposes": frozenset()}, "Feature 'amount_sum_30d' states no purpose; say what it is for"),
    ({"purposes": frozenset({Purpose.THIRD_PARTY_SHARING})}, "third_party_sharing may touch no data at all"),
    (
        {"event": "profile_updated", "op": Op.COUNT, "column": None},
        "marketing.retention may not touch profile_updated events",
    ),
    ({"event": "product_stolen"}, "Unknown event type 'product_stolen'; choose one of"),
    ({"column": "colour"}, "product_purchased has no column 'colour'; it has basket_id, "),
    ({"column": "department"}, "sum needs a column of numbers, 'department' is text"),
    ({"column": None}, "sum needs a column"),
    ({"op": Op.COUNT}, "count takes no column"),
    ({"window": "30 days"}, "'30 days' is not a span of time; write 5m, 12h, 30d or ever"),
    ({"window": "0d"}, "'0d' is not a span of time"),
    ({"window": "366d"}, "a window is at most 365d, not 366d; or write ever"),
    ({"hop": "ever"}, "hop and time_to_live are spans like 1d, not ever"),
    ({"time_to_live": "ever"}, "hop and time_to_live are spans like 1d, not ever"),
    ({"default": None}, "the sum of nothing is 0, not None"),
    (
        {"op": Op.SINCE_LAST, "column": None, "default": None},
        "since_last looks back over everything; leave the window out",
    ),
    ({"op": Op.SINCE_LAST, "column": None, "window": "ever"}, "since_last of nothing is null; say default=None"),
    ({"n": 3}, "last_n and since_nth_day, and nothing else, take n of at least 1"),
    ({"op": Op.LAST_N, "window": "ever", "default": None}, "take n of at least 1"),
    ({"op": Op.SINCE_NTH_DAY, "column": None, "window": "ever", "default": None}, "take n of at least 1"),
    (
        {"op": Op.LAST_N, "window": "ever", "default": None, "n": 3, "entity": Entity.ITEM},
        "an item has no last_n; that is for people",
    ),
    ({"column": "user_key", "op": Op.DISTINCT}, "has no column 'user_key'"),
    ({"where": Where("colour", "=", "red")}, "has no column 'colour'"),
    ({"where": Where("department", "=", 5)}, "'department' is text and can't be compared with 5"),
    ({"where": Where("hour", ">=", "17")}, "'hour' is a number and can't be compared with '17'"),
    ({"op": Op.LAST, "column": "department"}, "last needs a column of numbers, 'department' is text"),
    ({"op": Op.LAST, "column": None}, "last needs a column"),
    ({"name": "Amount Spent"}, "'Amount Spent' is no name for a feature: use lower-case letters, digits and _"),
    ({"name": "order"}, "'order' is a word of SQL or of our own tables"),
    ({"name": "valid_from"}, "'valid_from' is a word of SQL or of our own tables"),
]


@pytest.mark.parametrize(("change", "problem"), WRONG, ids=[w[1][:45] for w in WRONG])
def test_a_wrong_declaration_is_told_in_one_sentence(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnusableDeclaration) as told:
        Aggregate(**{**SOUND, **change})
    assert problem in str(told.value)
    assert str(told.value).endswith(".")
    assert "\n" not in str(told.value)


def test_an_unknown_comparison_is_refused() -> None:
    with pytest.raises(UnusableDeclaration, match="'like' is not a comparison; use ="):
        Where("department", "like", "GRO%")


def test_a_name_follows_from_the_declaration() -> None:
    assert Aggregate(**SOUND).name == "amount_sum_30d"
    assert Aggregate(**{**SOUND, "op": Op.COUNT, "column": None}).name == "product_purchased_count_30d"
    assert (micros("5m"), micros("2h"), micros("1d"), micros("ever")) == (
        300_000_000,
        7_200_000_000,
        86_400_000_000,
        None,
    )


def test_two_features_of_one_name_and_purpose_are_refused_but_not_of_two_purposes() -> None:
    other = Aggregate(**{**SOUND, "purposes": frozenset({Purpose.ANALYTICS_REPORTING})})
    assert len(views.make_views([Aggregate(**SOUND), other])) == 2
    with pytest.raises(
        UnusableDeclaration, match=r"Two features are called 'amount_sum_30d' for marketing.retention; rename one"
    ):
        views.make_views([Aggregate(**SOUND), Aggregate(**SOUND)])


def test_a_ratio_divides_amounts_of_its_own_purpose() -> None:
    ratio: dict[str, Any] = {"numerator": "amount_sum_30d", "denominator": "amount_sum_30d", "purposes": RETAIN}
    since = Aggregate(
        **{**SOUND, "op": Op.SINCE_LAST, "column": None, "window": "ever", "default": None, "name": "recency"}
    )
    with pytest.raises(
        UnusableDeclaration, match=r"Ratio 'r' divides 'amount_sum_7d', which marketing.retention doesn't have"
    ):
        views.make_views(
            [Aggregate(**SOUND), Ratio(name="r", description="", **{**ratio, "denominator": "amount_sum_7d"})]
        )
    with pytest.raises(UnusableDeclaration, match="Ratio 'r' divides 'recency', which is a since_last, no amount"):
        views.make_views(
            [Aggregate(**SOUND), since, Ratio(name="r", description="", **{**ratio, "denominator": "recency"})]
        )
    with pytest.raises(UnusableDeclaration, match="not ever"):
        Ratio(name="r", description="", time_to_live="ever", **ratio)


@pytest.mark.parametrize(
    ("features", "sequences", "named"),
    [
        (("fortune",), (), "fortune"),
        (("product_last_1000",), (), "product_last_1000"),
        ((), ("basket_count_28d",), "basket_count"),
    ],
)
def test_a_service_reads_only_what_is_declared_for_its_purpose(
    redeclare: Callable[..., None], features: tuple[str, ...], sequences: tuple[str, ...], named: str
) -> None:
    wrong = Service(name="wrong", purpose=Purpose.PERSONALIZE_PROFILING, features=features, sequences=sequences)
    redeclare(SERVICES=(wrong,))
    with pytest.raises(
        UnusableDeclaration, match=f"Service 'wrong' reads '{named}.*', which is not declared for personalize"
    ):
        views.services()


def test_a_view_there_is_not_is_told() -> None:
    with pytest.raises(UnknownFeature, match="No item feature is declared for train_ai_system"):
        views.view_for(Entity.ITEM, Purpose.TRAIN_AI_SYSTEM)


def test_every_declared_feature_is_described_has_a_unit_and_is_of_one_purpose_a_view() -> None:
    for feature in shop_features.FEATURES:
        assert feature.description.endswith(".")
        assert feature.unit
    for view in views.all_views():
        assert all(view.purpose in f.purposes for f in view.features)
    assert len({f.name for f in shop_features.FEATURES if f.entity is Entity.USER}) >= 30
    assert len([f for f in shop_features.FEATURES if f.entity is Entity.ITEM]) >= 5


def test_the_hop_is_no_longer_than_the_window_unless_stated() -> None:
    hops = {w: Aggregate(**{**SOUND, "window": w}).hop for w in ("1m", "59m", "1h", "23h", "1d", "365d", "ever")}
    assert hops == {"1m": "1m", "59m": "1m", "1h": "1h", "23h": "1h", "1d": "1d", "365d": "1d", "ever": "1d"}
    assert Aggregate(**{**SOUND, "window": "5m", "hop": "1d"}).hop == "1d"


def test_one_declaration_makes_a_feature_for_each_stated_category() -> None:
    made = by_category(Aggregate(**SOUND), column="department", among=("DRUG GM", "Café & Tea"))
    assert [f.name for f in made] == ["amount_sum_30d__drug_gm", "amount_sum_30d__caf_tea"]
    assert [f.where for f in made] == [Where("department", "=", "DRUG GM"), Where("department", "=", "Café & Tea")]
    assert made[0].description == "Money spent, where department is DRUG GM."


@pytest.mark.parametrize(
    ("change", "column", "among", "problem"),
    [
        ({}, "colour", ["red"], "product_purchased has no column of text 'colour' to split by"),
        ({}, "quantity", ["1"], "product_purchased has no column of text 'quantity' to split by"),
        ({}, "department", [], "is split by 'department' among no categories; name some"),
        ({}, "department", ["a b", "A-B"], "two categories make the name 'amount_sum_30d__a_b'; leave one out"),
        ({"where": Where("hour", ">", 9)}, "department", ["a"], "has a condition already and can't be split"),
    ],
)
def test_categories_that_cannot_be_are_told(
    change: dict[str, Any], column: str, among: list[str], problem: str
) -> None:
    with pytest.raises(UnusableDeclaration, match=problem):
        by_category(Aggregate(**{**SOUND, **change}), column=column, among=among)
