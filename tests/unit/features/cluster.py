"""A Redis Cluster of three local servers, made by hand: no replicas, each with a third of the slots."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from aap.infra.process import detached
from tests.waiting import until

NODES, SLOTS = 3, 16_384


@contextlib.contextmanager
def three_nodes(folder: Path) -> Iterator[str]:
    """The URL of one of them, once all agree that the cluster is whole."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on this machine: install the package redis-server")
    ports, buses = ([detached.free_port() for _ in range(NODES)] for _ in range(2))
    with contextlib.ExitStack() as stack:
        for port, bus in zip(ports, buses, strict=True):
            home = folder / f"node-{port}"
            home.mkdir(parents=True)
            process = detached.spawn([program, *_options(port, bus)], log=home / "server.log", cwd=home)
            stack.callback(detached.terminate, process, timeout_s=10.0)
        nodes = [stack.enter_context(redis.Redis(port=port)) for port in ports]
        until(lambda: all(_answers(node) for node in nodes))
        for number, node in enumerate(nodes):
            node.execute_command("CLUSTER ADDSLOTSRANGE", SLOTS * number // NODES, SLOTS * (number + 1) // NODES - 1)
            node.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for port, bus in zip(ports[1:], buses[1:], strict=True):
            nodes[0].execute_command("CLUSTER MEET", "127.0.0.1", port, bus)
        until(lambda: all(_is_whole(node) for node in nodes))
        yield f"redis://127.0.0.1:{ports[0]}"


def _options(port: int, bus: int) -> list[str]:
    options = {
        "port": port, "cluster-port": bus, "bind": "127.0.0.1", "save": "", "appendonly": "no",
        "cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-node-timeout": 30_000,
    }  # fmt: skip
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _answers(node: redis.Redis) -> bool:
    try:
        return bool(node.ping())
    except redis.exceptions.ConnectionError:
        return False


def _is_whole(node: redis.Redis) -> bool:
    told = node.execute_command("CLUSTER INFO")
    text = told if isinstance(told, dict) else dict(line.split(":") for line in told.decode().split())
    return text["cluster_state"] == "ok" and int(text["cluster_known_nodes"]) == NODES
