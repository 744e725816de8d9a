"""docs/add-a-feature.md, followed to the letter: its entries are built, trained from, brought online and answered with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

import features
from aap.consent.purposes import Purpose
from aap.features import declarations
from aap.features.datasets import Status
from aap.features.declarations import Feature
from aap.features.errors import FeaturesNotBuilt
from tests.docs.pages import DOCS, blocks
from tests.unit.events.corner_shop import ON_LEDGER
from tests.unit.features.store_room import AS_OF, StoreRoom

PROFILE = Purpose.PERSONALIZE_PROFILING
ADDED = ("products_viewed_7d", "products_viewed_1d", "products_viewed_lately")


@pytest.fixture
def added(redeclare: Callable[..., None]) -> None:
    """Steps 3 to 5: the entries, and a service that reads them."""
    made: list[Feature] = []
    for source in blocks(DOCS / "add-a-feature.md", "python"):
        made += eval(f"({source})", {**vars(declarations), "Purpose": Purpose})
    assert tuple(f.name for f in made) == ADDED
    (recommendation,) = (s for s in features.SERVICES if s.name == "recommendation")
    more = replace(recommendation, features=(*recommendation.features, *ADDED))
    redeclare(
        FEATURES=(*features.FEATURES, *made),
        SERVICES=tuple(more if s is recommendation else s for s in features.SERVICES),
    )


def looked_at(room: StoreRoom) -> None:
    """customer-0 looks at i1 and i2, one of them a day later again."""
    rows = [
        ("customer-0", item, (AS_OF - timedelta(days=d)).isoformat()) for item, d in (("i1", 3), ("i2", 3), ("i2", 0))
    ]
    mapping = {
        "source": "site", "event": "product_viewed", "user_id": "wer", "occurred_at": "wann",
        "fields": {"item_id": "was"}, "consent": ON_LEDGER["consent"],
    }  # fmt: skip
    room.shop.bring(room.shop.csv(rows, columns=("wer", "was", "wann")), mapping, now=AS_OF)


def test_its_features_are_computed_trained_from_and_answered_with(room: StoreRoom, added: None) -> None:
    looked_at(room)
    labels = pd.DataFrame({"user_key": room.keys("customer-0", "customer-1"), "as_of": [AS_OF] * 2})
    with pytest.raises(FeaturesNotBuilt, match="were built by other declarations; run `aap features build`"):
        room.door().training_frame(labels, service="recommendation", as_of=AS_OF)
    room.build()
    data = room.door().training_frame(labels, service="recommendation", as_of=AS_OF).data.set_index("user_key")
    np.testing.assert_array_equal(
        data.loc[room.keys("customer-0", "customer-1"), list(ADDED)].to_numpy(), [[2, 1, 0.5], [0, 0, np.nan]]
    )
    room.put_online(PROFILE)
    vectors = room.door().online_vectors(room.keys("customer-0"), service="recommendation", now=AS_OF)
    assert vectors.features[-3:] == ADDED
    assert vectors.values[0, -3:].tolist() == [2.0, 1.0, 0.5]


def test_rows_packed_before_it_was_added_are_not_read_as_if_they_had_it(
    room: StoreRoom, request: pytest.FixtureRequest
) -> None:
    room.put_online(PROFILE)
    request.getfixturevalue("added")
    vectors = room.door().online_vectors(room.keys("customer-0"), service="recommendation", now=AS_OF)
    assert (vectors.status == Status.NOT_FOUND).all()
