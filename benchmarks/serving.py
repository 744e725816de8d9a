"""`aap bench serve`: what an answer costs beside no-ops in the same stack, a bare one, and MLflow's own server.

Every contender runs in a process of its own and they take turns, with 1 and with 16 connections. Churn is asked with
features from Redis, consent, an experiment on its version, key, rate limit, metrics and record, and MLflow's server is
given the very features that ours has to look up, and the same trees. Processor time of the servers is measured too: on
a busy machine it says more than the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from aap.config import Settings
from aap.infra.process.detached import free_port
from aap.infra.redis.connection import connect
from aap.modeling.registry.registry import open_registry
from benchmarks.support.environment import describe, percentile_ms
from benchmarks.support.load_generator import Connection, Figures, Target, json_body, measure, run_loop
from benchmarks.support.synthetic_shop import Served, served, trained_shop

__all__ = ["ServeReport", "Soak", "run"]

_CONNECTIONS = (1, 16)
_START_S = 120.0
_SOAK_S = 60.0
_FIGURES = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Soak:
    """Half of the top load for a while: latencies, and the memory of the server before and after.

    `stolen` is the share (0 to 1) of the machine's processor time that others on the same hardware took meanwhile: no
    program can answer in it.
    """

    rps: float
    requests: int
    p50_ms: float
    p99_ms: float
    rss_start_mb: float
    rss_end_mb: float
    stolen: float


@dataclass(frozen=True, slots=True)
class ServeReport:
    """Latencies, answers a second and processor time a request, by contender and number of connections."""

    machine: str
    contenders: dict[str, _FIGURES]
    soak: dict[str, Soak]
    """Of churn and of the no-ops, each at half of its own top load, and each alone; empty unless asked for."""
    workers: int = 1
    """Processes that answered, of ours and of MLflow's; each no-op had one."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        soak = {"soak": {name: asdict(one) for name, one in self.soak.items()}} if self.soak else {}
        return {**self.contenders, **soak, "workers": self.workers, "machine": self.machine}


def run(*, rounds: int = 5, requests: int = 400, soak: int = 0, workers: int = 1, customers: int = 300) -> ServeReport:
    """Measure; about three minutes. `requests` is what each contender answers a round on one connection.

    With `soak`, churn and the no-ops then answer for a minute at half of their top load, and churn at least so many calls.
    `workers` processes answer, of ours and of MLflow's.
    """
    with trained_shop(customers=customers) as settings:
        limits = {
            "AAP_RATE_LIMIT": "1000000000",
            "AAP_WORKERS": str(workers),
            "AAP_SETTINGS_DIR": str(_experiment_on_churn(settings)),
        }

        def ours() -> AbstractContextManager[Served]:
            return served(settings, customers=customers, **limits)

        noops: dict[str, Callable[[Path], AbstractContextManager[Target]]] = {
            "mounted_noop": partial(_mounted_noop, name="Noop"),
            "straight_noop": partial(_mounted_noop, name="StraightNoop"),
            "fastapi_noop": _bare_noop,
        }
        with ExitStack() as running:
            targets = _ours(running.enter_context(ours()))
            targets |= {name: running.enter_context(start(settings.home)) for name, start in noops.items()}
            targets["mlflow"] = running.enter_context(_mlflow(settings, workers=workers))
            with connect(settings) as client:
                machine = describe(client)
            contenders = run_loop(lambda: _take_turns(targets, rounds=rounds, requests=requests))
        soaked: dict[str, Soak] = {}
        if soak:
            with ours() as service:
                soaked["churn"] = _soaked(_ours(service)["churn"], contenders["churn"], fewest=soak)
            for name, start in noops.items():
                with start(settings.home) as target:
                    soaked[name] = _soaked(target, contenders[name])
        return ServeReport(machine, contenders, soaked, workers)


def _experiment_on_churn(settings: Settings) -> Path:
    """Settings under which everybody asked about churn is in an experiment: the champion against itself, loaded twice."""
    registry = open_registry(settings)
    champion = registry.champion("churn")
    assert champion is not None
    registry.challenge("churn", champion.version)
    folder = settings.home / "settings"
    shutil.copytree(settings.settings_dir, folder)
    flags = json.loads((folder / "flags.json").read_text())
    flags["flags"]["churn_version"] = {
        "state": "ENABLED",
        "variants": {"champion": "champion", "challenger": "challenger"},
        "defaultVariant": "champion",
        "targeting": {"fractional": [["champion", 50], ["challenger", 50]]},
    }
    (folder / "flags.json").write_text(json.dumps(flags))
    return folder


def _ours(service: Served) -> dict[str, Target]:
    def target(path: str, body: Any) -> Target:
        return Target(service.port, path, json_body(body), service.process, service.headers)

    hundred = [f"c{i}" for i in range(100)]
    return {
        "churn": target("/v1/churn", {"user_ids": ["c7"]}),
        "churn_100_users": target("/v1/churn", {"user_ids": hundred}),
        "recommendations": target("/v1/recommendations", {"user_ids": ["c7"], "n": 10}),
    }


async def _take_turns(targets: dict[str, Target], *, rounds: int, requests: int) -> dict[str, _FIGURES]:
    figures = {(name, c): Figures() for name in targets for c in _CONNECTIONS}
    for turn in range(rounds + 1):
        for (name, connections), found in figures.items():
            dear = name in ("mlflow", "churn_100_users")
            count = (requests if connections == 1 else 4 * requests) // (4 if dear else 1)
            # The first turn warms every contender up and isn't counted.
            into, many = (found, count) if turn else (Figures(), max(50, count // 4))
            await measure(targets[name], into, connections=connections, count=many)
    for (name, _), found in figures.items():
        if found.failed:
            raise RuntimeError(f"{name} failed {found.failed:,} calls: what is compared has to answer.")
    return {name: {f"c{c}": figures[name, c].to_dict() for c in _CONNECTIONS} for name in targets}


def _soaked(target: Target, found: _FIGURES, *, fewest: int = 0) -> Soak:
    """What `target` does at half of the load it was `found` to bear, once warm."""
    rate = found["c16"]["rps"] / 2
    run_loop(lambda: measure(target, Figures(), connections=16, count=2_000))
    return run_loop(lambda: _soak(target, requests=max(fewest, round(_SOAK_S * rate)), rate=rate))


async def _soak(target: Target, *, requests: int, rate: float, connections: int = 16) -> Soak:
    """Requests at an even pace, each timed from when it was due, so that a stall counts for all that wait behind it."""
    assert target.process is not None
    request, taken, before, machine = target.request(), iter(range(requests)), _memory_mb(target.process), _ticks()
    seconds: list[float] = []
    start = time.perf_counter()

    async def one() -> None:
        connection = Connection(target.port)
        for number in taken:
            due = start + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            status, _ = await connection.ask(request)
            if status != 200:
                raise RuntimeError(f"A call was answered with {status}: what is compared has to answer.")
            seconds.append(time.perf_counter() - due)
        await connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    p50, p99 = (percentile_ms(seconds, q) for q in (50, 99))
    (all_before, stolen_before), (all_after, stolen_after) = machine, _ticks()
    stolen = round((stolen_after - stolen_before) / (all_after - all_before), 4)
    return Soak(round(rate, 1), requests, p50, p99, before, _memory_mb(target.process), stolen)


def _ticks() -> tuple[float, float]:
    """Processor seconds of the whole machine so far, idle ones too, and those taken by others on the same hardware."""
    times = psutil.cpu_times()
    return sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0), getattr(times, "steal", 0.0)


def _memory_mb(process: psutil.Process) -> float:
    return round(sum(p.memory_info().rss for p in (process, *process.children(recursive=True))) / 2**20, 1)


@contextmanager
def _mounted_noop(folder: Path, *, name: str) -> Iterator[Target]:
    port = free_port()
    root = str(Path(__file__).parents[1])
    words = ("-m", "bentoml", "serve", "--quiet", f"benchmarks.support.noop_service:{name}", "--working-dir", root)
    with _server([*words, "--host", "127.0.0.1", "--port", str(port)], folder=folder, port=port) as process:
        yield Target(port, "/noop", json_body({"user_ids": ["c7"]}), process)


@contextmanager
def _bare_noop(folder: Path) -> Iterator[Target]:
    port = free_port()
    words = (
        "-m",
        "uvicorn",
        "benchmarks.support.noop_service:app",
        "--no-access-log",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    )
    with _server(words, folder=folder, port=port) as process:
        yield Target(port, "/noop", json_body({"user_ids": ["c7"]}), process)


@contextmanager
def _mlflow(settings: Settings, *, workers: int) -> Iterator[Target]:
    """`mlflow models serve` on the champion's trees, asked with one row of features."""
    import mlflow.xgboost

    registry = open_registry(settings)
    champion = registry.champion("churn")
    assert champion is not None
    model: Any = registry.load(champion)
    place = settings.home / "mlflow-churn"
    mlflow.xgboost.save_model(model.booster, str(place), model_format="ubj")
    columns = model.booster.feature_names  # wider than the features: what is worked out of them is not MLflow's to do
    row = np.linspace(0.0, 5.0, len(columns)).tolist()
    body = json_body({"dataframe_split": {"columns": columns, "data": [row]}})
    port = free_port()
    words = ("-m", "mlflow", "models", "serve", "-m", str(place), "--env-manager", "local", "--workers", str(workers))
    with _server([*words, "--host", "127.0.0.1", "--port", str(port)], folder=settings.home, port=port) as process:
        yield Target(port, "/invocations", body, process)


@contextmanager
def _server(words: Sequence[str], *, folder: Path, port: int) -> Iterator[psutil.Process]:
    import socket

    # MLflow looks for uvicorn on the path, where it isn't unless the environment is activated.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = {**os.environ, "PATH": path, "BENTOML_HOME": str(folder / "bentoml"), "OMP_NUM_THREADS": "1"}
    with (folder / "peers.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *words], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"A peer did not start: {(folder / 'peers.log').read_text()[-500:]}") from None
                time.sleep(0.2)
        yield psutil.Process(process.pid)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
            for child in psutil.Process(process.pid).children(recursive=True):
                child.terminate()
        process.terminate()
        process.wait(30)
