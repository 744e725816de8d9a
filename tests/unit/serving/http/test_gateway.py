"""The HTTP door: what is let in, and that every refusal is one sentence."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from aap.consent.purposes import Purpose
from aap.infra.paths import Layout
from aap.infra.redis.connection import ensure_running, stop
from aap.security.api_keys import ApiKeys, Scope
from aap.serving.context import Platform
from tests.unit.serving.shop_window import Street
from tests.waiting import until

ENDPOINTS = ("recommendations", "churn", "segments", "anomalies")
ONE = {"user_ids": ["u-17"]}


def refusal(response: Any) -> tuple[int, str]:
    body = response.json()
    assert set(body) == {"error"}
    assert "Traceback" not in response.text
    assert "\n" not in body["error"]
    assert "u-17" not in response.text
    return response.status_code, body["error"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_answers_one_for_one_in_order(client: httpx.Client, endpoint: str) -> None:
    answers = client.post(f"/v1/{endpoint}", json={"user_ids": ["a", "b", "a"]}).json()["answers"]
    assert len(answers) == 3
    for answer in answers:
        assert set(answer) == {"prediction_id", "model", "experiment", "consent", "outcome", "result"}
        assert answer["consent"]["allowed"] is False
        assert answer["consent"]["reason"] == "no_record"
        assert (answer["result"] is None) == (endpoint != "recommendations")


def test_answers_obey_a_withdrawal_from_the_moment_it_is_acknowledged(
    client: httpx.Client, street: Street, keys: dict[Scope, str]
) -> None:
    street.shelves.rows[street.key("u-17")] = [50.0, 1.0]
    headers = {"X-API-Key": keys[Scope.CONSENT], "Authorization": ""}

    def say(choice: str) -> Any:
        body = {"user_id": "u-17", "purpose": "marketing.retention", "choice": choice}
        return client.post("/v1/consent", json=body, headers=headers).json()

    for number, (choice, outcome) in enumerate([("grant", "answered"), ("withdraw", "denied"), ("grant", "answered")]):
        recorded = say(choice)
        assert recorded == {"purpose": "marketing.retention", "choice": choice, "ledger_seq": number + 1}
        assert client.post("/v1/churn", json=ONE).json()["answers"][0]["outcome"] == outcome


@pytest.mark.parametrize("path", ["/v1/churn", "/v1/consent", "/metrics", "/nowhere", "/schema.json", "/", "/v1"])
@pytest.mark.parametrize("key", ["", "Bearer", "Bearer aap_wrong", "Basic YWFw"])
def test_nothing_is_said_without_a_key(client: httpx.Client, path: str, key: str) -> None:
    method = client.post if path.startswith("/v1/") else client.get
    response = method(path, headers={"Authorization": key})
    status, says = refusal(response)
    assert status == 401
    assert "aap keys create" in says
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_key_is_only_good_for_its_scopes(client: httpx.Client, keys: dict[Scope, str]) -> None:
    body = {"user_id": "u-17", "purpose": "marketing.retention", "choice": "grant"}
    assert refusal(client.post("/v1/consent", json=body)) == (
        403,
        "The key 'predict' has no scope 'consent': use one that has.",
    )
    consent = {"Authorization": f"Bearer {keys[Scope.CONSENT]}"}
    assert refusal(client.post("/v1/churn", json=ONE, headers=consent))[0] == 403
    admin = {"Authorization": f"Bearer {keys[Scope.ADMIN]}"}
    assert client.post("/v1/churn", json=ONE, headers=admin).status_code == 200


def test_a_revoked_key_is_refused_with_the_next_call(client: httpx.Client, street: Street) -> None:
    assert client.post("/v1/churn", json=ONE).status_code == 200
    ApiKeys(Layout(street.settings.home).api_keys).revoke("predict", now=street.settings.now())
    assert refusal(client.post("/v1/churn", json=ONE))[0] == 401


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (pickle.dumps({"user_ids": ["u-17"]}), "application/vnd.bentoml+pickle"),
        (pickle.dumps({"user_ids": ["u-17"]}), "application/octet-stream"),
        (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x"),
        (b"user_ids=u-17", "application/x-www-form-urlencoded"),
        (b'{"user_ids": ["u-17"]}', "text/plain"),
        (b'{"user_ids": ["u-17"]}', "application/json; charset=utf-16"),
        (b'{"user_ids": ["u-17"]}', ""),
    ],
)
def test_anything_but_json_is_refused_unread(client: httpx.Client, content: bytes, kind: str) -> None:
    status, says = refusal(client.post("/v1/churn", content=content, headers={"Content-Type": kind}))
    assert status == 415
    assert "application/json" in says


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[]", 422, "Expected `object`"),
        (b"{}", 422, "missing required field `user_ids`"),
        (b'{"user_ids": "u-17"}', 422, "Expected `array`"),
        (b'{"user_ids": []}', 422, "length >= 1"),
        (b'{"user_ids": [17]}', 422, "Expected `str`"),
        (b'{"user_ids": [""]}', 422, "length >= 1"),
        (b'{"user_ids": ["u-17"], "limit": 3}', 422, "unknown field `limit`"),
        (b'{"user_ids": ["' + b"x" * 257 + b'"]}', 422, "length <= 256"),
    ],
)
def test_a_body_that_cannot_be_used_is_named(client: httpx.Client, content: bytes, status: int, says: str) -> None:
    found = refusal(client.post("/v1/churn", content=content, headers={"Content-Type": "application/json"}))
    assert found[0] == status
    assert says in found[1]


@pytest.mark.parametrize("n", [0, 101, "5", 1.5])
def test_the_number_of_items_is_checked(client: httpx.Client, n: Any) -> None:
    assert refusal(client.post("/v1/recommendations", json={**ONE, "n": n}))[0] == 422


def test_too_many_users_and_too_many_bytes_are_refused(client: httpx.Client) -> None:
    assert client.post("/v1/churn", json={"user_ids": ["a"] * 50}).status_code == 200
    assert refusal(client.post("/v1/churn", json={"user_ids": ["a"] * 51})) == (
        422,
        "The call names 51 users, and one call may name 50: split it, or raise AAP_MAX_USERS_PER_CALL.",
    )
    assert refusal(client.post("/v1/churn", json={"user_ids": ["a" * 90_000]}))[0] == 413


@pytest.mark.parametrize(("field", "value"), [("purpose", "world.domination"), ("choice", "maybe"), ("user_id", "")])
def test_a_choice_that_cannot_be_recorded_is_named(
    client: httpx.Client, keys: dict[Scope, str], field: str, value: str
) -> None:
    body = {"user_id": "u-17", "purpose": "marketing.retention", "choice": "grant", field: value}
    headers = {"Authorization": f"Bearer {keys[Scope.CONSENT]}"}
    assert refusal(client.post("/v1/consent", json=body, headers=headers))[0] == 422


def test_wrong_paths_and_methods_are_named_to_callers_with_a_key(client: httpx.Client) -> None:
    assert refusal(client.get("/v1/nothing"))[0] == 404
    assert refusal(client.get("/v1/churn"))[0] == 405
    assert refusal(client.get("/docs/../../etc/passwd"))[0] == 404
    assert refusal(client.get("/docs/secrets.js"))[0] == 404


@pytest.mark.usefixtures("own_redis")
def test_redis_down_is_said_and_answers_come_back_by_themselves(
    client: httpx.Client, street: Street, choose: Callable[..., None]
) -> None:
    choose("u-17", Purpose.MARKETING_RETENTION)
    street.shelves.rows[street.key("u-17")] = [50.0, 1.0]
    assert client.post("/v1/churn", json=ONE).json()["answers"][0]["outcome"] == "answered"
    stop(street.settings)
    response = client.post("/v1/churn", json=ONE)
    status, says = refusal(response)
    assert status == 503
    assert "Redis" in says
    assert "aap up" in says
    assert response.headers["retry-after"] == "2"
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "Redis" in ready.json()["missing"]["redis"]
    assert client.get("/livez").status_code == 200
    ensure_running(street.settings)
    assert client.post("/v1/churn", json=ONE).json()["answers"][0]["outcome"] == "answered"
    assert client.get("/readyz").json() == {
        "ready": True,
        "models": dict.fromkeys(("recommendation", "churn", "segments", "anomaly", "popularity"), "1"),
        "missing": {},
        "warnings": {},
    }


@pytest.mark.usefixtures("own_redis")
def test_a_choice_made_while_redis_is_down_is_not_acknowledged_but_obeyed_later(
    client: httpx.Client, street: Street, keys: dict[Scope, str]
) -> None:
    street.shelves.rows[street.key("u-17")] = [50.0, 1.0]
    headers = {"Authorization": f"Bearer {keys[Scope.CONSENT]}"}
    body = {"user_id": "u-17", "purpose": "marketing.retention", "choice": "grant"}
    assert client.post("/v1/consent", json=body, headers=headers).status_code == 200
    stop(street.settings)
    status, says = refusal(client.post("/v1/consent", json={**body, "choice": "withdraw"}, headers=headers))
    assert status == 503
    assert "not yet in force" in says
    ensure_running(street.settings)
    until(lambda: client.post("/v1/churn", json=ONE).json()["answers"][0]["outcome"] == "denied")
    assert client.post("/v1/churn", json=ONE).json()["answers"][0]["consent"]["reason"] == "withdrawn"


def test_what_has_no_champion_says_so(client: httpx.Client, street: Street, platform: Platform) -> None:
    del street.shop.champions["churn"]
    platform.models.refresh()
    status, says = refusal(client.post("/v1/churn", json=ONE))
    assert status == 503
    assert "aap train" in says
    assert client.get("/readyz").json()["missing"] == {
        "model churn": "it has no champion; run `aap train` or `aap retrain`."
    }
    assert client.post("/v1/segments", json=ONE).status_code == 200


def test_an_unforeseen_failure_gives_nothing_away(
    client: httpx.Client, street: Street, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret of u-17")

    street.shelves.online_vectors = explode  # type: ignore[method-assign]
    assert refusal(client.post("/v1/churn", json=ONE)) == (
        500,
        "Something went wrong on our side; the service's log says what, at this time.",
    )
    assert "RuntimeError" in caplog.text
    assert "u-17" not in caplog.text


def test_the_page_describes_every_endpoint_and_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *(f"/v1/{e}" for e in ENDPOINTS),
        "/v1/consent",
        "/v1/consent/receipts",
        "/v1/consent/signals",
        "/v1/privacy/exports",
        "/v1/privacy/erasures",
        "/v1/events",
        "/v1/score",
        "/v1/similar-items",
        "/livez",
        "/readyz",
    }
    page = client.get("/docs")
    assert page.status_code == 200
    assert "http" not in page.text
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        assert f"docs/{asset}" in page.text
        assert client.get(f"/docs/{asset}").status_code == 200


PAGES = ("/docs", "/openapi.json", "/docs/start.js", "/docs/swagger-ui.css")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_page_needs_a_key_which_a_browser_asks_for(
    serve: Callable[..., Any], keys: dict[Scope, str], host: str
) -> None:
    with serve(host=host) as client:
        del client.headers["Authorization"]
        for path in PAGES:
            refused = client.get(path)
            assert refusal(refused)[0] == 401
            assert refused.headers["www-authenticate"].startswith("Basic ")
            assert client.get(path, auth=("me", "aap_wrong")).status_code == 401
            assert client.get(path, auth=("me", keys[Scope.PREDICT])).status_code == 200
            assert client.get(path, headers={"X-API-Key": keys[Scope.PREDICT]}).status_code == 200
        assert client.post("/v1/churn", json=ONE, auth=("me", keys[Scope.PREDICT])).status_code == 401, "not to call"


def test_the_page_is_open_where_a_setting_says_so(serve: Callable[..., Any]) -> None:
    with serve(open_docs=True) as client:
        del client.headers["Authorization"]
        assert [client.get(path).status_code for path in PAGES] == [200] * 4
        assert client.get("/metrics").status_code == 401


def test_where_other_machines_can_ask_health_says_names_alone_without_a_key(
    serve: Callable[..., Any], street: Street
) -> None:
    del street.shop.champions["churn"]
    with serve(host="0.0.0.0") as client:
        whole = client.get("/readyz")
        for nobody in ({"Authorization": ""}, {"Authorization": "Bearer aap_wrong"}):
            brief = client.get("/readyz", headers=nobody)
            assert brief.status_code == whole.status_code == 503
            says = "Ask with an API key to be told why."
            assert brief.json() == {"ready": False, "models": {}, "missing": {"model churn": says}, "warnings": {}}
        assert whole.json()["missing"] == {"model churn": "it has no champion; run `aap train` or `aap retrain`."}
        assert whole.json()["models"]["segments"] == "1"
        for _ in range(150):  # a probe that asks on and on is no guess
            assert client.get("/readyz", headers={"Authorization": ""}).status_code == 503
    with serve() as here:
        assert here.get("/readyz", headers={"Authorization": ""}).json() == whole.json(), "on the loopback"


def test_metrics_count_calls_answers_and_denials_and_name_nobody(client: httpx.Client, street: Street) -> None:
    for _ in range(3):
        client.post("/v1/segments", json=ONE)
    client.post("/v1/segments", json={})
    page = client.get("/metrics").text
    assert 'aap_requests_total{endpoint="segments",status="200"}' in page
    assert 'aap_errors_total{endpoint="segments",status="422",variant="none",version="none"}' in page
    assert 'aap_consent_denials_total{endpoint="segments",purpose="analytics.reporting",reason="no_record"}' in page
    assert 'aap_request_seconds_bucket{endpoint="segments",le="0.001",variant="none",version="1"}' in page
    assert "u-17" not in page
    assert street.key("u-17") not in page


def test_health_names_a_mistake_in_the_flag_file_while_the_last_good_one_is_in_force(
    client: httpx.Client, platform: Platform, street: Street, tmp_path: Path
) -> None:
    assert client.get("/readyz").json()["warnings"] == {}
    held = platform.flags._source
    broken = tmp_path / "half.json"
    broken.write_text(held.read_text()[:100])
    platform.flags._source = broken
    platform.flags.refresh()
    found = client.get("/readyz")
    assert found.status_code == 200
    assert "half.json is not JSON" in found.json()["warnings"]["flags"]
    platform.flags._source = held
    platform.flags.refresh()
    assert client.get("/readyz").json()["warnings"] == {}


def test_a_process_is_told_once_that_everything_is_loaded_and_not_before(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.serving.context._EVERY_S", 0.02)
    churn, told = street.shop.champions.pop("churn"), []

    def complete() -> None:
        told.append(platform.models.missing())

    platform = Platform(
        street.settings, open_features=lambda _: street.shelves, open_registry=lambda _: street.shop, complete=complete
    )
    platform.models.refresh()
    platform.start()
    time.sleep(0.3)
    assert told == []
    street.shop.champions["churn"] = churn
    platform.models.refresh()
    until(lambda: told)
    time.sleep(0.1)
    platform.stop()
    assert told == [{}]
