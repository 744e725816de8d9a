"""What runs in the background: each service, how it is started and stopped, and how one tells that it is ready.

Redis comes first, since the service needs it; the service, the MLflow page and the Feast page then start side by side.
One that can't start is reported in a sentence and the others stay.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml

from aap.config import Settings
from aap.infra.errors import StorageError
from aap.infra.paths import Layout, own_run
from aap.infra.process import supervisor
from aap.infra.process.detached import free_port
from aap.project.loader import current_project

__all__ = ["Service", "services", "start_all", "stop_all"]

_LOOPBACK = "127.0.0.1"
_READY_TIMEOUT_S = 120.0
_LOADING_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 2.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Service:
    """One background process: how to start it, and how to tell that it is ready and healthy.

    `ready(pid)` returns the address once it answers; `problem(address)` returns a sentence when it answers but can't do
    its work; `elsewhere` is its address when another machine runs it; `not_yet` says what has to be done before it.
    """

    name: str
    title: str
    command: Sequence[str | Path]
    ready: Callable[[int], str | None]
    problem: Callable[[str], str | None] = lambda _address: None
    env: Mapping[str, str] = field(default_factory=dict)
    elsewhere: str | None = None
    not_yet: str | None = None
    tells: Callable[[], str | None] = lambda: None
    """What it says of itself now, in place of an address."""


def start_all(settings: Settings) -> list[str]:
    """Start what doesn't run yet and wait until it is ready; returns one sentence for each that can't do its work.

    Raises `StorageError` when Redis can't be used: nothing works without it.
    """
    from aap.infra.redis.connection import ensure_running

    ensure_running(settings)
    if _registration_is_outdated(settings):
        from aap.features.feast.store import apply  # slow to import

        apply(settings)
    here = [service for service in services(settings) if service.elsewhere is None]
    with ThreadPoolExecutor(max_workers=len(here)) as pool:
        return [sentence for sentence in pool.map(lambda service: _start(service, settings), here) if sentence]


def stop_all(settings: Settings) -> list[str]:
    """Stop everything, Redis last; returns the titles of what was running."""
    from aap.infra.redis import connection

    layout = Layout(settings.home)
    here = services(settings)
    with ThreadPoolExecutor(max_workers=len(here)) as pool:
        was_running = list(pool.map(lambda service: supervisor.stop(service.name, layout=layout), here))
    stopped = [service.title for service, running in zip(here, was_running, strict=True) if running]
    return [*stopped, "Redis"] if connection.stop(settings) else stopped


def services(settings: Settings) -> list[Service]:
    """Every background process but Redis, in the order they are listed."""
    return [_prediction_service(settings), _live_features(settings), _mlflow_page(settings), _feast_page(settings)]


def _start(service: Service, settings: Settings) -> str | None:
    if service.not_yet is not None:
        return service.not_yet
    try:
        started = supervisor.start(
            service.name,
            layout=Layout(settings.home),
            command=service.command,
            ready=service.ready,
            timeout_s=_READY_TIMEOUT_S,
            env={"AAP_HOME": str(settings.home), "AAP_PROJECT": str(current_project().root), **service.env},
        )
    except StorageError as error:
        return str(error)
    return service.problem(started.address) if started.address else None


def _prediction_service(settings: Settings) -> Service:
    state = own_run(settings) / "serve.json"

    def ready(pid: int) -> str | None:
        try:
            stored = json.loads(state.read_bytes())
            return str(stored["url"]) if stored["pid"] == pid else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    return Service(
        name="serve",
        title="Prediction service",
        command=[sys.executable, "-m", "aap.cli.main", "serve"],
        ready=ready,
        problem=lambda address: _missing_from_service(address, settings),
    )


def _missing_from_service(address: str, settings: Settings) -> str | None:
    """What the service says it can't answer without, once it has loaded its models."""
    from aap.serving.server import trust

    trusted = trust(settings)
    deadline = time.monotonic() + _LOADING_TIMEOUT_S
    while True:
        code, body = _get(f"{address}/readyz", trusted=trusted)
        if code == 200:
            return None
        try:
            missing: dict[str, str] = json.loads(body)["missing"]
        except (ValueError, KeyError, TypeError):
            missing = {}
        loading = not missing or any("still loading" in reason for reason in missing.values())
        if not loading or time.monotonic() >= deadline:
            return f"The prediction service runs but can't answer everything: {_by_reason(missing) or f'HTTP {code}'}."
        time.sleep(_POLL_S)


def _by_reason(missing: Mapping[str, str]) -> str:
    """ "churn, segments (it has no champion); redis (…)": each reason once, with everything it holds for."""
    names: dict[str, list[str]] = {}
    for name, reason in missing.items():
        names.setdefault(reason.rstrip("."), []).append(name.removeprefix("model "))
    return "; ".join(f"{', '.join(of)} ({reason})" for reason, of in names.items())


def _live_features(settings: Settings) -> Service:
    return Service(
        name="live",
        title="Live features",
        command=[sys.executable, "-m", "aap.cli.main", "live"],
        ready=lambda _pid: _behind(settings),
        tells=lambda: _behind(settings),
    )


def _behind(settings: Settings) -> str | None:
    """How far live features are; None before they have begun."""
    from aap.events.streaming.consumer_group import behind
    from aap.infra.redis.connection import UNREACHABLE, connect

    try:
        with contextlib.closing(connect(settings, start=False)) as client:
            told = behind(client)
    except UNREACHABLE:
        return None
    if told is None:
        return None
    wrote = (
        f"; last wrote {datetime.fromtimestamp(told.wrote_at / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"
        if told.wrote_at
        else ""
    )
    return f"{told.events:,} events behind{wrote}"


def _mlflow_page(settings: Settings) -> Service:
    folder = Layout(settings.home).mlflow
    port = settings.mlflow_port or free_port()
    store = settings.mlflow_url or f"sqlite:///{folder / 'mlflow.db'}"
    return Service(
        name="mlflow",
        title="MLflow",
        command=[
            *(sys.executable, "-m", "mlflow", "server", "--host", _LOOPBACK, "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", store),
            *("--no-serve-artifacts", "--default-artifact-root", folder / "artifacts"),
        ],
        ready=_answers(f"http://{_LOOPBACK}:{port}", "/health"),
        env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        elsewhere=settings.mlflow_url if (settings.mlflow_url or "").startswith(("http://", "https://")) else None,
    )


def _feast_page(settings: Settings) -> Service:
    port = settings.feast_port or free_port()
    folder = Layout(settings.home).feast_registry.parent
    registered = (folder / "feature_store.yaml").exists()
    return Service(
        name="feast",
        title="Feast",
        command=[
            *(Path(sys.executable).parent / "feast", "-c", folder),
            *("ui", "--host", _LOOPBACK, "--port", str(port)),
        ],
        ready=_answers(f"http://{_LOOPBACK}:{port}", "/"),
        env={"FEAST_USAGE": "False"},
        not_yet=None if registered else "Feast has nothing to show yet: run `aap features build`, then `aap up` again.",
    )


def _registration_is_outdated(settings: Settings) -> bool:
    """Whether Feast was told of this home's features when the home had another path, or by a release with other stores."""
    registry = Layout(settings.home).feast_registry
    file = registry.with_name("feature_store.yaml")
    if not file.exists():
        return False
    told = yaml.safe_load(file.read_text(encoding="utf-8"))
    project = current_project().root / "feature_repo" / "feature_store.yaml"
    declared = yaml.safe_load(project.read_text(encoding="utf-8"))
    stores = ("online_store", "offline_store", "batch_engine")
    return told["registry"] != str(registry) or any(told[s]["type"] != declared[s]["type"] for s in stores)


def _answers(address: str, path: str) -> Callable[[int], str | None]:
    return lambda _pid: address if _get(address + path)[0] == 200 else None


def _get(url: str, *, trusted: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    """Status and body of a GET; status 0 when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_TIMEOUT_S, context=trusted) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""
