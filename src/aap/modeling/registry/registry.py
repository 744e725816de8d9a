"""The registry: every version of every model with what it was made of, and which one is the champion. MLflow inside.

Only this module, `aap.modeling.registry.mlflow_run` and `aap.modeling.registry.mlflow_relocation` know MLflow. A version's
files are stored with their SHA-256 digests as a tag, and `load` refuses files that differ. Aliases: `champion` answers,
`previous` is what `rollback` returns to.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion as StoredVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from aap.config import Settings
from aap.consent.ledger.signing import Signer, load_signer
from aap.infra.paths import Layout
from aap.modeling.base import AnyModel
from aap.modeling.catalog import check_declared, model_class
from aap.modeling.errors import CorruptArtifact, NoChampion, UnknownVersion
from aap.modeling.registry import lineage
from aap.modeling.registry.artifacts import digests, verify
from aap.modeling.registry.mlflow_relocation import follow
from aap.modeling.registry.mlflow_run import Run, reaching

__all__ = ["CHALLENGER", "CHAMPION", "PREVIOUS", "ModelVersion", "Registry", "open_registry"]

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
_EXPERIMENT = "aap"
_REFUSAL = "serving_refusal"
_MODEL_FOLDER = "model"
_TAINTED = "tainted"
_SETTLED_S = 2.0
"""Older than this, the time of a file tells one write from the next."""

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one a file, in the middle of our own output
for _noisy in ("mlflow", "alembic"):  # after the import, which sets levels of its own
    logging.getLogger(_noisy).setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered version."""

    name: str
    version: int
    run_id: str
    source: str
    """Where its files are, as a URI."""
    created_at: datetime
    aliases: tuple[str, ...]
    tags: dict[str, str]

    @property
    def refusal(self) -> str | None:
        """Why the service last refused to answer with it, or None if it did not."""
        return self.tags.get(_REFUSAL) or None

    @property
    def tainted(self) -> bool:
        """Whether it was trained on somebody who has been erased since: the next version replaces it, however good it is."""
        return _TAINTED in self.tags


@dataclass(frozen=True, slots=True)
class Registry:
    """Runs and model versions under one tracking URI."""

    tracking_uri: str
    """`sqlite:////…/mlflow.db`, another SQLAlchemy URL, or an MLflow server's address."""
    artifact_root: Path
    """Folder of new experiments' files."""
    signer: Callable[[], Signer] | None = None
    """Signs what versions are made of; without one nobody vouches for them (`aap.modeling.registry.provenance`)."""

    @contextmanager
    def run(
        self, name: str, *, parent: Run | None = None, tags: Mapping[str, str] | None = None, resume: str | None = None
    ) -> Iterator[Run]:
        """An open run, below `parent` if given; finished when the block ends, failed when it raises.

        `resume` is the id of a run to go on with; a new one is made when the store doesn't have it.
        """
        with reaching(self.tracking_uri):
            client = self._client()
            labels = dict(tags or {}) | ({"mlflow.parentRunId": parent.id} if parent else {})
            found = self._reopened(client, resume) if resume else None
            made = found or client.create_run(self._experiment(client), run_name=name, tags=labels).info.run_id
            run = Run(made, client, self.tracking_uri)
        try:
            yield run
        except BaseException:
            with reaching(self.tracking_uri):
                client.set_terminated(run.id, status="FAILED")
            raise
        with reaching(self.tracking_uri):
            client.set_terminated(run.id)

    def register(self, model: AnyModel, *, run: Run, tags: Mapping[str, str] | None = None) -> ModelVersion:
        """Store `model` in `run` and make it the next version of its name. It is nobody's champion yet.

        Raises `UnusableModel` for a kind of model that may not exist.
        """
        check_declared(type(model))
        with reaching(self.tracking_uri), tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            model.save(folder)
            stamps = {**(tags or {}), lineage.DIGESTS: json.dumps(digests(folder), sort_keys=True)}
            if self.signer is not None and lineage.MADE_OF in stamps:
                signature = self.signer().sign(lineage.KIND, lineage.statement(model.name, stamps))
                stamps[lineage.SIGNATURE] = signature.hex()
            run.client.log_artifacts(run.id, scratch, _MODEL_FOLDER)
            run.set_tags(stamps)
            if not run.client.search_registered_models(f"name = '{model.name}'"):
                run.client.create_registered_model(model.name)
            source = f"{run.client.get_run(run.id).info.artifact_uri}/{_MODEL_FOLDER}"
            stored = run.client.create_model_version(model.name, source=source, run_id=run.id, tags=stamps)
            return _version(stored)

    def champion(self, name: str) -> ModelVersion | None:
        """The version that answers, or None before the first promotion."""
        return self._alias(name, CHAMPION)

    def previous(self, name: str) -> ModelVersion | None:
        """The champion before this one, or None."""
        return self._alias(name, PREVIOUS)

    def challenger(self, name: str) -> ModelVersion | None:
        """The version that is given a copy of the traffic, or None."""
        return self._alias(name, CHALLENGER)

    def challenge(self, name: str, version: int | None) -> None:
        """Make `version` the challenger; None leaves none."""
        if version is not None:
            self.version(name, version)
        with reaching(self.tracking_uri):
            client = self._client()
            if version is not None:
                client.set_registered_model_alias(name, CHALLENGER, str(version))
            elif self.challenger(name) is not None:
                client.delete_registered_model_alias(name, CHALLENGER)

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions, newest first; none for a model never trained."""
        with reaching(self.tracking_uri):
            client = self._client()
            found = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"])
            return [_version(client.get_model_version(name, stored.version)) for stored in found]

    def version(self, name: str, version: int) -> ModelVersion:
        """One version; raises `UnknownVersion`."""
        with reaching(self.tracking_uri):
            client = self._client()
            try:
                return _version(client.get_model_version(name, str(version)))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise UnknownVersion(f"{name} has no version {version}; see its versions.") from None
                raise

    def metrics(self, version: ModelVersion) -> dict[str, float]:
        """Metrics of its evaluation, by name; baselines are `baseline/<name>/<metric>`."""
        with reaching(self.tracking_uri):
            return dict(self._client().get_run(version.run_id).data.metrics)

    def promote(self, name: str, version: int, *, reasons: tuple[str, ...] = ()) -> ModelVersion:
        """Make `version` the champion; the one it replaces becomes `previous`. The reasons are kept with it."""
        self.version(name, version)
        current = self.champion(name)
        with reaching(self.tracking_uri):
            client = self._client()
            if current is not None and current.version != version:
                client.set_registered_model_alias(name, PREVIOUS, str(current.version))
            if reasons:
                client.set_model_version_tag(name, str(version), "promotion_reasons", json.dumps(list(reasons)))
            client.set_registered_model_alias(name, CHAMPION, str(version))
        return self.version(name, version)

    def explain(self, version: ModelVersion, *, reasons: tuple[str, ...]) -> None:
        """Keep with `version` why it was not promoted."""
        with reaching(self.tracking_uri):
            client = self._client()
            client.set_model_version_tag(
                version.name, str(version.version), "promotion_reasons", json.dumps(list(reasons))
            )

    def note_serving(self, version: ModelVersion, /, *, refusal: str | None) -> None:
        """Keep with `version` why a service refused it; None when one answers with it, which clears an old refusal."""
        if (refusal or None) == version.refusal:
            return
        with reaching(self.tracking_uri):
            self._client().set_model_version_tag(version.name, str(version.version), _REFUSAL, refusal or "")

    def rollback(self, name: str) -> ModelVersion:
        """Swap champion and previous; raises `NoChampion` when there is no previous."""
        before = self.previous(name)
        if before is None:
            raise NoChampion(f"{name} has no previous champion to roll back to; promote a version instead.")
        if before.tainted:
            raise NoChampion(
                f"{name} version {before.version} was trained on somebody who was erased; retrain instead."
            )
        return self.promote(name, before.version)

    def exists(self) -> bool:
        """Whether there is a store to look into; asking makes none."""
        prefix = "sqlite:///"
        uri = self.tracking_uri
        return not uri.startswith(prefix) or Path(uri.removeprefix(prefix)).exists()

    def state(self) -> object | None:
        """What differs after every write to the store, for who would else ask again; None where only asking tells.

        The times and sizes of SQLite's files, unless they are so new that a second write could have left the same.
        """
        prefix = "sqlite:///"
        if not self.tracking_uri.startswith(prefix):
            return None
        file = self.tracking_uri.removeprefix(prefix)
        try:
            found = [Path(name).stat() for name in (file, f"{file}-wal") if Path(name).exists()]
        except OSError:
            return None
        if not found or time.time() - max(s.st_mtime for s in found) < _SETTLED_S:
            return None
        return tuple((s.st_mtime_ns, s.st_size) for s in found)

    def trained_on(self, name: str, user_key: str) -> list[ModelVersion]:
        """The versions of `name` fitted on rows of this person. One that doesn't say on whom counts as fitted on them."""
        if not self.exists():
            return []
        return [
            v
            for v in self.versions(name)
            if (people := self.read(v, lineage.FILE)) is None or lineage.contains(people, user_key)
        ]

    def taint(self, version: ModelVersion, *, why: str, at: datetime) -> None:
        """Mark `version` as trained on somebody whose data may no longer be used."""
        with reaching(self.tracking_uri):
            self._client().set_model_version_tag(
                version.name, str(version.version), _TAINTED, json.dumps({"why": why, "at": at.isoformat()})
            )

    def read(self, version: ModelVersion, path: str) -> bytes | None:
        """A file that training left beside the version's own; None if it is gone."""
        with reaching(self.tracking_uri):
            try:
                file = download_artifacts(run_id=version.run_id, artifact_path=path, tracking_uri=self.tracking_uri)
                return Path(file).read_bytes()
            except (OSError, MlflowException):
                return None

    def load(self, version: ModelVersion) -> AnyModel:
        """The model itself, after checking the digest of every file; raises `CorruptArtifact`."""
        expected = version.tags.get(lineage.DIGESTS)
        if expected is None:
            raise CorruptArtifact(f"{version.name} version {version.version} has no digests to check; retrain it.")
        with reaching(self.tracking_uri):
            folder = self._files(version)
        verify(folder, expected=json.loads(expected))
        return model_class(version.name).load(folder)

    def _files(self, version: ModelVersion) -> Path:
        try:
            return Path(download_artifacts(artifact_uri=version.source, tracking_uri=self.tracking_uri))
        except (OSError, MlflowException) as error:
            if isinstance(error, MlflowException) and error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            gone = f"The files of {version.name} version {version.version} are gone"
            raise CorruptArtifact(f"{gone} ({error}); retrain or roll back.") from None

    def _alias(self, name: str, alias: str) -> ModelVersion | None:
        with reaching(self.tracking_uri):
            try:
                return _version(self._client().get_model_version_by_alias(name, alias))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def _client(self) -> MlflowClient:
        prefix = "sqlite:///"
        if self.tracking_uri.startswith(prefix):
            Path(self.tracking_uri.removeprefix(prefix)).parent.mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    @staticmethod
    def _reopened(client: MlflowClient, run_id: str) -> str | None:
        try:
            client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run_id

    def _experiment(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(_EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        return str(client.create_experiment(_EXPERIMENT, artifact_location=self.artifact_root.resolve().as_uri()))


def _version(stored: StoredVersion) -> ModelVersion:
    return ModelVersion(
        name=stored.name,
        version=int(stored.version),
        run_id=stored.run_id,
        source=stored.source,
        created_at=datetime.fromtimestamp(stored.creation_timestamp / 1000, tz=UTC),
        aliases=tuple(sorted(stored.aliases)),
        tags=dict(stored.tags),
    )


def open_registry(settings: Settings) -> Registry:
    """The registry these settings name: MLflow's SQLite under home by default."""
    layout = Layout(settings.home)
    database, artifacts = layout.mlflow / "mlflow.db", layout.mlflow / "artifacts"
    if settings.mlflow_url is None:
        follow(database, experiment=_EXPERIMENT, root=artifacts)
    return Registry(settings.mlflow_url or f"sqlite:///{database}", artifacts, signer=lambda: load_signer(layout))
