from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from aap.infra.errors import ProcessFailed
from aap.infra.paths import Layout
from aap.infra.process import detached, supervisor
from aap.infra.process.detached import Identity
from tests.waiting import PATIENCE_S

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def start_sleeper(layout: Layout, name: str = "sleeper") -> supervisor.ProcessStatus:
    return supervisor.start(name, layout=layout, command=SLEEP, ready=lambda pid: f"pid:{pid}", timeout_s=PATIENCE_S)


def test_a_web_page_is_started_found_and_stopped(layout: Layout) -> None:
    port = detached.free_port()
    address = f"http://127.0.0.1:{port}"

    def ready(_pid: int) -> str | None:
        try:
            with urllib.request.urlopen(address, timeout=10):
                return address
        except OSError:
            return None

    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    started = supervisor.start("page", layout=layout, command=command, ready=ready, timeout_s=30.0)
    assert (started.running, started.address) == (True, address)
    assert supervisor.status("page", layout=layout) == started
    assert supervisor.stop("page", layout=layout)
    assert supervisor.status("page", layout=layout).state == "stopped"
    assert not supervisor.stop("page", layout=layout)


def test_starting_what_runs_changes_nothing(layout: Layout) -> None:
    first = start_sleeper(layout)
    assert start_sleeper(layout) == first
    supervisor.stop("sleeper", layout=layout)


def test_a_process_that_ends_at_once_is_reported_with_its_last_words(layout: Layout) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no champion yet')"]
    with pytest.raises(ProcessFailed, match=r"serve ended before it was ready: see .*serve.log, .*no champion yet"):
        supervisor.start("serve", layout=layout, command=command, ready=lambda _: None, timeout_s=PATIENCE_S)
    assert supervisor.status("serve", layout=layout).state == "stopped"


def test_a_process_that_is_never_ready_is_stopped(layout: Layout) -> None:
    seen: list[int] = []

    def ready(pid: int) -> None:
        seen.append(pid)

    with pytest.raises(ProcessFailed, match="wasn't ready within 1 s and was stopped"):
        supervisor.start("slow", layout=layout, command=SLEEP, ready=ready, timeout_s=1.0)
    assert Identity.of(seen[0]) is None or not psutil.pid_exists(seen[0]) or _is_zombie(seen[0])


def _is_zombie(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_program_that_is_missing_is_reported(layout: Layout) -> None:
    with pytest.raises(ProcessFailed, match="/no/such/program"):
        supervisor.start("x", layout=layout, command=["/no/such/program"], ready=lambda _: None, timeout_s=PATIENCE_S)


def test_a_recycled_pid_is_never_killed(layout: Layout) -> None:
    bystander = subprocess.Popen(SLEEP)
    try:
        start_sleeper(layout)
        state = layout.run / "sleeper.process.json"
        stored = json.loads(state.read_text())
        os.kill(stored["pid"], 9)
        state.write_text(json.dumps({**stored, "pid": bystander.pid, "created": stored["created"] - 3600}))
        assert supervisor.status("sleeper", layout=layout).state == "died"
        assert not supervisor.stop("sleeper", layout=layout)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_that_died_is_told_from_one_that_was_stopped(layout: Layout) -> None:
    started = start_sleeper(layout)
    assert started.pid is not None
    identity = Identity.of(started.pid)
    assert identity is not None
    os.kill(started.pid, 9)
    assert detached.wait_gone(identity, timeout_s=PATIENCE_S)
    assert supervisor.status("sleeper", layout=layout).state == "died"


def test_stopping_ends_the_children_too(layout: Layout, tmp_path: Path) -> None:
    parent = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child.pid)); time.sleep(600)"
    )
    child_file = tmp_path / "child"
    supervisor.start(
        "parent",
        layout=layout,
        command=[sys.executable, "-c", parent, child_file],
        ready=lambda _: "up" if child_file.exists() and child_file.read_text() else None,
        timeout_s=PATIENCE_S,
    )
    child = Identity.of(int(child_file.read_text()))
    assert child is not None
    supervisor.stop("parent", layout=layout)
    assert not child.is_alive()


def test_its_log_is_the_owner_s_alone(layout: Layout) -> None:
    start_sleeper(layout)
    assert (layout.logs / "sleeper.log").stat().st_mode & 0o077 == 0
    supervisor.stop("sleeper", layout=layout)
