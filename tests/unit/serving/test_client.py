"""The Python client: what it returns is typed, and what it raises says what the service said."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx
import pytest

from aap.consent.ledger.receipts import check
from aap.consent.ledger.signing import load_signer
from aap.consent.purposes import Purpose
from aap.features.views import service as declared
from aap.infra.paths import Layout
from aap.privacy.certificates import check_certificate
from aap.security.api_keys import Scope
from aap.serving.inference import deny_all
from aap_client.client import AsyncClient, CallRefused, Client
from aap_client.requests import ChurnPart, Context, Filters, RecommendationsPart, SimilarPart
from aap_client.responses import (
    Answer,
    ChurnAnswered,
    ChurnResult,
    MixedPart,
    Outcome,
    RecommendationsAnswered,
    SimilarItemsAnswered,
)
from tests.unit.serving.shop_window import FEATURES, Street


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
    assert churn.consent.purpose == Purpose.MARKETING_RETENTION
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
    churn, items, like = service.score(
        [
            ChurnPart([known, "stranger"]),
            RecommendationsPart([known], strategy="guess"),
            SimilarPart(["tea"]),
        ]
    )
    assert isinstance(churn, ChurnAnswered)
    assert churn.answers is not None
    assert [(a.outcome, a.result and a.result.probability) for a in churn.answers] == [
        (Outcome.ANSWERED, 0.8),
        (Outcome.DENIED, None),
    ]
    assert isinstance(items, RecommendationsAnswered)
    assert (items.status, items.answers) == (422, None)
    assert "choose one of: buy_again, discover" in str(items.error)
    assert isinstance(like, SimilarItemsAnswered)
    assert like.status == 200
    assert like.answers is not None
    assert [i.item_id for i in like.answers[0].result] == ["bread", "milk"]


def test_a_list_can_be_explained_and_varied(service: Client, known: str) -> None:
    (plain,), (told,) = (service.recommendations([known], strategy="discover", explain=say) for say in (False, True))
    assert plain.result is not None
    assert told.result is not None
    assert {i.explanation for i in plain.result} == {None}
    assert {i.explanation for i in told.result} == {"To the taste of similar customers."}
    (varied,), (popular,) = (service.recommendations([who], most_a_category=1, explain=True) for who in (known, "none"))
    assert (len(plain.result), len(varied.result or ())) == (2, 1)
    assert {i.explanation for i in popular.result or ()} == {"Popular with many customers."}


def test_the_signal_of_a_browser_is_passed_on_with_a_call(
    service: Client, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The shop window's shelves have other columns than the declared services.
    monkeypatch.setattr(deny_all, "service_called", lambda name: replace(declared(name), features=FEATURES))
    for (answer,) in (service.churn([known], gpc=True), _churn_of(service.score([ChurnPart([known])], gpc=True))):
        assert (answer.outcome, answer.consent.reason) == (Outcome.DENIED, "global_privacy_control")
    (other,) = service.segments([known], gpc=True)
    assert other.outcome is Outcome.ANSWERED
    with pytest.raises(CallRefused, match="Sec-GPC"):
        service.choose(known, "marketing.retention", "grant", gpc=True)
    assert service.churn([known])[0].outcome is Outcome.ANSWERED


def _churn_of(parts: list[MixedPart]) -> list[Answer[ChurnResult]]:
    (part,) = parts
    assert isinstance(part, ChurnAnswered)
    assert part.answers is not None
    return part.answers


def test_the_signal_as_a_setting_holds_until_it_is_lifted(service: Client, known: str) -> None:
    assert service.set_gpc(known).on
    (denied,) = service.churn([known])
    assert denied.consent.reason == "global_privacy_control"
    assert not service.set_gpc(known, on=False).on
    service.choose(known, "marketing.retention", "grant")
    assert service.churn([known])[0].consent.allowed


def test_the_young_are_asked_through_a_guardian(service: Client) -> None:
    with pytest.raises(CallRefused, match="parental responsibility"):
        service.choose("kid", "personalize.profiling", "grant", age=12)
    assert service.choose("kid", "personalize.profiling", "grant", age=12, by="guardian").choice == "grant"


def test_rights_are_one_call_each_and_what_they_give_can_be_checked(
    service: Client, known: str, street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.privacy.erasure.SETTLE_S", 0.0)
    key = load_signer(Layout(street.settings.home)).public
    handed = service.receipts(known)
    assert handed.public_key == key.pem
    assert len(handed.receipts) == len(Purpose) - 1
    assert all(check(one, public_key=key).holds for one in handed.receipts)
    assert len(service.export(known)["consents"]) == len(Purpose) - 1
    certificate = service.erase(known, confirm="erase everything")
    assert check_certificate(certificate, public_key=key)
    assert service.churn([known])[0].outcome is Outcome.DENIED


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, inspect.Signature]:
        named = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(call) for name, call in named if not name.startswith("_")}

    assert calls(Client) == calls(AsyncClient)


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
        async with AsyncClient(str(client.base_url), key=keys[Scope.ADMIN]) as service:
            users = [known, "stranger"] * 20
            answers = await asyncio.gather(*(service.churn([user]) for user in users))
            await service.segments([known])
            await service.recommendations([known])
            await service.similar_items(["tea"])
            await service.anomalies([known])
            assert [part.status for part in await service.score([ChurnPart([known])])] == [200]
            assert (await service.choose(known, "train_ai_system", "grant")).choice == "grant"
            assert (await service.receipts(known)).receipts
            assert (await service.set_gpc("other")).on
            assert (await service.export(known))["consents"]
            assert (await service.collect([{}])).rejected
        return [a.result.probability if a.result else None for (a,) in answers]

    assert asyncio.run(ask()) == [0.8, None] * 20
