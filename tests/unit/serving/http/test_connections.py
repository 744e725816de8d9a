"""Connections: slow senders, endless heads, slow readers and crowds, each with real sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from aap.security.api_keys import Scope
from aap.serving.http.connections import Connection

ONE = {"user_ids": ["u-17"]}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aap.serving.http.connections._LOOK_S", 0.05)
    monkeypatch.setattr("aap.serving.http.connections._HEAD_S", 0.4)


def connected(client: httpx.Client, **options: int) -> socket.socket:
    made = socket.socket()
    for name, value in options.items():
        made.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    made.settimeout(10)
    made.connect((client.base_url.host, client.base_url.port or 80))
    return made


def request(key: str, body: bytes = json.dumps(ONE).encode()) -> bytes:
    head = f"POST /v1/churn HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def is_closed(one: socket.socket, *, within: float) -> bool:
    """Whether the server ends the connection by then, whatever it says before."""
    one.settimeout(within)
    try:
        while one.recv(65_536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST", b"POST /v1/churn HTTP/1.1\r\nHost: x\r\nX-API", b"\r\n"],
    ids=["nothing", "line", "half", "-"],
)
def test_a_head_that_never_ends_is_not_waited_for(client: httpx.Client, begun: bytes) -> None:
    with connected(client) as slow:
        slow.sendall(begun)
        assert is_closed(slow, within=3.0)
    assert client.post("/v1/churn", json=ONE).status_code == 200


@pytest.mark.parametrize("trickled", [b"\r\n", b"X: y\r\n"], ids=["empty lines", "headers"])
def test_a_head_that_trickles_in_is_not_waited_for_either_also_after_a_call(
    client: httpx.Client, keys: dict[Scope, str], trickled: bytes
) -> None:
    with connected(client) as slow:
        slow.sendall(request(keys[Scope.PREDICT]))
        assert slow.recv(65_536).startswith(b"HTTP/1.1 200")
        slow.sendall(b"GET /livez HTTP/1.1\r\n" if trickled.startswith(b"X") else b"\r\n")
        began, ended = time.monotonic(), False
        while not ended and time.monotonic() - began < 5.0:
            try:
                slow.sendall(trickled)
            except ConnectionError:
                ended = True
            time.sleep(0.05)
        assert ended


def test_a_connection_that_is_used_again_and_again_stays(client: httpx.Client, keys: dict[Scope, str]) -> None:
    with connected(client) as one:
        for _ in range(12):
            one.sendall(request(keys[Scope.PREDICT]))
            assert one.recv(65_536).startswith(b"HTTP/1.1 200")
            time.sleep(0.1)


def test_a_head_that_is_too_long_is_refused(client: httpx.Client) -> None:
    with connected(client) as caller:
        caller.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 70_000)
        assert caller.recv(4096).startswith(b"HTTP/1.1 431")
    assert client.get("/livez", headers={"X-Long": "y" * 20_000}).status_code == 200


@pytest.fixture
def much(serve: Callable[..., Any], keys: dict[Scope, str], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, bytes]:
    """A service whose kernel buffers little, and a call with an answer of 0.2 MB."""
    made = Connection.connection_made

    def connection_made(self: Connection, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", connection_made)
    body = json.dumps({"user_ids": [str(i) for i in range(1_000)]}).encode()
    return serve(max_users_per_call=1_000, rate_limit=0), request(keys[Scope.PREDICT], body)


def test_a_client_that_does_not_read_its_answers_is_cut_off(
    much: tuple[Any, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.serving.http.connections._READ_S", 0.5)
    serving, call = much
    with serving as client, connected(client, SO_RCVBUF=4_096) as deaf:
        deaf.sendall(call)
        time.sleep(2.0)
        assert not got_all(deaf)
        with connected(client, SO_RCVBUF=4_096) as attentive:
            attentive.sendall(call)
            assert got_all(attentive)
        assert client.post("/v1/churn", json=ONE).status_code == 200


def test_answers_that_nobody_reads_take_bounded_memory_and_who_reads_longest_gives_way(
    much: tuple[Any, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.serving.http.connections._MOST_UNREAD", 2**20)
    serving, call = much
    with serving as client:
        deaf = []
        for _ in range(12):
            deaf.append(connected(client, SO_RCVBUF=4_096))
            deaf[-1].sendall(call)
            time.sleep(0.2)
        found = [got_all(one) for one in deaf]
        assert found[-3:] == [True] * 3, "the last ones have room"
        assert found == [False] * (12 - sum(found)) + [True] * sum(found), "who was slow first was cut off first"
        assert not found[0]
        assert client.post("/v1/churn", json=ONE).status_code == 200
        for one in deaf:
            one.close()


def test_a_crowd_that_says_nothing_makes_way_for_who_asks(
    client: httpx.Client, keys: dict[Scope, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.serving.http.connections._HEAD_S", 60.0)
    monkeypatch.setattr("aap.serving.http.connections._MOST", 8)
    with connected(client) as busy:
        busy.sendall(request(keys[Scope.PREDICT]))
        assert busy.recv(65_536).startswith(b"HTTP/1.1 200")
        crowd = [connected(client) for _ in range(20)]
        assert client.post("/v1/churn", json=ONE).status_code == 200
        assert 12 <= sum(is_closed(one, within=0.05) for one in crowd) <= 14
        busy.sendall(request(keys[Scope.PREDICT]))
        assert busy.recv(65_536).startswith(b"HTTP/1.1 200"), "who is being answered stays"
    for one in crowd:
        one.close()


def got_all(one: socket.socket) -> bool:
    """Whether the answer, read at last, is there to its end."""
    one.settimeout(5)
    answer = b""
    try:
        while not answer.endswith(b"]}"):
            more = one.recv(65_536)
            if not more:
                return False
            answer += more
    except ConnectionError:
        return False
    return True
