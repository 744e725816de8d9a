"""A run: the place in MLflow to which one training logs what it did, in numbers, plots and files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from aap.modeling.errors import StoreUnavailable
from aap.modeling.evaluation.evaluation import Evaluation

__all__ = ["Run", "reaching"]


@dataclass(frozen=True, slots=True)
class Run:
    """One open run: a place to log to. `Registry.run` makes it."""

    id: str
    client: MlflowClient
    uri: str

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Numbers by name; those that are not finite are left out, since MLflow's pages can't show them."""
        at = int(datetime.now(UTC).timestamp() * 1000)
        finite = [Metric(k, float(v), at, step) for k, v in metrics.items() if abs(v) < float("inf")]
        with reaching(self.uri):
            self.client.log_batch(self.id, metrics=finite)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters by name, as text."""
        with reaching(self.uri):
            self.client.log_batch(self.id, params=[Param(key, str(value)) for key, value in params.items()])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags by name."""
        with reaching(self.uri):
            self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_dict(self, content: Mapping[str, Any], *, path: str) -> None:
        """A JSON file in the run."""
        with reaching(self.uri):
            self.client.log_dict(self.id, dict(content), path)

    def log_bytes(self, content: bytes, *, path: str) -> None:
        """A file of these bytes in the run."""
        with reaching(self.uri), tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / Path(path).name
            file.write_bytes(content)
            folder = Path(path).parent.as_posix()
            self.client.log_artifact(self.id, str(file), None if folder == "." else folder)

    def log_artifact(self, file: Path, *, folder: str | None = None) -> None:
        """A copy of `file` in the run."""
        with reaching(self.uri):
            self.client.log_artifact(self.id, str(file), folder)

    def log_evaluation(self, evaluation: Evaluation) -> None:
        """Metrics, baselines, gains and plots."""
        theirs = {f"baseline/{n}/{k}": v for n, found in evaluation.baselines.items() for k, v in found.items()}
        gains = {
            f"gain/{n}/{k}": getattr(g, k) for n, g in evaluation.gains.items() for k in ("estimate", "low", "high")
        }
        self.log_metrics({**evaluation.metrics, **theirs, **gains})
        self.log_dict(evaluation.to_dict(), path="evaluation.json")
        with reaching(self.uri):
            for name, figure in evaluation.plots.items():
                self.client.log_figure(self.id, figure, f"plots/{name}.png")


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn the MLflow store's own failures into one sentence that names it without any password."""
    try:
        yield
    except (
        MlflowException,
        SQLAlchemyError,
        ConnectionError,
        PermissionError,
        NotADirectoryError,
        FileExistsError,
    ) as error:
        if isinstance(error, StoreUnavailable):  # which is a ConnectionError itself
            raise
        shown = uri.split("@")[-1]
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise StoreUnavailable(f"Can't use the model registry at {shown} ({why}); check AAP_MLFLOW_URL.") from error
