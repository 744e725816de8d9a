"""Churn: the probability that someone who shopped lately will buy nothing in the days ahead; gradient-boosted trees.

Rows are people × weekly cuts, each with the features as they were at its cut, so one person teaches at several moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import xgboost as xgb

from aap.features.datasets import TrainingFrame
from aap.modeling.algorithms import xgboost_inference
from aap.modeling.algorithms.platt_scaling import platt
from aap.modeling.algorithms.xgboost_external_memory import matrix
from aap.modeling.base import Model, Retrieval
from aap.modeling.errors import CorruptArtifact, OneClassOnly, SchemaMismatch, TooFewRows
from aap.modeling.registry.artifacts import read_json, write_json
from aap.modeling.temporal_split import past_cuts
from models.churn.explanations import sentences
from models.churn.features import columns

__all__ = ["LABEL", "Churn", "ChurnParameters", "checked_labels", "churn_labels"]

LABEL = "churned"
"""1.0 when the person bought nothing in the horizon after the row's `as_of`, else 0.0."""
_BINS = 64


@dataclass(frozen=True, slots=True)
class ChurnParameters:
    """Section `churn` of training.yaml; what each means is said there."""

    horizon_days: int
    active_days: int
    cuts: int
    cut_step_days: int
    min_rows: int
    rows_in_memory: int
    inner_cuts: int
    max_depth: int
    learning_rate: float
    most_trees: int
    parallel_trees: int
    early_stopping_rounds: int
    min_child_weight: float
    subsample: float
    colsample_bytree: float
    reg_lambda: float

    def booster(self, seed: int) -> dict[str, Any]:
        """xgboost's own parameters. One thread: with several, histogram sums depend on their number."""
        return {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
            "nthread": 1,
            "seed": seed,
            "max_bin": _BINS,
            "max_depth": self.max_depth,
            "num_parallel_tree": self.parallel_trees,
            "learning_rate": self.learning_rate,
            "min_child_weight": self.min_child_weight,
            "subsample": self.subsample,
            "colsample_bytree": self.colsample_bytree,
            "reg_lambda": self.reg_lambda,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Churn(Model[TrainingFrame, ChurnParameters]):
    """A booster, the names of what it reads, and how its log odds become a calibrated probability."""

    name: ClassVar[str] = "churn"
    service: ClassVar[str] = "churn"
    predicts: ClassVar[tuple[str, ...]] = ("churned", "probability", "reasons")
    parameters_type: ClassVar[type] = ChurnParameters
    label: ClassVar[str | None] = LABEL

    features: tuple[str, ...]
    booster: xgb.Booster
    horizon_days: int
    slope: float
    intercept: float
    """The probability is σ(slope · log odds + intercept) (Platt 1999)."""

    @classmethod
    def examples(
        cls, retrieval: Retrieval, *, until: datetime, as_of: datetime, parameters: ChurnParameters
    ) -> TrainingFrame:
        """Rows at weekly cuts whose horizon had passed at `until`."""
        cuts = past_cuts(
            until, horizon_days=parameters.horizon_days, count=parameters.cuts, step_days=parameters.cut_step_days
        )
        return _frame(cls.service, retrieval, cuts=cuts, as_of=as_of, parameters=parameters)

    @classmethod
    def held_out(
        cls, retrieval: Retrieval, *, cut: datetime, until: datetime, as_of: datetime, parameters: ChurnParameters
    ) -> TrainingFrame:
        """One row a person who was active before the cut."""
        return _frame(cls.service, retrieval, cuts=[cut], as_of=as_of, parameters=parameters)

    @classmethod
    def fit(cls, data: TrainingFrame, *, parameters: ChurnParameters, seed: int) -> Self:
        """Boost on all rows, for as many rounds as did best on an inner, later slice of the same rows."""
        labels = checked_labels(data, fewest=parameters.min_rows)
        values, names = columns(data.values, data.features, horizon_days=parameters.horizon_days)
        rounds, slope, intercept = _inner(data, values, labels, parameters=parameters, seed=seed)
        most = parameters.rows_in_memory
        given = matrix(values, labels, names=names, max_bin=_BINS, rows_in_memory=most)
        booster = xgb.train(parameters.booster(seed), given, num_boost_round=rounds)
        return cls(data.features, booster, parameters.horizon_days, slope, intercept)

    def score(self, values: np.ndarray) -> np.ndarray:
        """Probability of no purchase in the next `horizon_days`, float64 `[n]`, 0 to 1; higher is likelier to leave.

        `values` float64 `[n, n_features]` in the order of `features`; NaN is allowed. Raises `SchemaMismatch`.
        """
        found = self.matrix(values)
        if not len(found):
            return np.empty(0, dtype=np.float64)
        wide, _ = columns(found, self.features, horizon_days=self.horizon_days)
        margin = xgboost_inference.predict(self.booster, wide, margin=True)
        return np.asarray(1.0 / (1.0 + np.exp(-(self.slope * margin + self.intercept))))

    def reasons(self, values: np.ndarray, *, most: int = 3) -> list[list[str]]:
        """What pushes each score up, strongest first, in words; by SHAP values of the trees (Lundberg et al. 2020)."""
        wide, names = columns(self.matrix(values), self.features, horizon_days=self.horizon_days)
        matrix = xgb.DMatrix(wide, feature_names=list(names), nthread=1)
        pushes = self.booster.predict(matrix, pred_contribs=True)[:, :-1]
        rows = (dict(zip(names, row, strict=True)) for row in wide.tolist())
        return [sentences(names, push, row, most=most) for push, row in zip(pushes, rows, strict=True)]

    def save(self, folder: Path) -> None:
        """`model.ubj` (xgboost's own format) and `model.json`."""
        (folder / "model.ubj").write_bytes(bytes(self.booster.save_raw(raw_format="ubj")))
        content = {"features": self.features, "horizon_days": self.horizon_days}
        write_json(folder / "model.json", {**content, "slope": self.slope, "intercept": self.intercept})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; raises `SchemaMismatch` for trees grown on other columns than are worked out now."""
        content = read_json(folder / "model.json")
        try:
            booster = xgb.Booster({"nthread": 1})
            booster.load_model(bytearray((folder / "model.ubj").read_bytes()))
            slope, intercept = float(content["slope"]), float(content["intercept"])
            found = cls(tuple(content["features"]), booster, int(content["horizon_days"]), slope, intercept)
        except (OSError, KeyError, TypeError, ValueError, xgb.core.XGBoostError) as error:
            why = str(error).splitlines()[0]
            raise CorruptArtifact(f"Can't read the stored model {cls.name} ({why}); retrain or roll back.") from None
        nobody = np.empty((0, len(found.features)))
        _, names = columns(nobody, found.features, horizon_days=found.horizon_days)
        if names != tuple(booster.feature_names or ()):
            raise SchemaMismatch(cls.name, expected=booster.feature_names or (), given=names)
        return found


def churn_labels(
    retrieval: Retrieval, *, service: str, cuts: list[datetime], as_of: datetime, parameters: ChurnParameters
) -> pd.DataFrame:
    """One row a person active in the `active_days` before a cut: `user_key`, `as_of` (the cut), `churned`."""
    active, horizon = timedelta(days=parameters.active_days), timedelta(days=parameters.horizon_days)
    found = retrieval.interactions(service, as_of=as_of, since=cuts[0] - active, until=cuts[-1] + horizon)
    bought = found.table.select(["user_key", "occurred_at"]).to_pandas().drop_duplicates()
    allowed = set(retrieval.people(service, as_of=as_of))
    parts = []
    for cut in cuts:
        when = bought["occurred_at"]
        before = bought.loc[(when > cut - active) & (when <= cut), "user_key"].unique()
        after = set(bought.loc[(when > cut) & (when <= cut + horizon), "user_key"])
        people = sorted(user for user in before if user in allowed)
        labels = [0.0 if user in after else 1.0 for user in people]
        parts.append(pd.DataFrame({"user_key": people, "as_of": pd.Timestamp(cut), LABEL: labels}))
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _frame(
    service: str, retrieval: Retrieval, *, cuts: list[datetime], as_of: datetime, parameters: ChurnParameters
) -> TrainingFrame:
    labels = churn_labels(retrieval, service=service, cuts=cuts, as_of=as_of, parameters=parameters)
    if labels.empty:
        raise TooFewRows("People active before a cut whose consent covers churn", found=0, needed=parameters.min_rows)
    return retrieval.training_frame(labels, service=service, as_of=as_of)


def checked_labels(data: TrainingFrame, *, fewest: int) -> np.ndarray:
    """The labels of `data`, float64. Raises `TooFewRows` below `fewest` rows, `OneClassOnly` where all are alike."""
    labels = data.data[LABEL].to_numpy(dtype=np.float64)
    if len(labels) < fewest:
        raise TooFewRows("Rows to learn churn from", found=len(labels), needed=fewest)
    if (known := int((~np.isnan(data.values)).any(axis=1).sum())) < fewest:
        raise TooFewRows("Rows of which any feature is known", found=known, needed=fewest, advice="build the features")
    if len(np.unique(labels)) < 2:
        raise OneClassOnly(LABEL, value=labels[0], rows=len(labels))
    return labels


def _inner(
    data: TrainingFrame, values: np.ndarray, labels: np.ndarray, *, parameters: ChurnParameters, seed: int
) -> tuple[int, float, float]:
    """Rounds at which the log loss on the newest cuts is lowest, for trees grown on rows a full horizon older, and the
    slope and intercept that calibrate their log odds there.

    Without rows that old, or with one class among them, half of `most_trees` and no correction.
    """
    moments = data.data["as_of"]
    newest = np.sort(moments.unique())[-parameters.inner_cuts :]
    judged = (moments >= newest[0]).to_numpy()
    older = (moments <= newest[0] - pd.Timedelta(days=parameters.horizon_days)).to_numpy()
    if older.sum() < parameters.min_rows or len(np.unique(labels[older])) < 2 or len(np.unique(labels[judged])) < 2:
        return max(1, parameters.most_trees // 2), 1.0, 0.0
    most = parameters.rows_in_memory
    grown = matrix(values[older], labels[older], max_bin=_BINS, rows_in_memory=most)
    watched = matrix(values[judged], labels[judged], max_bin=_BINS, rows_in_memory=most, ref=grown)
    booster = xgb.train(
        parameters.booster(seed),
        grown,
        num_boost_round=parameters.most_trees,
        evals=[(watched, "inner")],
        early_stopping_rounds=parameters.early_stopping_rounds,
        verbose_eval=False,
    )
    rounds = int(booster.best_iteration) + 1
    margin = booster.predict(watched, output_margin=True, iteration_range=(0, rounds)).astype(np.float64)
    slope, intercept = platt(margin, labels[judged])
    return rounds, slope, intercept
