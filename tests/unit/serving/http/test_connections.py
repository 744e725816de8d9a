"""Connections: slow senders, endless heads, slow readers and crowds, each with real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from aap.security.api_keys import Scope
from aap.serving.http.connections import Connection
from tests.waiting import PATIENCE_S, until

ONE = {"user_ids": ["u-17"]}


class Clock:
    """The time as connections take it: it stands still until a test says how much of it passes."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.looks = 0
        """How often a connection was looked at."""
        self.made: list[Connection] = []
        """All connections, in the order in which they came."""
        self.unread: set[Connection] = set()
        """Those whose client once didn't read as fast as it was written to."""

    def look(self) -> None:
        """Have every connection there is be looked at."""
        seen = self.looks
        until(lambda: self.looks >= seen + 2 * len(self.made))


class TimedLoop:
    """The event loop that a connection runs in, by another clock."""

    def __init__(self, loop: Any, clock: Clock) -> None:
        self._loop, self._clock = loop, clock

    def time(self) -> float:
        return self._clock.now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all connections, each of which is looked at twenty times a second."""
    clock, init, look, pause = Clock(), Connection.__init__, Connection._look, Connection.pause_writing

    def made(self: Connection, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self.loop = TimedLoop(self.loop, clock)  # type: ignore[assignment]
        clock.made.append(self)

    def looked(self: Connection) -> None:
        clock.looks += 1
        look(self)

    def paused(self: Connection) -> None:
        pause(self)
        clock.unread.add(self)

    monkeypatch.setattr(Connection, "__init__", made)
    monkeypatch.setattr(Connection, "_look", looked)
    monkeypatch.setattr(Connection, "pause_writing", paused)
    monkeypatch.setattr("aap.serving.http.connections._LOOK_S", 0.05)
    return clock


def connected(client: httpx.Client, **options: int) -> socket.socket:
    made = socket.socket()
    for name, value in options.items():
        made.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    made.settimeout(PATIENCE_S)
    made.connect((client.base_url.host, client.base_url.port or 80))
    return made


def request(key: str, body: bytes = json.dumps(ONE).encode()) -> bytes:
    head = f"POST /v1/churn HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def answer(one: socket.socket) -> bytes:
    """A whole answer: head and body may come one after the other."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += some_more(one)
    head, _, body = found.partition(b"\r\n\r\n")
    (length,) = (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += some_more(one)
    return head + b"\r\n\r\n" + body


def some_more(one: socket.socket) -> bytes:
    more = one.recv(65_536)
    assert more, "the connection was closed"
    return more


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
def test_a_head_that_never_ends_is_not_waited_for(client: httpx.Client, clock: Clock, begun: bytes) -> None:
    with connected(client) as slow:
        slow.sendall(begun)
        until(lambda: clock.made)
        clock.look()
        clock.now += 9.5
        clock.look()
        assert not is_closed(slow, within=0.1)
        clock.now += 1.0
        assert is_closed(slow, within=PATIENCE_S)
    assert client.post("/v1/churn", json=ONE).status_code == 200


@pytest.mark.parametrize("trickled", [b"\r\n", b"X: y\r\n"], ids=["empty lines", "headers"])
def test_a_head_that_trickles_in_is_not_waited_for_either_also_after_a_call(
    client: httpx.Client, keys: dict[Scope, str], clock: Clock, trickled: bytes
) -> None:
    with connected(client) as slow:
        slow.sendall(request(keys[Scope.PREDICT]))
        assert answer(slow).startswith(b"HTTP/1.1 200")
        slow.sendall(b"GET /livez HTTP/1.1\r\n" if trickled.startswith(b"X") else b"\r\n")

        def ended() -> bool:
            clock.now += 0.5
            try:
                slow.sendall(trickled)
            except ConnectionError:
                return True
            return False

        until(ended)
        assert clock.now > 1_010.0


def test_a_connection_that_is_used_again_and_again_stays(
    client: httpx.Client, keys: dict[Scope, str], clock: Clock
) -> None:
    with connected(client) as one:
        for _ in range(12):
            one.sendall(request(keys[Scope.PREDICT]))
            assert answer(one).startswith(b"HTTP/1.1 200")
            clock.now += 4.0
            clock.look()


def test_a_head_that_is_too_long_is_refused(client: httpx.Client) -> None:
    with connected(client) as caller:
        head = b"GET /livez HTTP/1.1\r\nHost: x\r\nX: "
        # One byte more than there may be: what is not read when a connection is closed can take the answer with it.
        caller.sendall(head + b"y" * (65_537 - len(head)))
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


def test_a_client_that_does_not_read_its_answers_is_cut_off(much: tuple[Any, bytes], clock: Clock) -> None:
    serving, call = much
    with serving as client, connected(client, SO_RCVBUF=4_096) as deaf:
        deaf.sendall(call)
        until(lambda: clock.unread)
        (unread,) = clock.unread
        clock.now += 29.0
        clock.look()
        assert not unread.transport.is_closing()
        clock.now += 2.0
        until(unread.transport.is_closing)
        assert not got_all(deaf)
        with connected(client, SO_RCVBUF=4_096) as attentive:
            attentive.sendall(call)
            assert got_all(attentive)
        assert client.post("/v1/churn", json=ONE).status_code == 200


def test_answers_that_nobody_reads_take_bounded_memory_and_who_reads_longest_gives_way(
    much: tuple[Any, bytes], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.serving.http.connections._MOST_UNREAD", 2**20)
    serving, call = much
    with serving as client:
        deaf = []
        for number in range(12):
            clock.now += 0.2
            deaf.append(connected(client, SO_RCVBUF=4_096))
            deaf[-1].sendall(call)
            until(lambda asked=number + 1: len(clock.unread) == asked)
        until(lambda: sum(one.transport.get_write_buffer_size() for one in clock.made) <= 2**20)
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
    monkeypatch.setattr("aap.serving.http.connections._MOST", 8)
    with connected(client) as busy:
        busy.sendall(request(keys[Scope.PREDICT]))
        assert answer(busy).startswith(b"HTTP/1.1 200")
        crowd = [connected(client) for _ in range(20)]
        assert client.post("/v1/churn", json=ONE).status_code == 200
        assert 12 <= sum(is_closed(one, within=0.05) for one in crowd) <= 14
        busy.sendall(request(keys[Scope.PREDICT]))
        assert answer(busy).startswith(b"HTTP/1.1 200"), "who is being answered stays"
    for one in crowd:
        one.close()


def got_all(one: socket.socket) -> bool:
    """Whether the answer, read at last, is there to its end."""
    found = b""
    try:
        while not found.endswith(b"]}"):
            more = one.recv(65_536)
            if not more:
                return False
            found += more
    except ConnectionError:
        return False
    return True
