"""Judging on a labelled table of one's own."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from aap.cli.main import app
from aap.modeling.errors import OneClassOnly, TooFewRows, UnusableTable
from benchmarks.anomaly import run


def table(folder, name="t.csv", **changed):
    generator = np.random.default_rng(5)
    values = generator.normal(size=(300, 3))
    values[:15] = generator.normal(size=(15, 3)) * 0.3 + [1.5, -1.5, 1.5]
    made = pd.DataFrame(values, columns=["a", "b", "c"]).assign(name="x", bad=(np.arange(300) < 15).astype(int))
    made = made.assign(**changed)
    file = folder / name
    made.to_parquet(file) if name.endswith(".parquet") else made.to_csv(file, index=False)
    return file


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_marked_rows_are_found_and_text_is_left_out(tmp_path, name):
    found = run(table(tmp_path, name), label="bad")
    assert (found.rows, found.marked, found.left_out) == (300, 15, ("name",))
    assert found.forest["auc"] > 0.7
    assert found.gain_auc[1] <= found.gain_auc[0] <= found.gain_auc[2]


def test_the_label_is_never_among_the_features(tmp_path):
    shuffled = np.random.default_rng(1).permutation(np.arange(300) < 15)
    found = run(table(tmp_path, bad=shuffled), label="bad")
    assert found.features == ("a", "b", "c")
    assert abs(found.forest["auc"] - 0.5) < 0.2


def test_the_mad_rule_is_what_its_definition_says(tmp_path):
    file = table(tmp_path)
    values = pd.read_csv(file)
    numbers = values[["a", "b", "c"]]
    away = (numbers - numbers.median()).abs()
    scores = (away / (1.4826 * away.median())).max(axis=1)
    assert run(file, label="bad").mad_rule["auc"] == pytest.approx(roc_auc_score(values["bad"], scores))


@pytest.mark.parametrize(
    ("changed", "error"),
    [({"bad": 0}, OneClassOnly), ({"bad": 3}, UnusableTable), ({"a": "x", "b": "y", "c": "z"}, UnusableTable)],
)
def test_a_table_that_cant_be_judged_on_is_refused(tmp_path, changed, error):
    with pytest.raises(error, match=r"\.$"):
        run(table(tmp_path, **changed), label="bad")


def test_a_missing_column_a_broken_file_and_too_few_rows_are_refused(tmp_path):
    with pytest.raises(UnusableTable, match="the table has: a, b, c, name, bad"):
        run(table(tmp_path), label="fraud")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no table")
    with pytest.raises(UnusableTable, match=r"broken\.parquet"):
        run(broken, label="bad")
    (tmp_path / "few.csv").write_text("a,bad\n1,0\n2,1\n")
    with pytest.raises(TooFewRows):
        run(tmp_path / "few.csv", label="bad")


def test_the_command_prints_one_object_on_its_last_line_and_fails_in_one_sentence(tmp_path):
    done = CliRunner().invoke(app, ["bench", "anomaly", str(table(tmp_path)), "--label", "bad", "--json"])
    assert json.loads(done.stdout.splitlines()[-1])["marked"] == 15
    failed = CliRunner().invoke(app, ["bench", "anomaly", str(table(tmp_path)), "--label", "fraud"])
    assert failed.exit_code != 0
