"""What may become the champion: only what was made of what the ledger vouches for; and who has to go bars nobody's way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from aap.consent.ledger.ledger import Entry, Ledger
from aap.consent.ledger.signing import Signer
from aap.consent.policy import Status
from aap.features.datasets import Interactions
from aap.features.views import service
from aap.modeling.registry.registry import Registry
from aap.modeling.train_and_promote import Outcome, train_and_decide
from aap.modeling.training_config import TrainingSettings
from tests.unit.modeling.conftest import AS_OF, empty_store, registry, settings  # noqa: F401 - fixtures
from tests.unit.modeling.shop import START, Shop, purchases

ASKED = service("recommendation")
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Door(Shop):
    """The models' small shop, of which a real ledger says who allows what."""

    ledger: Ledger

    def interactions(self, service: str, **span: Any) -> Interactions:
        found, at = Shop.interactions(self, service, **span), self.ledger.checkpoint()
        purposes = [p.value for p in ASKED.training_purposes]
        told = replace(
            found.manifest, service=ASKED.name, purpose=purposes[0], requires=tuple(purposes[1:]), ledger_size=at.size,
            ledger_root=at.root,
        )  # fmt: skip
        return Interactions(found.table, told)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    lines = purchases(people=60, items=40, days=220, seed=11)
    ledger = Ledger.at(tmp_path / "ledger.db", signer=Signer(b"1" * 32))
    people, purposes = sorted(lines["user_key"].unique()), ASKED.training_purposes
    ledger.append(
        [Entry(who, p, Status.GIVEN, START, "them", "form") for who in people for p in purposes], received_at=AS_OF
    )
    return Door(lines, ledger)


@pytest.fixture
def decide(door: Door, registry: Registry, settings: TrainingSettings) -> Callable[..., Outcome]:  # noqa: F811
    def run(signer: Signer | None = None, now: datetime = AS_OF) -> Outcome:
        signed = replace(registry, signer=lambda: signer or Signer(b"1" * 32))
        return train_and_decide(
            "popularity", retrieval=door, registry=signed, ledger=door.ledger, settings=settings, as_of=AS_OF, now=now
        )

    return run


def test_a_champion_whose_people_ended_their_consent_is_no_bar_to_the_next(
    door: Door,
    registry: Registry,  # noqa: F811
    decide: Callable[..., Outcome],
) -> None:
    first = decide()
    assert first.promoted, first.reasons
    assert "who all still allow it." in first.reasons[-1]
    unbeatable = first.trained.version
    MlflowClient(tracking_uri=registry.tracking_uri).log_metric(
        unbeatable.run_id, first.trained.evaluation.headline, 99.0
    )
    assert not decide().promoted, "the champion is better, and may stay"
    gone = door.lines.loc[door.lines["occurred_at"] <= AS_OF].sort_values("occurred_at")["user_key"].iloc[-1]
    door.ledger.append(
        [Entry(gone, ASKED.purpose, Status.WITHDRAWN, AS_OF + DAY, "them", "form")], received_at=AS_OF + DAY
    )
    again = decide(now=AS_OF + 2 * DAY)
    assert again.promoted
    assert again.replaced == unbeatable.version
    assert again.reasons[-1].endswith("the consent of 1 of them ended since."), (
        "the small shop's door goes on giving them out"
    )


def test_a_version_that_nobody_vouches_for_is_not_promoted_however_good_it_is(
    registry: Registry,  # noqa: F811
    decide: Callable[..., Outcome],
) -> None:
    made = decide(signer=Signer(b"2" * 32))
    assert not made.promoted
    assert "isn't what this platform signed" in made.reasons[0]
    assert registry.champion("popularity") is None
