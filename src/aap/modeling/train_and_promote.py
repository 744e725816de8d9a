"""Training one model and deciding whether it may answer: train, judge, gate, then promote or keep the champion.

A champion that was trained on somebody erased, or whose consent to it ended since, has to go; so it is no bar to what
replaces it. And no version is promoted whose own manifest doesn't hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aap.config import Settings
from aap.consent.ledger.ledger import Ledger
from aap.features.retrieval import Retrieval
from aap.infra.code_version import code_revision
from aap.modeling.errors import UnsoundLineage
from aap.modeling.promotion_gate import GateDecision, decide
from aap.modeling.registry.mlflow_run import Run
from aap.modeling.registry.provenance import Provenance
from aap.modeling.registry.registry import ModelVersion, Registry
from aap.modeling.training import TrainedModel, train
from aap.modeling.training_config import TrainingSettings, load_training_settings
from aap.project.loader import current_project

__all__ = ["Outcome", "describe", "train_and_decide", "training_settings"]


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
    ledger: Ledger,
    settings: TrainingSettings,
    as_of: datetime,
    now: datetime | None = None,
    parent: Run | None = None,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Train the model called `name` as of `as_of`; it becomes the champion if the gate lets it through.

    `ledger` is what consent is checked against at `now`, by default `as_of`.
    """
    provenance, now = Provenance(registry, ledger), now or as_of
    before = registry.champion(name)
    trained = train(
        name,
        retrieval=retrieval,
        registry=registry,
        settings=settings,
        as_of=as_of,
        parent=parent,
        revision=code_revision(current_project().root),
        progress=progress,
    )
    decision = _knows_later(before, as_of=as_of) or decide(
        trained.evaluation,
        _bar(before, provenance, now=now),
        features=trained.model.features,
        rules=settings.gate,
    )
    decision = _if_sound(decision, trained.version, provenance, now=now)
    if decision.promote:
        registry.promote(name, trained.version.version, reasons=decision.reasons)
    else:
        registry.explain(trained.version, reasons=decision.reasons)
    reached = registry.metrics(before).get(trained.evaluation.headline) if before else None
    return Outcome(trained, decision.promote, decision.reasons, before.version if before else None, reached)


def describe(outcome: Outcome) -> dict[str, Any]:
    """One model's outcome, JSON-ready."""
    evaluation = outcome.trained.evaluation
    return {
        "model": outcome.trained.name,
        "version": outcome.trained.version.version,
        "promoted": outcome.promoted,
        "replaced": outcome.replaced,
        "reasons": list(outcome.reasons),
        "headline": evaluation.headline,
        "champion": outcome.champion,
        "metrics": evaluation.metrics,
        "baselines": evaluation.baselines,
        "rows": outcome.trained.manifest.rows,
        "excluded": outcome.trained.manifest.excluded,
    }


def _bar(champion: ModelVersion | None, provenance: Provenance, *, now: datetime) -> Mapping[str, float] | None:
    """What the next version is measured against: the champion's metrics, if it may stay at all."""
    if champion is None or champion.tainted:
        return None
    try:
        return None if provenance.ended(champion, now=now).ended else provenance.registry.metrics(champion)
    except UnsoundLineage:
        return None  # it can't be loaded either


def _if_sound(decision: GateDecision, made: ModelVersion, provenance: Provenance, *, now: datetime) -> GateDecision:
    """The decision, if the version's own manifest holds; with how many of its people have ended their consent meanwhile."""
    try:
        ended = provenance.ended(made, now=now, checked=provenance.check(made))
        return GateDecision(decision.promote, (*decision.reasons, str(ended)))
    except UnsoundLineage as error:
        return GateDecision(False, (str(error), *decision.reasons))


def _knows_later(champion: ModelVersion | None, *, as_of: datetime) -> GateDecision | None:
    """A refusal where the champion was trained as of a later moment: a past week that is filled in takes nothing back."""
    known = champion and champion.tags.get("as_of")
    if not known or datetime.fromisoformat(known) <= as_of:
        return None
    return GateDecision(
        False, (f"The champion knows the days up to {known[:10]}; a version of {as_of:%Y-%m-%d} never replaces it.",)
    )
