"""Bad input: each kind gets a clear error or a stated fallback, and never a silent wrong score.

Too few rows, and files cut short, are asked of every model in test_contract.py.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pyarrow.compute as pc
import pytest
import xgboost as xgb

from aap.features.datasets import Interactions
from aap.modeling.catalog import evaluate, model_classes
from aap.modeling.errors import CorruptArtifact, OneClassOnly, SchemaMismatch, TooFewRows
from aap.modeling.training import following_champion

OF_NUMBERS = ["anomaly", "churn", "event_anomaly", "segments", "session_anomaly"]


def judged(model, case, held_out):
    return evaluate(model, held_out=held_out, train=case.train, parameters=case.parameters, seed=1)


def nothing_known(frame):
    return dataclasses.replace(frame, data=frame.data.assign(**dict.fromkeys(frame.features, np.nan)))


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_rows_of_which_nothing_is_known_are_refused_in_learning(name, cases):
    case = cases[name]
    with pytest.raises(TooFewRows, match="found 0, need at least"):
        case.kind.fit(nothing_known(case.train), parameters=case.parameters, seed=1)


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_rows_of_which_nothing_is_known_are_refused_in_judging(name, cases, fitted):
    case = cases[name]
    with pytest.raises(TooFewRows):
        judged(fitted[name], case, nothing_known(case.held_out))


def test_a_person_of_whom_nothing_is_known_is_ordinary_to_the_detectors_and_typical_to_the_segments(fitted):
    for name in ("anomaly", "event_anomaly", "session_anomaly"):
        model = fitted[name]
        nobody = np.full((1, len(model.features)), np.nan)
        assert model.score(nobody)[0] < model.threshold
        assert model.drivers(nobody) == [[]]
    model = fitted["segments"]
    nobody = np.full((1, len(model.features)), np.nan)
    assert model.assign(nobody)[0].distance == pytest.approx(np.linalg.norm(model.clusters.centers, axis=1).min())


def test_one_class_only_is_refused_in_learning_and_in_judging(cases, fitted):
    case = cases["churn"]
    stayed = dataclasses.replace(case.held_out, data=case.held_out.data.assign(churned=0.0))
    with pytest.raises(OneClassOnly, match="choose another horizon or import more history"):
        case.kind.fit(dataclasses.replace(case.train, data=case.train.data.assign(churned=0.0)),
                      parameters=case.parameters, seed=1)  # fmt: skip
    with pytest.raises(OneClassOnly):
        judged(fitted["churn"], case, stayed)


@pytest.mark.parametrize("strategy", ["buy_again", "discover"])
def test_someone_never_seen_gets_what_is_popular_and_is_told_so(fitted, strategy):
    model = fitted["recommendation"]
    (nobody,), (stranger,) = (
        model.recommend([items], baskets=[["b"] * len(items)], n=5, strategy=strategy)
        for items in ([], ["never heard"])
    )
    assert nobody == stranger
    assert {r.reason for r in nobody} == {"popular"}
    assert [r.item_id for r in nobody] == [model.item_ids[i] for i in np.argsort(-model.popularity, kind="stable")[:5]]


def test_an_item_never_seen_has_nothing_similar_and_changes_no_ones_list(fitted):
    model = fitted["recommendation"]
    assert model.similar("never heard", 5) == []
    plain = model.recommend([["item-0003", "item-0007"]], baskets=[["1", "1"]], n=5)
    with_it = model.recommend([["item-0003", "never heard", "item-0007"]], baskets=[["1", "1", "1"]], n=5)
    assert [r.item_id for r in plain[0]] == [r.item_id for r in with_it[0]]


def test_as_many_baskets_as_items_are_asked_for(fitted):
    with pytest.raises(SchemaMismatch):
        fitted["recommendation"].recommend([["item-0003", "item-0007"]], baskets=[["1"]], n=5)


def test_history_of_nobody_is_refused(cases):
    case = cases["recommendation"]
    none = case.train.table.filter(pc.equal(case.train.table["user_key"], "nobody"))
    with pytest.raises(TooFewRows):
        case.kind.fit(Interactions(none, case.train.manifest), parameters=case.parameters, seed=1)


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_a_stored_file_that_was_changed_by_one_bit_is_not_loaded(name, registry, fitted):
    with registry.run("test") as run:
        version = registry.register(fitted[name], run=run)
    file = max(Path(urlparse(version.source).path).iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(CorruptArtifact, match=f"File {file.name} of the stored model was changed"):
        registry.load(version)


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_a_champion_of_another_feature_schema_says_which_features_differ(name, fitted):
    model = fitted[name]
    with pytest.raises(SchemaMismatch, match=r"missing \['.*'\], unexpected \['shoe_size'\]"):
        model.require([*model.features[1:], "shoe_size"])


@pytest.mark.parametrize(("name", "trees"), [("churn", "model.ubj"), ("recommendation", "discover.ubj")])
def test_trees_grown_on_columns_that_are_no_longer_worked_out_are_not_loaded(name, trees, fitted, tmp_path):
    """As after an upgrade: the stored model is whole, but the code beside it makes other columns of the same features."""
    model = fitted[name]
    model.save(tmp_path)
    booster = xgb.Booster(model_file=tmp_path / trees)
    booster.feature_names = [*booster.feature_names[:-1], "gone_since"]
    booster.save_model(tmp_path / trees)
    with pytest.raises(SchemaMismatch, match=rf"Model {name} expects .*missing \['gone_since'\].*retrain it"):
        type(model).load(tmp_path)


def test_training_begins_anew_beside_a_champion_whose_trees_no_longer_fit(registry, fitted):
    model = fitted["churn"]
    older = model.booster.copy()
    older.feature_names = [*older.feature_names[:-1], "gone_since"]
    with registry.run("before the upgrade") as run:
        version = registry.register(dataclasses.replace(model, booster=older), run=run)
    registry.promote("churn", version.version)
    with pytest.raises(SchemaMismatch):
        registry.load(registry.champion("churn"))
    assert following_champion(registry, model) is model
