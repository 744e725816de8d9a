"""A home with a churn champion, as small as a notebook needs: the other shop, its features, one model."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from aap.consent.service import open_ledger
from aap.features.retrieval import open_retrieval
from aap.modeling.registry.registry import open_registry
from aap.modeling.train_and_promote import train_and_decide, training_settings
from aap.jobs.publish_features import build_features
from aap.config import Settings
from aap.infra.redis import connection
from tests.shop import imported_shop


@pytest.fixture(scope="package")
def with_champion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Its settings; no `AAP_*` variable of the caller's reaches it."""
    left = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AAP_")}
    settings = imported_shop(tmp_path_factory.mktemp("notebooks") / "home", customers=240)
    as_of, registry = settings.now(), open_registry(settings)
    build_features(settings, as_of=as_of)
    outcome = train_and_decide(
        "churn",
        retrieval=open_retrieval(settings),
        registry=registry,
        ledger=open_ledger(settings),
        settings=training_settings(settings),
        as_of=as_of,
    )
    if not outcome.promoted:  # a notebook compares with a champion, however good it is on so small a shop
        registry.promote("churn", outcome.trained.version.version, reasons=("Promoted for the notebooks.",))
    yield settings
    connection.stop(settings)
    os.environ.update(left)
