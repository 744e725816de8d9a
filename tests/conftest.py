"""What every test may ask for: a home of its own, its settings, and real Redis servers. Nothing is mocked."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from aap.config import Settings, load_settings
from aap.infra.paths import Layout
from aap.infra.process import detached
from aap.infra.redis import connection as server, embedded_server
from aap.project.loader import current_project
from tests.waiting import PATIENCE_S

current_project().expose()  # tests import the project's modules by their plain names

_NOBODY = 65534

# Two shared cores: how long one example takes says nothing. In CI the examples are the same each time.
hypothesis.settings.register_profile("aap", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("aap")


_LONGEST = (
    "unit/pipelines/test_retrain",
    "e2e/",
    "unit/serving/test_service_process",
    "unit/pipelines/",
    "unit/jobs/",
    "unit/privacy/",
    "unit/cli/",
    "benchmarks/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left with one of them when the others are done."""

    def turn(item: pytest.Item) -> int:
        return next((i for i, name in enumerate(_LONGEST) if f"tests/{name}" in item.nodeid), len(_LONGEST))

    items.sort(key=turn)
    if len({item.nodeid for item in items}) < len(items):
        raise pytest.UsageError(
            "Two tests share an id: of these, the processes that share the work run the first alone."
        )


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stop, at the end, every embedded server that a test started in its own folder and didn't stop."""
    yield
    for state in tmp_path_factory.getbasetemp().glob("**/redis/server.json"):
        embedded_server.stop(Layout(state.parent.parent))


_STARTS_A_PROCESS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec")
_fast: list[bool] = []
"""Whether a test marked as fast is running; an audit hook can't be taken away again."""


def _refuse_processes(event: str, _arguments: tuple[object, ...]) -> None:
    if _fast and event in _STARTS_A_PROCESS:
        raise AssertionError("A test marked as fast starts no process: take the mark away.")


sys.addaudithook(_refuse_processes)


@pytest.fixture(autouse=True)
def _fast_tests_start_no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    marked = request.node.get_closest_marker("fast") is not None
    _fast.extend([True] * marked)
    yield
    _fast.clear()


@pytest.fixture(autouse=True)
def _logs_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service made in this process keeps our log lines to itself, and some libraries switch other loggers off; tests look
    at our lines whatever ran before.
    """
    monkeypatch.setattr(logging.getLogger("aap"), "propagate", True)
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "aap"]:
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home that `AAP_HOME` names; no other `AAP_*` variable of the caller's reaches the test."""
    for name in [name for name in os.environ if name.startswith("AAP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AAP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def settings(home: Path) -> Iterator[Settings]:
    """Default settings of that home; an embedded Redis that the test starts is stopped after it."""
    loaded = load_settings(home)
    yield loaded
    server.stop(loaded)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder that the test's user may enter but not write; root becomes `nobody` meanwhile."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    folder.chmod(0o755 if root else 0o555)
    try:
        if root:
            os.seteuid(_NOBODY)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.fixture(params=["embedded", "redis-server"])
def redis_server(
    request: pytest.FixtureRequest, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Settings of a home whose Redis runs: once with the embedded server, once with a real `redis-server`.

    A test that takes this doesn't take `settings`, which always mean the embedded server.
    """
    if request.param == "embedded":
        loaded = load_settings(home)
        server.ensure_running(loaded)
        yield loaded
        server.stop(loaded)
        return
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on this machine: install the package redis-server")
    with _RealServer(program, tmp_path) as url:
        monkeypatch.setenv("AAP_REDIS_URL", url)
        yield load_settings(home)


@pytest.fixture
def redis_client(redis_server: Settings) -> Iterator[redis.Redis]:
    """A client of each server in turn."""
    client = server.connect(redis_server)
    yield client
    client.close()


class _RealServer:
    """A `redis-server` of its own on a free port, with a password and no files; the context is its URL."""

    def __init__(self, program: str, folder: Path) -> None:
        self._port, self._password = detached.free_port(), secrets.token_urlsafe(16)
        options = {
            "port": self._port,
            "bind": "127.0.0.1",
            "requirepass": self._password,
            "save": "",
            "appendonly": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = detached.spawn([program, *words], log=folder / "redis-server.log", cwd=folder)

    def __enter__(self) -> str:
        url = f"redis://:{self._password}@127.0.0.1:{self._port}/0"
        deadline = time.monotonic() + PATIENCE_S
        with redis.Redis.from_url(url) as client:
            while True:
                try:
                    client.ping()
                    return url
                except redis.exceptions.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        detached.terminate(self._process, timeout_s=10.0)
