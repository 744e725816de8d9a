"""The contract, over every model there is."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aap.features.datasets import Interactions, TrainingFrame
from aap.modeling.catalog import evaluate, model_classes
from aap.modeling.errors import CorruptArtifact, ModelError, OneClassOnly, SchemaMismatch, TooFewRows
from aap.modeling.registry.artifacts import digests
from tests.unit.modeling.conftest import QUICK

every_model = pytest.mark.parametrize("name", sorted(model_classes()))
on_features = pytest.mark.parametrize("name", ["churn", "segments", "anomaly", "event_anomaly", "session_anomaly"])


def answers(model, case):
    """Something every model says about the held-out people, comparable with ==."""
    if isinstance(case.held_out, TrainingFrame):
        values = case.held_out.values
        return model.assign(values) if model.name == "segments" else model.score(values).tolist()
    if model.name == "popularity":
        return model.top(20)
    lists, baskets = [["item-0003", "item-0007", "item-0003"], [], ["never heard of"]], [["2", "2", "1"], [], ["1"]]
    return [model.recommend(lists, baskets=baskets, n=10, strategy=strategy) for strategy in ("buy_again", "discover")]


def empty(data):
    if isinstance(data, Interactions):
        return Interactions(data.table.slice(0, 0), data.manifest)
    return dataclasses.replace(data, data=data.data.iloc[:3].reset_index(drop=True))


def stored(model, folder: Path) -> Path:
    folder.mkdir()
    model.save(folder)
    return folder


@every_model
def test_fitting_twice_with_one_seed_makes_the_same_bytes(name, cases, tmp_path):
    one, other = (digests(stored(cases[name].fit(), tmp_path / part)) for part in ("one", "other"))
    assert one == other


@every_model
def test_a_model_read_back_says_what_it_said_and_is_stored_as_the_same_bytes(name, cases, fitted, tmp_path):
    folder = stored(fitted[name], tmp_path / "once")
    back = cases[name].kind.load(folder)
    assert back.features == fitted[name].features
    assert answers(back, cases[name]) == answers(fitted[name], cases[name])
    assert digests(stored(back, tmp_path / "twice")) == digests(folder)


@every_model
def test_nothing_stored_is_a_pickle_or_names_a_person(name, cases, fitted, tmp_path):
    folder = stored(fitted[name], tmp_path / "m")
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".npz", ".ubj"}
    table = cases[name].train.table if isinstance(cases[name].train, Interactions) else pa.table(cases[name].train.data)
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    assert not any(key.encode() in everything for key in set(table["user_key"].to_pylist()))


@every_model
def test_too_few_rows_are_refused_with_a_sentence(name, cases):
    case = cases[name]
    with pytest.raises(TooFewRows, match=r"found \d+, need at least \d+; .+\.$"):
        case.kind.fit(empty(case.train), parameters=case.parameters, seed=1)


@every_model
def test_a_file_cut_short_is_corrupt_and_not_some_other_error(name, cases, fitted, tmp_path):
    for path in sorted(stored(fitted[name], tmp_path / "whole").iterdir()):
        folder = stored(fitted[name], tmp_path / f"without-{path.name}")
        (folder / path.name).write_bytes(path.read_bytes()[:40])
        with pytest.raises(CorruptArtifact):
            cases[name].kind.load(folder)


@every_model
def test_an_evaluation_is_finite_judged_by_its_headline_and_json_ready(name, cases, fitted):
    case = cases[name]
    found = evaluate(fitted[name], held_out=case.held_out, train=case.train, parameters=case.parameters, seed=3)
    assert np.isfinite(found.metrics[found.headline])
    assert all(found.headline in baseline for baseline in found.baselines.values())
    assert set(found.gains) == set(found.baselines)
    for rival, gain in found.gains.items():
        difference = found.metrics[found.headline] - found.baselines[rival][found.headline]
        assert gain.estimate == pytest.approx(difference, abs=1e-9)
        assert gain.low <= gain.estimate <= gain.high
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["rows"] == found.rows
    for figure in found.plots.values():
        axes = figure.axes[0]
        assert axes.get_title()
        assert axes.get_xlabel()


@every_model
def test_evaluating_twice_gives_the_same_figures(name, cases, fitted):
    case = cases[name]
    one, other = (
        evaluate(fitted[name], held_out=case.held_out, train=case.train, parameters=case.parameters, seed=3)
        for _ in "ab"
    )
    assert one.to_dict() == other.to_dict()


@every_model
def test_other_feature_names_or_another_order_are_refused(name, fitted):
    model = fitted[name]
    model.require(model.features)
    with pytest.raises(SchemaMismatch, match=r"retrain it\.$"):
        model.require([*model.features, "shoe_size"])
    if len(model.features) > 1:
        with pytest.raises(SchemaMismatch, match="another order"):
            model.require(model.features[::-1])


@on_features
def test_a_matrix_of_another_width_is_refused(name, fitted):
    model = fitted[name]
    answer = model.assign if name == "segments" else model.score
    with pytest.raises(SchemaMismatch):
        answer(np.zeros((2, len(model.features) + 1)))


@on_features
def test_an_answer_does_not_depend_on_who_else_is_asked_about(name, cases, fitted):
    values = cases[name].held_out.values[:40]
    model = fitted[name]
    answer = model.assign if name == "segments" else model.score
    assert list(answer(values)) == [answer(values[i : i + 1])[0] for i in range(len(values))]
    assert len(answer(values[:0])) == 0


@on_features
def test_missing_values_get_an_answer(name, fitted):
    model = fitted[name]
    nothing = np.full((1, len(model.features)), np.nan)
    found = model.assign(nothing)[0].distance if name == "segments" else model.score(nothing)[0]
    assert np.isfinite(found)


def test_churn_with_one_class_only_is_refused(cases):
    case = cases["churn"]
    same = dataclasses.replace(case.train, data=case.train.data.assign(churned=1.0))
    with pytest.raises(OneClassOnly, match=r"churned=1\.0"):
        case.kind.fit(same, parameters=case.parameters, seed=1)


def test_every_error_is_a_model_error():
    from aap.modeling import errors

    assert all(issubclass(getattr(errors, name), ModelError) for name in errors.__all__)


def test_another_process_with_more_threads_makes_the_same_bytes(cases, fitted, tmp_path):
    case = cases["recommendation"]
    with (
        pa.OSFile(str(tmp_path / "lines.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, case.train.table.schema) as writer,
    ):
        writer.write_table(case.train.table)
    script = """
import dataclasses, sys, pathlib, pyarrow as pa
from aap.features.datasets import Interactions
from aap.modeling.training_config import load_training_settings
from models.recommendation.model import RecommendationModel
table = pa.ipc.open_file(sys.argv[1] + "/lines.arrow").read_all()
parameters = load_training_settings(pathlib.Path("conf/training.yaml")).models["recommendation"]
parameters = dataclasses.replace(parameters, **eval(sys.argv[2]))
model = RecommendationModel.fit(Interactions(table, None), parameters=parameters, seed=7)
model.save(pathlib.Path(sys.argv[1]) / "theirs")
"""
    (tmp_path / "theirs").mkdir()
    root = Path(__file__).parents[3]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), repr(QUICK["recommendation"])],
        check=True,
        cwd=root,
        env=environment,
    )
    assert digests(tmp_path / "theirs") == digests(stored(fitted["recommendation"], tmp_path / "ours"))
