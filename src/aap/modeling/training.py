"""Training one model: judge it on a global time split, refit it on everything, register what came out.

The figures of a version are those of a model fitted with the same parameters on data up to a horizon before `as_of`,
and judged on that horizon; the version itself is then fitted on everything up to `as_of`. Nothing is promoted here.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from aap.features.datasets import Manifest
from aap.modeling.base import AnyModel, Retrieval
from aap.modeling.catalog import evaluate, model_class
from aap.modeling.errors import CorruptArtifact, SchemaMismatch
from aap.modeling.evaluation.evaluation import Evaluation
from aap.modeling.leakage import require_known
from aap.modeling.registry import lineage
from aap.modeling.registry.mlflow_run import Run
from aap.modeling.registry.registry import ModelVersion, Registry
from aap.modeling.temporal_split import global_split
from aap.modeling.training_config import TrainingSettings

__all__ = ["TrainedModel", "feature_hash", "following_champion", "train"]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What training made."""

    name: str
    version: ModelVersion
    model: AnyModel
    evaluation: Evaluation
    manifest: Manifest
    """Of the data the version was fitted on."""
    seconds: dict[str, float]
    """Wall-clock time of each stage."""


def train(
    name: str,
    *,
    retrieval: Retrieval,
    registry: Registry,
    settings: TrainingSettings,
    as_of: datetime,
    seed: int | None = None,
    parent: Run | None = None,
    revision: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> TrainedModel:
    """Train, judge, refit and register the model called `name` as of `as_of`.

    `seed` defaults to the settings' own; `parent` is the run to nest below; `progress` is told each stage.
    Raises `UnknownModel`, `TooFewRows`, `OneClassOnly`, `Leak`, `StoreUnavailable`, and what the door raises.
    """
    kind, chosen = model_class(name), settings.seed if seed is None else seed
    parameters = settings.models[name]
    stages = _Stages(progress or (lambda stage: None))
    split = global_split(as_of, horizon_days=parameters.horizon_days)
    with registry.run(f"train {name}", parent=parent, tags={"model": name, "as_of": as_of.isoformat()}) as run:
        stages.enter("read the past")
        past = kind.examples(retrieval, until=split.cut, as_of=as_of, parameters=parameters)
        require_known(past, cut=split.cut, horizon_days=parameters.horizon_days, label=kind.label)
        held_out = kind.held_out(retrieval, cut=split.cut, until=split.until, as_of=as_of, parameters=parameters)
        stages.enter("fit on the past")
        trial = kind.fit(past, parameters=parameters, seed=chosen)
        stages.enter("judge on what came after")
        evaluation = evaluate(trial, held_out=held_out, train=past, parameters=parameters, seed=chosen)
        stages.enter("refit on everything")
        data = kind.examples(retrieval, until=as_of, as_of=as_of, parameters=parameters)
        model = following_champion(registry, kind.fit(data, parameters=parameters, seed=chosen))
        stages.enter("register")
        run.log_params({**settings.flat(name), "seed": chosen, "cut": split.cut.isoformat()})
        manifest, people = lineage.pack_manifest(data.manifest), lineage.pack(data.user_keys)
        run.log_bytes(manifest, path=lineage.MANIFEST)
        run.log_bytes(people, path=lineage.FILE)
        run.log_dict(past.manifest.to_dict(), path="manifest_of_evaluation.json")
        run.log_evaluation(evaluation)
        tags = _tags(model, data.manifest, seed=chosen, revision=revision) | {"headline": evaluation.headline}
        tags |= lineage.made_of(manifest, people)
        version = registry.register(model, run=run, tags=tags)
    return TrainedModel(name, version, model, evaluation, data.manifest, stages.done())


def following_champion(registry: Registry, model: AnyModel) -> AnyModel:
    """`model` as it goes on from the champion, if there is one that can be read."""
    champion = registry.champion(model.name)
    if champion is None:
        return model
    with suppress(CorruptArtifact, SchemaMismatch):
        return model.following(registry.load(champion))
    return model


def feature_hash(features: tuple[str, ...]) -> str:
    """SHA-256 of a feature list, order included."""
    return hashlib.sha256(json.dumps(list(features)).encode()).hexdigest()


def _tags(model: AnyModel, manifest: Manifest, *, seed: int, revision: str | None) -> dict[str, str]:
    return {
        "service": manifest.service,
        "purpose": manifest.purpose,
        "requires": json.dumps(list(manifest.requires)),
        "features": json.dumps(list(model.features)),
        "feature_hash": feature_hash(model.features),
        "data_hash": manifest.rows_root,
        "rows": str(manifest.rows),
        "ledger_root": manifest.ledger_root,
        "ledger_size": str(manifest.ledger_size),
        "seed": str(seed),
        "git_revision": revision or "unknown",
        "as_of": manifest.as_of.isoformat(),
    }


class _Stages:
    """Tells each stage as it begins and times it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._seconds, self._stage, self._since = tell, {}, "", time.perf_counter()  # type: ignore[var-annotated]

    def enter(self, stage: str) -> None:
        self._close()
        self._stage = stage
        self._tell(stage)

    def done(self) -> dict[str, float]:
        self._close()
        return dict(self._seconds)

    def _close(self) -> None:
        now = time.perf_counter()
        if self._stage:
            self._seconds[self._stage] = now - self._since
        self._since = now
