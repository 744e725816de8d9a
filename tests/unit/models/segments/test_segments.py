"""Segments: how many there are, that they keep their numbers and names, and what is told of each."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, silhouette_score

from aap.modeling.algorithms.kmeans import Clusters, Recipe, agreement, drawn_anew, how_many
from aap.modeling.algorithms.robust_scaling import Scaling
from aap.modeling.registry.artifacts import digests
from models.segments.matching import matched, numbered

RECIPE = Recipe(starts=5, clip=3.0, seed=1)


def clouds(*centers, each=60, spread=0.1):
    """Rows around each centre."""
    generator = np.random.default_rng(4)
    return np.concatenate([generator.normal(center, spread, size=(each, 2)) for center in centers])


def clusters(*centers):
    return Clusters(Scaling(np.zeros(2, bool), np.zeros(2), np.ones(2)), np.array(centers, float), 100.0)


def count_of(values, **changed):
    asked = {"fewest": 2, "most": 6, "least_stability": 0.8, "draws": 4, "recipe": RECIPE} | changed
    return how_many(values, **asked)


def test_as_many_segments_are_made_as_there_are_clear_groups():
    assert count_of(clouds((0, 0), (5, 5), (5, 0))) == 3
    assert count_of(clouds((0, 0), (5, 5), (5, 0), (0, 5))) == 4


def test_the_count_chosen_is_the_best_separated_of_those_that_come_out_again():
    values = np.random.default_rng(2).gamma(2.0, size=(240, 3))
    stability, separation = {}, {}
    for count in range(2, 7):
        found = Clusters.fit(values, count=count, recipe=RECIPE)
        groups = found.groups(values)
        others = [Clusters.fit(d, count=count, recipe=RECIPE).groups(values) for d in drawn_anew(values, 4, seed=1)]
        stability[count] = np.mean([adjusted_rand_score(groups, other) for other in others])
        separation[count] = silhouette_score(found.points(values), groups)
    limit = sorted(stability.values())[2]
    steady = [count for count in stability if stability[count] >= limit]
    assert count_of(values, least_stability=limit) == max(steady, key=separation.get)
    assert count_of(values, least_stability=1.01) == max(stability, key=stability.get)


def test_few_people_make_few_segments():
    assert count_of(clouds((0, 0), (5, 5), (5, 0), (0, 5), each=12), fewest=3) == 2


def test_scaling_can_be_undone():
    values = np.column_stack([np.random.default_rng(3).lognormal(size=99), np.random.default_rng(3).normal(size=99)])
    scaling = Scaling.fit(values)
    assert scaling.logged.tolist() == [True, False]
    assert scaling.undo(scaling.apply(values)) == pytest.approx(values)


def test_a_segment_that_moved_a_little_is_the_same_and_one_elsewhere_is_new():
    old = clusters((0, 0), (10, 0), (0, 10))
    assert matched(clusters((0, 9), (1, 0), (10, 1)), old) == [2, 0, 1]
    assert matched(clusters((1, 0), (2, 0)), old) == [0, None]
    assert matched(clusters((0, 0), (10, 0), (0, 10), (30, 30)), old)[:3] == [0, 1, 2]
    assert numbered([1, None, 0], [7, 3], unused=8) == (3, 8, 7)


def test_segments_found_in_another_order_keep_their_numbers_and_names(fitted):
    model = fitted["segments"]
    turned = np.arange(len(model.names))[::-1]
    fresh = dataclasses.replace(
        model, clusters=model.clusters.in_order(turned), names=tuple(f"other {i}" for i in turned)
    )
    again = fresh.following(model)
    assert again.names == model.names[::-1]
    assert again.numbers == model.numbers[::-1]
    assert np.array_equal(again.clusters.centers, fresh.clusters.centers)


def test_a_new_segment_never_takes_the_number_or_name_of_one_that_went(fitted):
    model = fitted["segments"]
    centers = model.clusters.centers.copy()
    centers[0] = centers[1] + 1e-3  # the first is gone; in its place another beside the second
    fresh = dataclasses.replace(model, clusters=dataclasses.replace(model.clusters, centers=centers))
    again = fresh.following(model)
    assert again.numbers[0] == model.unused or again.numbers[1] == model.unused
    assert again.unused == model.unused + 1
    assert len(set(again.names)) == len(again.names)
    assert model.numbers[0] not in again.numbers


def test_a_champion_of_other_features_is_not_followed(fitted):
    model = fitted["segments"]
    other = dataclasses.replace(model, features=("shoe_size", *model.features[1:]), names=("x",) * len(model.names))
    assert model.following(other) is model


def test_following_changes_nothing_that_is_computed(fitted, cases, tmp_path):
    model, values = fitted["segments"], cases["segments"].held_out.values
    again = model.following(dataclasses.replace(model, numbers=tuple(n + 40 for n in model.numbers), unused=99))
    for name, one in (("a", model), ("b", again)):
        (tmp_path / name).mkdir()
        one.save(tmp_path / name)
    ours, theirs = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert {name for name in ours if ours[name] != theirs[name]} == {"names.json"}
    assert [a.segment + 40 for a in model.assign(values)] == [a.segment for a in again.assign(values)]


def test_every_segment_says_its_size_and_what_sets_it_apart(fitted):
    model = fitted["segments"]
    for place, sentence in enumerate(model.described):
        assert f"{model.names[place]}: {model.sizes[place]:,} people" in sentence
        furthest = int(np.abs(model.clusters.centers[place]).argmax())
        assert f"{model.features[furthest]} {model.profiles[place, furthest]:,.4g}" in sentence


def test_agreement_with_itself_is_one():
    groups = np.array([0, 0, 1, 1, 2])
    assert agreement(groups, [groups, (groups + 1) % 3]) == 1.0
