"""Lua scripts in Redis: what must happen in one step. On a cluster the keys of one call share a slot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import redis
from redis.cluster import RedisCluster

__all__ = ["Call", "is_cluster", "run", "slot_of"]

Call = tuple[Sequence[str], Sequence[bytes | int | str]]
"""The keys and the arguments of one run of a script."""


def is_cluster(client: redis.Redis) -> bool:
    """Whether `client` speaks to a Redis Cluster."""
    return isinstance(client, RedisCluster)


def slot_of(client: redis.Redis, key: str) -> int:
    """The slot of `key`; on one server every key has the same, 0."""
    return int(cast(RedisCluster, client).keyslot(key)) if is_cluster(client) else 0


def run(client: redis.Redis, script: str, calls: Iterable[Call]) -> list[Any]:
    """Run `script` for each of `calls` in one round trip a server; the answers come in the order of the calls.

    A script that the server has forgotten, because it was restarted, is loaded again. redis-py has no way to do that in
    a cluster's pipeline, so there the text goes along with each call.
    """
    pipe = client.pipeline(transaction=False)
    loaded = None if is_cluster(client) else client.register_script(script)
    for keys, args in calls:
        if loaded is None:
            pipe.execute_command("EVAL", script, len(keys), *keys, *args)
        else:
            loaded(keys=keys, args=args, client=pipe)
    answers: list[Any] = pipe.execute()
    return answers
