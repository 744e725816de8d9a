"""What every model obeys: learn from what the retrieval door hands out, be stored and read; and what judges one later.

A model is an immutable value: `fit` makes one. Fitting twice on the same data with one seed makes the same bytes; to
that end each model keeps the canonical row order it is given, uses one thread wherever threads could change a sum, and
file formats that hold no time stamps. It never asks for data while it fits or answers: `examples` and `held_out` say
what to ask the door for, and `aap.modeling.training` does the asking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from aap.features.datasets import Interactions, TrainingFrame
from aap.modeling.errors import SchemaMismatch
from aap.modeling.evaluation.evaluation import Evaluation

__all__ = ["AnyModel", "Comparison", "Evaluator", "Model", "Parameters", "Retrieval"]


class Retrieval(Protocol):
    """What training needs of the one door to data, `aap.features.retrieval`."""

    def people(self, service: str, *, as_of: datetime) -> list[str]:
        """User keys whose rows may train this service at `as_of`."""

    def training_frame(self, labels: pd.DataFrame, *, service: str, as_of: datetime) -> TrainingFrame:
        """Feature values at each label row's own `as_of`; the keyword `as_of` is the moment of use."""

    def interactions(
        self, service: str, *, as_of: datetime, since: datetime | None = None, until: datetime | None = None
    ) -> Interactions:
        """Purchase lines in `(since, until]` admissible for the service at `as_of`."""

    def catalogue(self) -> pa.Table:
        """Items with their names and categories; may be empty."""


class Parameters(Protocol):
    """What every model's section of training.yaml has."""

    @property
    def horizon_days(self) -> int:
        """Days after a cut that a prediction is about, and that it is judged on."""


Data = TypeVar("Data", TrainingFrame, Interactions)
Settings = TypeVar("Settings", bound=Parameters)


class Model(ABC, Generic[Data, Settings]):
    """One fitted model. Subclasses are frozen dataclasses in a file of their own."""

    __slots__ = ()

    name: ClassVar[str]
    service: ClassVar[str]
    """The feature service whose purpose the model is trained and used for."""
    predicts: ClassVar[tuple[str, ...]]
    """The names of its label, if it has one, and of everything it answers with; `aap.modeling.catalog` reads them."""
    parameters_type: ClassVar[type]
    """Frozen dataclass of this model's section of training.yaml."""

    label: ClassVar[str | None] = None
    """The column of its examples that says what happened in the horizon after, for models that learn from one."""

    features: tuple[str, ...]
    """What it must be given, in this order; a sequence feature for models that read sequences."""

    @classmethod
    @abstractmethod
    def examples(cls, retrieval: Retrieval, *, until: datetime, as_of: datetime, parameters: Settings) -> Data:
        """Everything that could be known at `until` and may be learned from at `as_of`."""

    @classmethod
    @abstractmethod
    def held_out(
        cls, retrieval: Retrieval, *, cut: datetime, until: datetime, as_of: datetime, parameters: Settings
    ) -> Data:
        """What to judge a model on that was fitted on `examples(until=cut)`: the days in `(cut, until]`."""

    @classmethod
    @abstractmethod
    def fit(cls, data: Data, *, parameters: Settings, seed: int) -> Self:
        """Learn. Raises `TooFewRows`, `OneClassOnly`."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model's files into `folder`, which exists and is empty."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote. Raises `CorruptArtifact`."""

    def following(self, previous: Self) -> Self:
        """This model with what goes on from the champion before it, such as names; what it computes stays the same."""
        return self

    def require(self, features: Sequence[str]) -> None:
        """Raise `SchemaMismatch` unless `features` are this model's, in its order."""
        if tuple(features) != self.features:
            raise SchemaMismatch(self.name, expected=self.features, given=features)

    def matrix(self, values: np.ndarray) -> np.ndarray:
        """`values` as float64 `[n, n_features]`; raises `SchemaMismatch` for another width."""
        found = np.ascontiguousarray(values, dtype=np.float64)
        if found.ndim != 2 or found.shape[1] != len(self.features):
            width = found.shape[1] if found.ndim == 2 else 0
            raise SchemaMismatch(self.name, expected=self.features, given=[f"column {i}" for i in range(width)])
        return found


AnyModel = Model[Any, Any]


class Evaluator(Protocol):
    """A function that judges a model of one class on later data; it stands beside the class, in `aap.modeling.catalog`."""

    def __call__(self, model: Any, *, held_out: Any, train: Any, parameters: Any, seed: int) -> Evaluation:
        """Judge on `held_out`, beside baselines that are fitted on the `train` that the model learned from."""


class Comparison(Protocol):
    """A function that scores held-out rows by a model and by the baseline that it is measured against."""

    def __call__(
        self, model: Any, *, held_out: Any, train: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each row the user key, the label, the model's score and the baseline's."""
