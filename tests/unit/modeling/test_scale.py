"""Past one machine: the same contract holds for boosting from disk and for Spark's own ALS, at a small size."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
import xgboost as xgb

from aap.features.errors import EngineUnavailable
from aap.modeling.algorithms.xgboost_external_memory import matrix
from aap.modeling.catalog import evaluate
from aap.modeling.errors import BadParameters
from aap.modeling.evaluation.metrics import auc
from aap.modeling.registry.artifacts import digests
from tests.unit.modeling.test_contract import answers, stored


@pytest.fixture(
    scope="module", params=["churn from disk", pytest.param("recommendation by Spark", marks=pytest.mark.spark)]
)
def past_one_machine(request, cases):
    """A case whose settings say that it doesn't fit, and the same as it is by default."""
    name = request.param.split()[0]
    case = cases[name]
    few = {} if name == "churn" else {"iterations": 2, "cuts": 1, "factors": 8}  # Spark takes a second a round
    usual = dataclasses.replace(case, parameters=dataclasses.replace(case.parameters, **few))
    changes = {"rows_in_memory": 700} if name == "churn" else {"als": "local[2]"}
    return dataclasses.replace(usual, parameters=dataclasses.replace(usual.parameters, **changes)), usual


@pytest.fixture(scope="module")
def large(past_one_machine):
    return past_one_machine[0].fit()


def test_fitting_twice_with_one_seed_makes_the_same_bytes(past_one_machine, large, tmp_path):
    again = past_one_machine[0].fit()
    assert digests(stored(large, tmp_path / "one")) == digests(stored(again, tmp_path / "two"))


def test_read_back_it_says_what_it_said(past_one_machine, large, tmp_path):
    case = past_one_machine[0]
    back = case.kind.load(stored(large, tmp_path / "once"))
    assert answers(back, case) == answers(large, case)


def test_it_is_about_as_good_as_on_one_machine_and_no_worse_than_guessing(past_one_machine, large):
    ours, usual = past_one_machine
    made, small = (
        evaluate(model, held_out=case.held_out, train=case.train, parameters=case.parameters, seed=7)
        for model, case in ((large, ours), (usual.fit(), usual))
    )
    assert made.metrics[made.headline] > 0.9 * small.metrics[small.headline]
    assert made.metrics.keys() == small.metrics.keys()


def test_a_matrix_on_disk_grows_trees_that_rank_alike_and_leaves_no_file_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    random = np.random.default_rng(3)
    values = random.normal(size=(2_000, 6)).astype(np.float32)
    labels = (values[:, 0] + random.normal(size=2_000) > 0).astype(float)
    parameters = {"objective": "binary:logistic", "nthread": 1, "max_bin": 64, "max_depth": 3}

    def grown(most: int) -> xgb.Booster:
        given = matrix(values, labels, max_bin=64, rows_in_memory=most, names=[f"f{i}" for i in range(6)])
        assert bool(list(tmp_path.iterdir())) == (most < len(values))
        return xgb.train(parameters, given, num_boost_round=20)

    in_memory, from_disk = grown(2_000), grown(300)
    assert not list(tmp_path.iterdir())
    assert in_memory.feature_names == from_disk.feature_names
    scores = [auc(labels == 1, booster.inplace_predict(values)) for booster in (in_memory, from_disk)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_spark_that_cannot_be_used_is_an_error_in_words(cases, monkeypatch, tmp_path: Path):
    case = cases["recommendation"]
    connect = dataclasses.replace(case.parameters, als="sc://nowhere:15002")
    with pytest.raises(BadParameters, match="Spark Connect has no ALS"):
        case.kind.fit(case.train, parameters=connect, seed=7)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    local = dataclasses.replace(case.parameters, als="local[2]")
    with pytest.raises(EngineUnavailable, match="Java 17"):
        case.kind.fit(case.train, parameters=local, seed=7)
