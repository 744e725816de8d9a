"""How churn is judged: discrimination and calibration at one later cut, beside recency and logistic regression."""

from __future__ import annotations

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aap.features.datasets import TrainingFrame
from aap.modeling.algorithms.single_threaded import one_thread
from aap.modeling.evaluation.evaluation import Evaluation, Interval
from aap.modeling.evaluation.metrics import (
    auc,
    average_precision,
    brier,
    calibration_noise,
    expected_calibration_error,
    paired_bootstrap,
)
from aap.modeling.evaluation.plots import calibration, gains, roc
from models.churn.model import LABEL, Churn, ChurnParameters, checked_labels

__all__ = ["compare", "evaluate"]

_RECENCY = "days_since_last_purchase"


def evaluate(
    model: Churn, *, held_out: TrainingFrame, train: TrainingFrame, parameters: ChurnParameters, seed: int
) -> Evaluation:
    """AUC is the headline; Brier score and calibration error are reported for whatever gives probabilities.

    The baselines are recency alone and logistic regression. Raises `SchemaMismatch`, `TooFewRows`, `OneClassOnly`.
    """
    model.require(held_out.features)
    checked_labels(held_out, fewest=parameters.min_rows)
    labels = held_out.data[LABEL].to_numpy(dtype=np.float64) == 1.0
    scores = {"churn model": model.score(held_out.values)}
    baselines = {}
    if _RECENCY in held_out.features:
        recency = np.nan_to_num(held_out.data[_RECENCY].to_numpy(dtype=np.float64), nan=np.inf)
        scores["recency"] = recency
        baselines["recency"] = {"auc": auc(labels, recency), "average_precision": average_precision(labels, recency)}
    scores["logistic"] = _logistic(train, held_out)
    baselines["logistic"] = _probabilistic(labels, scores["logistic"])
    found = {name: _gain(labels, scores["churn model"], scores[name], seed=seed) for name in baselines}
    people, share = len(labels), float(labels.mean())
    title = f"Churn within {model.horizon_days} days, {people:,} people, {share:.1%} left"
    return Evaluation(
        model=model.name,
        headline="auc",
        metrics={
            **_probabilistic(labels, scores["churn model"]),
            **_spread(labels, scores["churn model"], seed=seed),
            "calibration_noise": calibration_noise(scores["churn model"], seed=seed),
            "churn_rate": share,
            "trees": float(_trees(model)),
        },
        baselines=baselines,
        gains=found,
        rows=people,
        notes=(f"{share:.1%} of {people:,} people bought nothing in the {model.horizon_days} days after the cut.",),
        plots={
            "roc": roc(labels, scores, title=title),
            "calibration": calibration(labels, scores["churn model"], title=title, event="churn"),
            "gains": gains(found, title="Gain of the churn model over each baseline", metric="AUC"),
        },
    )


def compare(
    model: Churn, *, held_out: TrainingFrame, train: TrainingFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each held-out row the user key, whether they left, the model's score and that of logistic regression."""
    labels = held_out.data[LABEL].to_numpy(dtype=np.float64) == 1.0
    keys = held_out.data["user_key"].to_numpy(dtype=str)
    return keys, labels, model.score(held_out.values), _logistic(train, held_out)


def _logistic(train: TrainingFrame, held_out: TrainingFrame) -> np.ndarray:
    """Standardised, median-imputed logistic regression, scikit-learn's default penalty."""
    steps = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=1_000)
    )
    with one_thread():
        steps.fit(train.values, train.data[LABEL].to_numpy(dtype=np.float64))
        return np.asarray(steps.predict_proba(held_out.values)[:, 1])


def _probabilistic(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    return {
        "auc": auc(labels, probabilities),
        "average_precision": average_precision(labels, probabilities),
        "brier": brier(labels, probabilities),
        "calibration_error": expected_calibration_error(labels, probabilities),
    }


def _spread(labels: np.ndarray, scores: np.ndarray, *, seed: int) -> dict[str, float]:
    """The ends of the interval of the AUC itself, people drawn anew."""
    found = paired_bootstrap(lambda drawn: auc(labels[drawn], scores[drawn]), units=len(labels), seed=seed)
    return {"auc_low": found.low, "auc_high": found.high}


def _gain(labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray, *, seed: int) -> Interval:
    def difference(drawn: np.ndarray) -> float:
        return auc(labels[drawn], ours[drawn]) - auc(labels[drawn], theirs[drawn])

    return paired_bootstrap(difference, units=len(labels), seed=seed)


def _trees(model: Churn) -> int:
    return int(model.booster.num_boosted_rounds())
