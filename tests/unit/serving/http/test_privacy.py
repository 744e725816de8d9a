"""The privacy endpoints over HTTP: receipts, the Global Privacy Control, ages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from aap.consent.ledger.receipts import check
from aap.consent.ledger.signing import load_signer
from aap.consent.purposes import Purpose
from aap.events.streaming.event_log import LoggedEvent, RedisStreamLog
from aap.features.views import service
from aap.infra.paths import Layout
from aap.privacy.certificates import check_certificate
from aap.privacy.erasure import METHOD
from aap.security.api_keys import Scope
from aap.serving.inference import deny_all
from tests.unit.serving.shop_window import FEATURES, Street

GPC = {"Sec-GPC": "1"}


@pytest.fixture
def desk(client: httpx.Client, keys: dict[Scope, str]) -> httpx.Client:
    """A caller with a key for consent."""
    client.headers["Authorization"] = f"Bearer {keys[Scope.CONSENT]}"
    return client


def choose(client: httpx.Client, purpose: str, choice: str, **more: object) -> httpx.Response:
    headers = more.pop("headers", None)
    body = {"user_id": "ana", "purpose": purpose, "choice": choice, **more}
    return client.post("/v1/consent", json=body, headers=headers)  # type: ignore[arg-type]


def test_a_person_s_receipts_hold_offline(desk: httpx.Client, street: Street) -> None:
    assert choose(desk, "marketing.retention", "grant").status_code == 200
    assert choose(desk, "marketing.retention", "withdraw").status_code == 200
    answer = desk.post("/v1/consent/receipts", json={"user_id": "ana"})
    assert answer.status_code == 200, answer.text
    receipts = answer.json()["receipts"]
    assert [r["event"]["event_state"] for r in receipts] == ["given", "withdrawn"]
    public = load_signer(Layout(street.settings.home)).public
    assert answer.json()["public_key"] == public.pem
    assert all(check(r, public_key=public).holds for r in receipts)
    assert desk.post("/v1/consent/receipts", json={"user_id": "nobody"}).json()["receipts"] == []
    assert "ana" not in answer.text.replace("essential", "").replace("analytics", "")


def test_a_call_with_the_signal_gets_no_marketing_answer_and_others_as_ever(
    client: httpx.Client, street: Street, choose: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The shop window's shelves have other columns than the declared services.
    monkeypatch.setattr(deny_all, "service_called", lambda name: replace(service(name), features=FEATURES))
    choose("ana", Purpose.MARKETING_RETENTION, Purpose.ANALYTICS_REPORTING)
    street.shelves.rows[street.key("ana")] = [40.0, 2.0]
    ask = {"user_ids": ["ana", "ana"]}
    (plain, _) = client.post("/v1/churn", json=ask).json()["answers"]
    assert plain["outcome"] == "answered"
    for answer in client.post("/v1/churn", json=ask, headers=GPC).json()["answers"]:
        assert (answer["outcome"], answer["result"]) == ("denied", None)
        assert answer["consent"] == {
            "allowed": False, "purpose": "marketing.retention", "reason": "global_privacy_control",
        }  # fmt: skip
    assert client.post("/v1/segments", json=ask, headers=GPC).json()["answers"][0]["outcome"] == "answered"
    assert client.post("/v1/churn", json=ask, headers={"Sec-GPC": "0"}).json()["answers"][0]["outcome"] == "answered"


@pytest.mark.parametrize("purpose", ["marketing.retention", "third_party_sharing"])
def test_a_grant_of_what_the_signal_stops_is_refused_and_a_withdrawal_never(desk: httpx.Client, purpose: str) -> None:
    refused = choose(desk, purpose, "grant", headers=GPC)
    assert (refused.status_code, refused.json()["error"]) == (
        422, f"{purpose} can't be granted by a call with Sec-GPC: 1: the signal says no to it."
    )  # fmt: skip
    assert choose(desk, purpose, "withdraw", headers=GPC).status_code == 200
    assert choose(desk, "analytics.reporting", "grant", headers=GPC).status_code == 200


def test_a_person_s_own_setting_holds_for_calls_without_the_header(desk: httpx.Client, street: Street) -> None:
    assert choose(desk, "marketing.retention", "grant").status_code == 200
    set_ = desk.post("/v1/consent/signals", json={"user_id": "ana", "signal": "gpc", "on": True})
    assert (set_.status_code, set_.json()["on"]) == (200, True)
    refused = choose(desk, "marketing.retention", "grant")
    assert refused.status_code == 422
    assert "Global Privacy Control" in refused.json()["error"]
    desk.post("/v1/consent/signals", json={"user_id": "ana", "signal": "gpc", "on": False})
    assert choose(desk, "marketing.retention", "grant").status_code == 200


def test_a_young_person_is_not_asked_for_marketing_and_needs_a_guardian_for_the_rest(desk: httpx.Client) -> None:
    assert choose(desk, "marketing.retention", "grant", age=17, by="guardian").status_code == 422
    assert choose(desk, "personalize.profiling", "grant", age=12).status_code == 422
    assert choose(desk, "personalize.profiling", "grant", age=12, by="guardian").status_code == 200
    assert choose(desk, "personalize.profiling", "withdraw", age=12).status_code == 200


@pytest.fixture
def officer(client: httpx.Client, keys: dict[Scope, str]) -> httpx.Client:
    """A caller with a key for people's rights."""
    client.headers["Authorization"] = f"Bearer {keys[Scope.PRIVACY]}"
    return client


def test_a_person_is_handed_over_then_erased_and_certified_over_http(
    officer: httpx.Client, street: Street, choose: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.privacy.erasure.SETTLE_S", 0.0)
    choose("ana", Purpose.ANALYTICS_REPORTING)
    RedisStreamLog(street.client).append(
        [LoggedEvent("web", "1", "product_viewed", street.key("ana"), 1, 1, {"item_id": "tea"})]
    )
    told = officer.post("/v1/privacy/exports", json={"user_id": "ana"})
    assert told.status_code == 200, told.text
    assert [e["item_id"] for e in told.json()["live_events"]] == ["tea"]
    assert {c["purpose"] for c in told.json()["consents"]} == {"analytics.reporting"}
    assert [(r["who"], r["what"]) for r in told.json()["reads"]] == [("API key 'privacy'", "export a person")]
    unsure = officer.post("/v1/privacy/erasures", json={"user_id": "ana", "confirm": "yes"})
    assert unsure.status_code == 422
    gone = officer.post("/v1/privacy/erasures", json={"user_id": "ana", "confirm": "erase everything"})
    assert gone.status_code == 200, gone.text
    assert {p["place"]: p["before"] for p in gone.json()["places"]}["live event log"] == 1
    assert check_certificate(gone.json(), public_key=load_signer(Layout(street.settings.home)).public)
    after = officer.post("/v1/privacy/exports", json={"user_id": "ana"}).json()
    assert (after["live_events"], after["user_id"]) == ([], None)
    assert len(after["reads"]) == 1, "this very export: who asked before, nobody can tell any more"
    assert not any(d["allowed"] for d in after["decisions"])
    assert {c["method"] for c in after["consents"] if c["status"] == "withdrawn"} == {METHOD}


@pytest.mark.parametrize("body", [{}, {"user_id": ""}, {"user_id": "ana", "extra": 1}])
def test_wrong_bodies_are_one_sentence(desk: httpx.Client, body: dict[str, object]) -> None:
    for path in ("/v1/consent/receipts", "/v1/consent/signals"):
        answer = desk.post(path, json=body)
        assert (answer.status_code, set(answer.json())) == (422, {"error"})


def test_a_key_for_predictions_opens_none_of_it(client: httpx.Client) -> None:
    for path in ("consent/receipts", "consent/signals", "privacy/exports", "privacy/erasures"):
        assert client.post(f"/v1/{path}", json={"user_id": "ana"}).status_code == 403
