"""Training one model and deciding whether it may answer: train, judge, gate, then promote or keep the champion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from feature_repo.retrieval import Retrieval
from models.gate import GateDecision, decide
from models.parameters import TrainingSettings, load_training_settings
from models.registry import ModelVersion, Registry, Run
from models.training import TrainedModel, code_revision, train
from settings.config import Settings

__all__ = ["Outcome", "train_and_decide", "training_settings"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one model."""

    trained: TrainedModel
    promoted: bool
    reasons: tuple[str, ...]
    replaced: int | None
    """The version that was champion before, if any."""
    champion: float | None = None
    """What that version reached on the headline, when it was judged itself."""


def training_settings(settings: Settings) -> TrainingSettings:
    """What training.yaml says."""
    return load_training_settings(settings.settings_dir / "training.yaml")


def train_and_decide(
    name: str,
    *,
    retrieval: Retrieval,
    registry: Registry,
    settings: TrainingSettings,
    as_of: datetime,
    parent: Run | None = None,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Train the model called `name` as of `as_of`; it becomes the champion if the gate lets it through."""
    before = registry.champion(name)
    trained = train(
        name,
        retrieval=retrieval,
        registry=registry,
        settings=settings,
        as_of=as_of,
        parent=parent,
        revision=code_revision(Path(__file__).parent.parent),
        progress=progress,
    )
    decision = _knows_later(before, as_of=as_of) or decide(
        trained.evaluation,
        # One that was trained on somebody erased has to go, so it is no bar to what replaces it.
        before.metrics if before and not before.tainted else None,
        features=trained.model.features,
        rules=settings.gate,
    )
    if decision.promote:
        registry.promote(name, trained.version.version, reasons=decision.reasons)
    else:
        registry.explain(trained.version, reasons=decision.reasons)
    reached = before.metrics.get(trained.evaluation.headline) if before else None
    return Outcome(trained, decision.promote, decision.reasons, before.version if before else None, reached)


def _knows_later(champion: ModelVersion | None, *, as_of: datetime) -> GateDecision | None:
    """A refusal where the champion was trained as of a later moment: a past week that is filled in takes nothing back."""
    known = champion and champion.tags.get("as_of")
    if not known or datetime.fromisoformat(known) <= as_of:
        return None
    return GateDecision(
        False, (f"The champion knows the days up to {known[:10]}; a version of {as_of:%Y-%m-%d} never replaces it.",)
    )
