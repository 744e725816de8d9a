"""Asked without its wrapper, xgboost says the same to the last bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xgboost as xgb

from aap.modeling.algorithms import xgboost_inference

COLUMNS = 9


@pytest.fixture(scope="module")
def booster() -> xgb.Booster:
    random = np.random.default_rng(3)
    values = random.normal(size=(400, COLUMNS))
    labels = (values[:, 0] + random.normal(size=400) > 0).astype(float)
    return xgb.train({"objective": "binary:logistic", "nthread": 1, "seed": 3}, xgb.DMatrix(values, labels), 30)


@pytest.mark.parametrize("rows", [1, 2, 500])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [True, False])
def test_every_row_gets_what_the_wrapper_says(booster: xgb.Booster, rows: int, kind: type, margin: bool) -> None:
    random = np.random.default_rng(rows)
    values = random.normal(size=(rows, COLUMNS)).astype(kind)
    values[random.random(values.shape) < 0.2] = np.nan
    expected = booster.inplace_predict(values, predict_type="margin" if margin else "value")
    for given in (values, np.asfortranarray(values), np.repeat(values, 2, axis=0)[::2]):
        found = xgboost_inference.predict(booster, given, margin=margin)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, expected.astype(np.float64))


def test_an_answer_stays_what_it_was_when_the_trees_are_asked_again(booster: xgb.Booster) -> None:
    first = xgboost_inference.predict(booster, np.zeros((3, COLUMNS)))
    kept = first.copy()
    xgboost_inference.predict(booster, np.full((3, COLUMNS), 5.0))
    np.testing.assert_array_equal(first, kept)


def test_threads_that_ask_at_once_each_get_their_own(booster: xgb.Booster) -> None:
    random = np.random.default_rng(4)
    asked = [random.normal(size=(random.integers(1, 40), COLUMNS)) for _ in range(400)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda values: xgboost_inference.predict(booster, values), asked))
    for values, one in zip(asked, found, strict=True):
        np.testing.assert_array_equal(one, booster.inplace_predict(values).astype(np.float64))


def test_nobody_is_asked_about_and_nothing_is_answered(booster: xgb.Booster) -> None:
    assert xgboost_inference.predict(booster, np.empty((0, COLUMNS))).shape == (0,)


def test_rows_of_another_width_are_refused(booster: xgb.Booster) -> None:
    with pytest.raises(ValueError, match="read 9 columns and were given 8"):
        xgboost_inference.predict(booster, np.zeros((2, COLUMNS - 1)))


def test_what_the_library_refuses_is_said(booster: xgb.Booster) -> None:
    with pytest.raises(xgb.core.XGBoostError):
        xgboost_inference.predict(booster, np.zeros((2, COLUMNS), dtype=np.complex128))
