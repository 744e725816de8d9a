"""The doors under pressure: limits, floods, slow and hostile callers, and what is written down about them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from aap.consent.purposes import Purpose
from aap.infra.logging import line_formatter
from aap.infra.paths import Layout
from aap.infra.redis.connection import status
from aap.security import auth_throttle
from aap.security.api_keys import ApiKeys, Scope
from aap.security.audit_log import read_audit, reads_of, verify_audit
from aap.serving.context import Platform
from aap.serving.http.gateway import Door, Place
from tests.unit.serving.shop_window import Street
from tests.waiting import PATIENCE_S, until

ONE = {"user_ids": ["u-17"]}


def test_a_client_that_used_up_its_calls_is_told_when_to_come_back(serve: Callable[..., Any]) -> None:
    with serve(rate_limit=5) as client:
        found = [client.post("/v1/churn", json=ONE) for _ in range(6)]
        assert [r.status_code for r in found] == [200] * 5 + [429]
        assert found[0].headers["ratelimit-policy"] == '"minute";q=5;w=60'
        assert found[0].headers["ratelimit"].startswith('"minute";r=4;t=')
        assert 1 <= int(found[-1].headers["retry-after"]) <= 12
        assert "5 calls a minute" in found[-1].json()["error"]


def test_every_answer_carries_the_security_headers(client: httpx.Client) -> None:
    for response in (client.post("/v1/churn", json=ONE), client.get("/nowhere"), client.get("/livez")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "server" not in response.headers
    assert "script-src 'self'" in client.get("/docs").headers["content-security-policy"]


def test_more_calls_than_can_wait_are_turned_away_at_once_and_the_others_answered(
    serve: Callable[..., Any], street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, go_on = street.shelves.online_vectors, threading.Event()

    def slowly(*args: Any, **options: Any) -> Any:
        go_on.wait(PATIENCE_S)
        return answer(*args, **options)

    monkeypatch.setattr(street.shelves, "online_vectors", slowly)
    with serve(max_waiting=4, rate_limit=0, deadline_s=PATIENCE_S) as client:

        async def flood() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=client.base_url, headers=client.headers, timeout=PATIENCE_S) as many:
                calls = [asyncio.create_task(many.post("/v1/recommendations", json=ONE)) for _ in range(40)]
                while sum(one.done() for one in calls) < 36:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                assert {one.result().status_code for one in calls if one.done()} == {503}, "while the others wait"
                go_on.set()
                return list(await asyncio.gather(*calls))

        found = asyncio.run(flood())
        answered = [r for r in found if r.status_code == 200]
        refused = [r for r in found if r.status_code == 503]
        assert (len(answered), len(refused)) == (4, 36)
        assert {r.headers["retry-after"] for r in refused} == {"1"}
        assert client.post("/v1/churn", json=ONE).status_code == 200, "afterwards there is room again"


@pytest.mark.usefixtures("own_redis")
def test_a_redis_that_hangs_keeps_no_call_past_its_deadline_and_health_answers_meanwhile(
    serve: Callable[..., Any], street: Street, keys: dict[Scope, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.infra.redis.connection._IMPATIENT_S", 0.25)
    monkeypatch.setattr("aap.security.rate_limit._ASKED_S", 0.5)
    monkeypatch.setattr("aap.serving.http.health._ASKED_S", 1.0)
    long = 20.0  # who has patience would wait for Redis for thirty seconds or more
    pid = status(street.settings).pid
    assert pid is not None
    choice = {"user_id": "u-17", "purpose": "marketing.retention", "choice": "grant"}
    consent = {"Authorization": f"Bearer {keys[Scope.CONSENT]}"}

    async def call_all(base: httpx.Client) -> list[tuple[int, float]]:
        async with httpx.AsyncClient(base_url=base.base_url, headers=base.headers, timeout=PATIENCE_S) as many:

            async def timed(method: str, path: str, **options: Any) -> tuple[int, float]:
                began = time.monotonic()
                response = await many.request(method, path, **options)
                return response.status_code, time.monotonic() - began

            asked = [timed("POST", "/v1/churn", json=ONE) for _ in range(30)]
            said = [timed("POST", "/v1/consent", json=choice, headers=consent) for _ in range(50)]
            calls = asyncio.gather(*asked, *said)
            await asyncio.sleep(1.0)
            for _ in range(3):
                for path, status in (("/livez", 200), ("/readyz", 503), ("/metrics", 200)):
                    found, seconds = await timed("GET", path)
                    assert found == status, path
                    assert seconds < long, f"{path} answers while calls wait"
            return await calls

    with serve(deadline_s=2.0) as client:
        until(lambda: client.post("/v1/churn", json=ONE).status_code == 200)  # a busy machine may miss a deadline
        until(lambda: client.post("/v1/consent", json=choice, headers=consent).status_code == 200)
        time.sleep(1.1)  # until the leases have ended
        os.kill(pid, signal.SIGSTOP)
        try:
            found = asyncio.run(call_all(client))
        finally:
            os.kill(pid, signal.SIGCONT)
        assert {code for code, _ in found} <= {200, 503}
        assert max(seconds for _, seconds in found) < long
        until(lambda: client.post("/v1/consent", json=choice, headers=consent).status_code == 200)
        until(lambda: client.post("/v1/churn", json=ONE).status_code == 200)
        until(lambda: client.get("/readyz").status_code == 200)


def test_an_answer_that_takes_too_long_is_given_up(
    serve: Callable[..., Any], street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, go_on = street.shelves.online_vectors, threading.Event()

    def slowly(*args: Any, **options: Any) -> Any:
        go_on.wait(PATIENCE_S)
        return answer(*args, **options)

    with serve(deadline_s=2.0, rate_limit=0) as client:  # time enough for the body to arrive
        monkeypatch.setattr(street.shelves, "online_vectors", slowly)
        response = client.post("/v1/recommendations", json=ONE)
        go_on.set()
        assert response.status_code == 503
        assert "longer than a call may take" in response.json()["error"]


def test_a_body_that_trickles_in_is_not_waited_for(serve: Callable[..., Any]) -> None:
    with serve(deadline_s=1.0) as client:
        assert client.base_url.port is not None
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=PATIENCE_S) as slow:
            head = f"POST /v1/churn HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['authorization']}\r\n"
            slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 22\r\n\r\n{{".encode())
            assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        until(lambda: client.post("/v1/churn", json=ONE).status_code == 200)


def test_a_length_that_is_too_large_is_refused_before_anything_is_read(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=PATIENCE_S) as caller:
        head = f"POST /v1/churn HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['authorization']}\r\n"
        caller.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n".encode())
        assert caller.recv(4096).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("chunked", [False, True])
def test_many_of_the_largest_bodies_at_once_fill_a_bounded_room_and_leave_it(
    serve: Callable[..., Any], chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Place] = []

    def inside(door: Door) -> Place:
        places.append(Place(door))
        return places[-1]

    monkeypatch.setattr(Door, "inside", inside)
    body = b'{"user_ids": [' + b",".join(b'"' + b"\\u00e9" * 252 + b'%04d"' % i for i in range(1_000)) + b"]}"
    assert 1_500_000 < len(body) < 1_600_000, "as much as a call may have"
    how = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body

    async def call(client: httpx.Client, answers: list[asyncio.Future[bytes]]) -> int:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        try:
            head = (
                f"POST /v1/churn HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['authorization']}\r\n{how}\r\n"
            )
            writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + sent[:-10])
            answer = asyncio.ensure_future(reader.readline())
            answers.append(answer)
            # Each is refused, or there but for its end, before the rest of any is sent.
            while sum(one.done() for one in answers) + sum(one.held >= len(body) - 10 for one in places) < 60:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            while writer.transport.get_write_buffer_size() and not answer.done():  # type: ignore[attr-defined] # noqa: ASYNC110
                await asyncio.sleep(0.05)
            writer.write(sent[-10:])
            return int((await answer).split()[1])
        finally:
            writer.close()

    async def flood(client: httpx.Client) -> Counter[int]:
        places.clear()
        answers: list[asyncio.Future[bytes]] = []
        calls = asyncio.gather(*(call(client, answers) for _ in range(60)))
        while not calls.done():
            memory.append(psutil.Process().memory_info().rss)
            await asyncio.sleep(0.01)
        return Counter(await calls)

    with serve(max_users_per_call=1_000, rate_limit=0, deadline_s=PATIENCE_S) as client:
        assert client.post("/v1/churn", json=ONE).status_code == 200
        memory = [psutil.Process().memory_info().rss]
        for _ in range(2):
            found = asyncio.run(flood(client))
            assert found[200] + found[503] == 60
            assert found[200] == 22 or (chunked and 0 < found[200] < 22), "32 MB, each time anew"
        grown = (max(memory) - memory[0]) / 2**20
        assert grown < 200, f"{grown:.0f} MB, for 60 bodies of 1.5 MB twice and what they are decoded to"


def test_a_body_keeps_its_room_until_its_call_is_answered(
    serve: Callable[..., Any], street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.serving.http.gateway._MOST_BYTES_INSIDE", 100_000)
    begun, go_on, answer = threading.Event(), threading.Event(), street.shelves.online_vectors

    def slowly(*args: Any, **options: Any) -> Any:
        begun.set()
        go_on.wait(PATIENCE_S)
        return answer(*args, **options)

    large = json.dumps(ONE).encode() + b" " * 60_000
    options: dict[str, Any] = {"content": large, "headers": {"Content-Type": "application/json"}}
    with serve(deadline_s=PATIENCE_S) as client, ThreadPoolExecutor(1) as other:
        street.shelves.online_vectors = slowly  # type: ignore[method-assign]
        first = other.submit(client.post, "/v1/recommendations", **options)
        assert begun.wait(PATIENCE_S), "the first is being answered"
        refused = client.post("/v1/churn", **options)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "fill their room" in refused.json()["error"]
        go_on.set()
        assert first.result(PATIENCE_S).status_code == 200
        assert client.post("/v1/churn", **options).status_code == 200


@pytest.mark.parametrize(
    "body", [b"[" * 20_000, b'{"user_ids": ' + b'{"a":' * 9_000, b'{"events": [' + b'{"a":' * 9_000]
)
def test_deep_nesting_is_refused(client: httpx.Client, keys: dict[Scope, str], body: bytes) -> None:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {keys[Scope.ADMIN]}"}
    for path in ("/v1/churn", "/v1/events", "/v1/score"):
        response = client.post(path, content=body, headers=headers)
        assert response.status_code in (400, 413, 422)
        assert set(response.json()) == {"error"}


@pytest.mark.parametrize(
    "path", ["/docs/..%2f..%2fetc%2fpasswd", "/docs/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/docs/.env"]
)
def test_no_path_leads_out_of_the_pages(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert "root:" not in response.text


@pytest.fixture(params=[False, True], ids=["plain", "json"])
def log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """All that is logged from INFO on, as the service writes it."""
    written, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(written), root.level
    handler.setFormatter(line_formatter(as_json=request.param))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def test_what_a_caller_sends_cannot_forge_a_line_of_the_log(
    client: httpx.Client, keys: dict[Scope, str], log: io.StringIO, platform: Platform, street: Street
) -> None:
    forged = 'u-17"}\r\n2026-01-01 ERROR everything is lost'
    admin = {"Authorization": f"Bearer {keys[Scope.ADMIN]}"}
    choice = {"user_id": forged, "purpose": "marketing.retention", "choice": "grant"}
    event = {"source": "shop", "id": forged, "type": "product_viewed", "user_id": forged}
    event |= {"occurred_at": street.settings.now().isoformat(), "properties": {"item_id": forged}}
    accepted = [
        client.post("/v1/churn", json={"user_ids": [forged]}),
        client.post("/v1/recommendations", json={"user_ids": [forged], "context": {"basket": [forged]}}),
        client.post("/v1/consent", json=choice, headers=admin),
        client.post("/v1/consent/receipts", json={"user_id": forged}, headers=admin),
        client.post("/v1/events", json={"events": [event, {**event, "type": forged}]}, headers=admin),
    ]
    assert [r.status_code for r in accepted] == [200] * 5
    client.post("/v1/consent", json={**choice, "purpose": forged}, headers=admin)
    client.post("/v1/churn", json=ONE, headers={"Content-Type": "text/x; everything is lost"})
    client.get("/everything%20is%20lost%0d%0a2026-01-01", headers={"User-Agent": "everything is lost"})
    street.shelves.online_vectors = _break  # type: ignore[method-assign]
    assert client.post("/v1/churn", json={"user_ids": [forged]}).status_code == 500
    platform.audit.flush()
    written = log.getvalue() + "".join(f.read_text() for f in platform.layout.audit.glob("*.jsonl"))
    assert "A call failed unforeseen" in written, "lines are written"
    for said in ("everything is lost", "u-17", street.key(forged)):
        assert said not in written
    assert not [line for line in written.splitlines() if line.startswith("2026-01-01")]


def _break(keys: Any, *_args: Any, **_options: Any) -> Any:
    raise RuntimeError(f"the secret of u-17: everything is lost, {keys}")


def test_many_calls_without_a_good_key_are_told_to_stay_away_and_a_good_key_is_let_in_all_the_same(
    client: httpx.Client, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(auth_throttle, "time", SimpleNamespace(monotonic=lambda: now[0]))
    wrong = [{"Authorization": ""}, {"Authorization": "Bearer aap_wrong"}, {"Authorization": f"Bearer aap_{'x' * 43}"}]
    found = [client.post("/v1/churn", json=ONE, headers=wrong[i % 3]) for i in range(110)]
    assert [r.status_code for r in found] == [401] * 100 + [429] * 10
    assert 1 <= int(found[-1].headers["retry-after"]) <= 60
    assert client.get("/nowhere", headers=wrong[0]).status_code == 429
    assert client.post("/v1/churn", json=ONE).status_code == 200, "from the very same address"
    platform.audit.flush()
    entries = [e for e in read_audit(platform.layout.audit, days=1) if e["by"] == "no valid key"]
    assert sum(e["count"] for e in entries) == 100
    written = "".join(f.read_text() for f in platform.layout.audit.glob("*.jsonl"))
    assert "127.0.0.1" not in written + client.get("/metrics").text
    now[0] += 61
    assert client.post("/v1/churn", json=ONE, headers=wrong[1]).status_code == 401, "a minute later it is looked at"


def test_what_was_refused_and_what_was_chosen_is_in_the_audit_log_and_names_nobody(
    client: httpx.Client, street: Street, platform: Platform, keys: dict[Scope, str]
) -> None:
    known = {k.name: k.id for k in ApiKeys(Layout(street.settings.home).api_keys).list()}
    body = {"user_id": "u-17", "purpose": "marketing.retention", "choice": "withdraw"}
    client.post("/v1/consent", json=body, headers={"Authorization": f"Bearer {keys[Scope.CONSENT]}"})
    client.post("/v1/consent", json=body)
    client.post("/v1/churn", json=ONE, headers={"Authorization": "Bearer aap_guess"})
    platform.audit.flush()
    found = {(e["action"], e["by"], e["outcome"]) for e in read_audit(platform.layout.audit, days=1)}
    assert found == {
        ("withdraw marketing.retention", known["consent"], "done"),
        ("use scope consent", known["predict"], "refused"),
        ("call", "no valid key", "refused"),
    }
    written = "".join(f.read_text() for f in platform.layout.audit.glob("*.jsonl"))
    assert "u-17" not in written
    assert street.key("u-17") not in written


def test_every_read_of_a_person_is_in_the_audit_log_by_key_and_purpose(
    client: httpx.Client, street: Street, platform: Platform, choose: Callable[..., None]
) -> None:
    known = {k.name: k.id for k in ApiKeys(Layout(street.settings.home).api_keys).list()}
    choose("yes", Purpose.MARKETING_RETENTION)
    choose("too", Purpose.MARKETING_RETENTION)
    street.shelves.rows = {street.key(u): [40.0, 1.0] for u in ("yes", "too", "no")}
    for _ in range(3):
        client.post("/v1/churn", json={"user_ids": ["yes", "no", "too"]})
    part = {"endpoint": "churn", "user_ids": ["yes"]}
    client.post("/v1/score", json={"requests": [part, part]})
    platform.audit.flush()
    entries = [e for e in read_audit(platform.layout.audit, days=1) if e["action"].startswith("read")]
    assert {(e["action"], e["by"]) for e in entries} == {("read for churn, marketing.retention", known["predict"])}
    assert sum(e["count"] for e in entries) == 3 * 2 + 2, "one for each person answered from their data"
    found = {who: {e["by"] for e in reads_of(platform.layout.audit, street.key(who))} for who in ("yes", "too", "no")}
    assert found == {"yes": {known["predict"]}, "too": {known["predict"]}, "no": set()}
    written = b"".join(f.read_bytes() for f in platform.layout.audit.glob("*.jsonl"))
    assert not [who for who in ("yes", "too") if street.key(who).encode() in written]
    assert verify_audit(platform.layout.audit).problems == ()
