"""What is computed on request: one function, the same in a training frame as online, under the purpose of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

import features
from aap.consent.policy import Status as Said
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.features import views
from aap.features.datasets import Status
from aap.features.declarations import Service
from aap.features.errors import RequestIncomplete, UnusableDeclaration
from aap.features.on_demand import OnRequest
from aap.features.quality.online_offline_skew import check
from aap.features.quality.served_vectors import Served
from aap.infra.object_store import archive_folder
from aap.serving.logging.feature_sampling import SampledFeatures, ServedSample
from tests.unit.features.store_room import AS_OF, CUSTOMERS, RETENTION, StoreRoom


def against_usual(basket: np.ndarray, amount_sum_90d: np.ndarray, basket_count_90d: np.ndarray) -> np.ndarray:
    return basket * basket_count_90d / amount_sum_90d


USUAL: dict[str, Any] = {
    "name": "against_usual", "function": against_usual, "request": ("basket",),
    "features": ("amount_sum_90d", "basket_count_90d"), "purposes": frozenset({RETENTION}),
    "description": "Tried.", "unit": "ratio",
}  # fmt: skip
CHECKOUT = Service(name="checkout", purpose=RETENTION, features=("tenure_days", "against_usual", "amount_sum_7d"))


@pytest.fixture
def declared(redeclare: Callable[..., None]) -> None:
    redeclare(ON_REQUEST=(OnRequest(**USUAL),), SERVICES=(*features.SERVICES, CHECKOUT))


@pytest.fixture
def counter(room: StoreRoom, declared: None) -> StoreRoom:
    room.put_online(RETENTION)
    return room


def test_a_training_row_and_an_answer_are_worked_out_alike(counter: StoreRoom) -> None:
    people, baskets = counter.keys(*CUSTOMERS), np.linspace(1, 90, len(CUSTOMERS))
    labels = pd.DataFrame({"user_key": people, "as_of": AS_OF, "basket": baskets})
    frame = counter.door().training_frame(labels, service="checkout", as_of=AS_OF)
    vectors = counter.door().online_vectors(people, service="checkout", now=AS_OF, request={"basket": list(baskets)})
    assert frame.features == vectors.features == CHECKOUT.features
    rows = frame.data.set_index("user_key").loc[people]
    np.testing.assert_allclose(rows[list(CHECKOUT.features)].to_numpy(), vectors.values, rtol=1e-12)
    view = views.view_for(views.Entity.USER, RETENTION)
    stored = counter.offline(RETENTION, *CUSTOMERS, at=AS_OF)
    amount, count = (stored[:, view.names.index(n)] for n in ("amount_sum_90d", "basket_count_90d"))
    np.testing.assert_allclose(vectors.values[:, 1], baskets * count / amount)
    assert (vectors.status == Status.PRESENT).all()
    assert frame.manifest.features == CHECKOUT.features


def test_who_is_denied_or_not_found_gets_no_value_though_the_request_has_one(counter: StoreRoom) -> None:
    counter.say("customer-1", RETENTION, Said.WITHDRAWN, at=AS_OF)
    counter.say("customer-2", RETENTION, Said.WITHDRAWN, at=AS_OF)
    counter.say("customer-2", RETENTION, Said.GIVEN, at=AS_OF + timedelta(seconds=1))
    later = AS_OF + timedelta(seconds=2)
    people = counter.keys("customer-0", "customer-1", "customer-2", "refuser")
    found = counter.door().online_vectors(people, service="checkout", now=later, request={"basket": [9.0] * 4})
    assert found.status[:, 1].tolist() == [Status.PRESENT, Status.DENIED, Status.NOT_FOUND, Status.DENIED]
    assert np.isnan(found.values[1:]).all()


def test_a_result_that_is_no_finite_number_is_null(counter: StoreRoom) -> None:
    baskets = [float("nan"), float("inf")]
    found = counter.door().online_vectors(
        counter.keys("customer-0", "customer-1"), service="checkout", now=AS_OF, request={"basket": baskets}
    )
    assert found.status[:, 1].tolist() == [Status.NULL] * 2
    assert np.isnan(found.values[:, 1]).all()


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (None, "Feature 'against_usual' needs 'basket', which the request doesn't have"),
        ({"basket": [1.0, 2.0]}, "'basket' in the request must have one value for each of the 1 rows"),
        ({"basket": ["dear"]}, "'basket' in the request holds something that is no number"),
    ],
)
def test_a_request_that_lacks_a_value_is_told(
    counter: StoreRoom, request_: dict[str, list[float]] | None, problem: str
) -> None:
    with pytest.raises(RequestIncomplete, match=problem):
        counter.door().online_vectors(counter.keys("customer-0"), service="checkout", now=AS_OF, request=request_)


def test_labels_that_lack_a_value_of_the_request_are_told(counter: StoreRoom) -> None:
    labels = pd.DataFrame({"user_key": counter.keys("customer-0"), "as_of": [AS_OF]})
    with pytest.raises(RequestIncomplete, match="needs 'basket', which the label frame doesn't have"):
        counter.door().training_frame(labels, service="checkout", as_of=AS_OF)


def test_what_was_computed_on_request_and_served_is_recomputed(counter: StoreRoom) -> None:
    sample = ServedSample(counter.layout.served, rate=1.0, every_s=60)
    SampledFeatures(counter.door(), sample).online_vectors(
        counter.keys(*CUSTOMERS), service="checkout", now=AS_OF, request={"basket": [5.0] * len(CUSTOMERS)}
    )
    sample.close()
    served = Served(counter.layout.served, timedelta(days=30))
    rows = served.usable(standing=open_ledger(counter.settings).standing(), now=AS_OF)
    found = check(rows, Archive(archive_folder(counter.settings)), most=100)
    assert {f.feature: f.mismatches for f in found.features} == dict.fromkeys(CHECKOUT.features, 0)
    assert found.checked == 3 * len(CUSTOMERS)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"purposes": frozenset()}, "'against_usual' states no purpose"),
        ({"request": (), "features": ("a",)}, "reads nothing of the request; a `Ratio` or an `Aggregate` is stored"),
        ({"request": ("basket", "basket")}, "names an input twice"),
        ({"request": ("cart",)}, "its function takes basket, amount_sum_90d, basket_count_90d, but cart, "),
        ({"name": "select"}, "is a word of SQL"),
    ],
)
def test_a_wrong_declaration_is_told_in_one_sentence(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnusableDeclaration, match=problem):
        OnRequest(**{**USUAL, **change})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "amount_sum_7d"}, "Two features are called 'amount_sum_7d' for marketing.retention"),
        ({"purposes": frozenset({Purpose.PERSONALIZE_PROFILING})}, "reads 'amount_sum_90d', which is not stored as a"),
    ],
)
def test_it_reads_only_what_is_stored_for_its_own_purpose(
    redeclare: Callable[..., None], change: dict[str, Any], problem: str
) -> None:
    made = OnRequest(**{**USUAL, **change})
    redeclare(ON_REQUEST=(made,))
    with pytest.raises(UnusableDeclaration, match=problem):
        views.computed_for(next(iter(made.purposes)))


def test_a_function_must_answer_one_value_a_row(counter: StoreRoom, redeclare: Callable[..., None]) -> None:
    made = OnRequest(**{**USUAL, "function": lambda basket, amount_sum_90d, basket_count_90d: np.float64(1.0)})
    redeclare(ON_REQUEST=(made,))
    with pytest.raises(UnusableDeclaration, match="must give one value a row"):
        counter.door().online_vectors(
            counter.keys("customer-0"), service="checkout", now=AS_OF, request={"basket": [1.0]}
        )
