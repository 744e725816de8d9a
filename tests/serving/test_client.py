"""The Python client: what it returns is typed, and what it raises says what the service said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import httpx
import pytest

from consent.purposes import Purpose
from security.api_keys import Scope
from serving.answers import Outcome
from serving.client import AsyncClient, CallRefused, Client
from serving.requests import Context, Filters
from tests.serving.shop_window import FEATURES, Street


@pytest.fixture
def service(client: httpx.Client, keys: dict[Scope, str]) -> Iterator[Client]:
    with Client(str(client.base_url), key=keys[Scope.ADMIN]) as made:
        yield made


@pytest.fixture
def known(street: Street, choose: Callable[..., None]) -> str:
    """Somebody who agreed to everything and of whom something is known."""
    choose("u-17", *(p for p in Purpose if p is not Purpose.ESSENTIAL_FRAUD_DETECTION))
    street.shelves.rows[street.key("u-17")] = [80.0, 3.0]
    street.shelves.purchases[street.key("u-17")] = ["tea"]
    return "u-17"


def test_every_endpoint_gives_typed_answers(service: Client, known: str) -> None:
    (churn,) = service.churn([known], explain=True)
    assert churn.result is not None
    assert (churn.outcome, churn.result.probability, churn.result.reasons) == (Outcome.ANSWERED, 0.8, (FEATURES[0],))
    assert churn.consent.purpose is Purpose.MARKETING_RETENTION
    (plain,) = service.churn([known])
    assert plain.result is not None
    assert plain.result.reasons is None
    (segment,) = service.segments([known])
    assert segment.result is not None
    assert segment.result.name == "big"
    (anomaly,) = service.anomalies([known], explain=True)
    assert anomaly.result is not None
    assert (anomaly.result.score, anomaly.result.drivers) == (0.8, (FEATURES[0],))
    (items,) = service.recommendations([known], n=2, strategy="discover", filters=Filters(exclude_items=("bread",)))
    assert items.result is not None
    assert [i.item_id for i in items.result] == ["milk"]
    (held,) = service.recommendations([known], strategy="discover", context=Context(basket=("milk",)))
    assert held.result is not None
    assert [i.item_id for i in held.result] == ["bread"]
    (like,) = service.similar_items(["tea"], n=1)
    assert [i.item_id for i in like.result] == ["bread"]


def test_one_part_of_a_mixed_batch_that_fails_leaves_the_others(service: Client, street: Street, known: str) -> None:
    found = service.score(
        [
            {"endpoint": "churn", "user_ids": [known, "stranger"]},
            {"endpoint": "recommendations", "user_ids": [known], "strategy": "guess"},
            {"endpoint": "similar-items", "item_ids": ["tea"]},
        ]
    )
    churn, items, like = found.responses
    assert churn.answers is not None
    assert [a["outcome"] for a in churn.answers] == ["answered", "denied"]
    assert (items.status, items.answers) == (422, None)
    assert "choose one of: buy_again, discover" in str(items.error)
    assert (like.status, like.endpoint) == (200, "similar-items")


def test_a_choice_is_in_force_when_the_call_returns(service: Client, known: str) -> None:
    assert service.choose(known, "marketing.retention", "withdraw").choice == "withdraw"
    assert service.churn([known])[0].outcome is Outcome.DENIED


def test_a_refusal_carries_the_services_sentence(client: httpx.Client) -> None:
    with (
        Client(str(client.base_url), key="aap_wrong") as stranger,
        pytest.raises(CallRefused, match="aap keys create") as refused,
    ):
        stranger.churn(["u-17"])
    assert refused.value.status == 401


def test_the_asynchronous_client_answers_many_calls_at_once(
    client: httpx.Client, keys: dict[Scope, str], known: str
) -> None:
    async def ask() -> list[float | None]:
        async with AsyncClient(str(client.base_url), key=keys[Scope.PREDICT]) as service:
            users = [known, "stranger"] * 20
            answers = await asyncio.gather(*(service.churn([user]) for user in users))
            await service.segments([known])
            await service.recommendations([known])
        return [a.result.probability if a.result else None for (a,) in answers]

    assert asyncio.run(ask()) == [0.8, None] * 20
