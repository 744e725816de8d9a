from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import redis

from aap.config import Settings, load_settings
from aap.infra.errors import RedisStartFailed, RedisUnavailable
from aap.infra.paths import Layout
from aap.infra.process import detached
from aap.infra.redis import embedded_server
from aap.infra.redis.connection import UNREACHABLE, connect, ensure_running, public_url, status, stop
from aap.infra.redis.embedded_server import Ping
from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).resolve().parents[4]


def kill_server(settings: Settings) -> int:
    """Kill -9 the server once it has handed over what was written to the disk; returns its pid."""
    with connect(settings) as client:
        until(lambda: client.info("persistence")["aof_buffer_length"] == 0)  # type: ignore[index]
    pid = status(settings).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert detached.wait_gone(detached.Identity(pid, psutil.Process(pid).create_time()), timeout_s=PATIENCE_S)
    return pid


def stored_state(settings: Settings) -> dict[str, object]:
    return dict(json.loads((Layout(settings.home).redis / "server.json").read_text()))


def test_a_client_reads_back_what_it_wrote_on_every_kind_of_server(redis_client: redis.Redis) -> None:
    redis_client.set("k", b"\x00\xff")
    assert redis_client.get("k") == b"\x00\xff"


def test_a_server_that_is_asked_for_twice_is_started_once(settings: Settings) -> None:
    ensure_running(settings)
    first = status(settings)
    ensure_running(settings)
    assert status(settings) == first
    assert first.running


def test_processes_that_start_it_at_once_get_one_server(settings: Settings) -> None:
    program = (
        "from aap.config import load_settings; from aap.infra.redis.connection import connect, status; "
        "s = load_settings(); c = connect(s); c.incr('started'); print(status(s).pid)"
    )
    racing = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    pids = {process.communicate(timeout=PATIENCE_S)[0].strip() for process in racing}
    assert [process.returncode for process in racing] == [0, 0, 0, 0]
    assert pids == {str(status(settings).pid)}
    with connect(settings) as client:
        assert client.get("started") == b"4"


def test_the_server_outlives_the_process_that_started_it(settings: Settings) -> None:
    program = (
        "from aap.config import load_settings; from aap.infra.redis.connection import ensure_running\n"
        "ensure_running(load_settings())"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=PATIENCE_S)
    assert status(settings).running
    pid = status(settings).pid
    assert pid is not None
    assert os.getsid(pid) != os.getsid(0)  # so that a Ctrl-C or a closed terminal doesn't reach it


def test_a_killed_server_comes_back_with_its_data(settings: Settings) -> None:
    with connect(settings) as client:
        client.set("kept", "yes")
        killed = kill_server(settings)
        assert not status(settings).running
        ensure_running(settings)
        assert status(settings).pid != killed
        assert client.get("kept") == b"yes"


def test_a_client_finds_the_server_again_on_another_port(settings: Settings) -> None:
    with connect(settings) as client:
        client.set("kept", "yes")
        port = stored_state(settings)["port"]
        stop(settings)
        with socket.create_server(("127.0.0.1", int(str(port)))):
            ensure_running(settings)
            assert stored_state(settings)["port"] != port
            assert client.get("kept") == b"yes"


def test_a_restart_keeps_port_and_password(settings: Settings) -> None:
    ensure_running(settings)
    before = stored_state(settings)
    assert stop(settings)
    ensure_running(settings)
    after = stored_state(settings)
    assert (after["port"], after["password"]) == (before["port"], before["password"])
    assert after["pid"] != before["pid"]


def test_without_the_password_nothing_can_be_read(settings: Settings) -> None:
    ensure_running(settings)
    port = int(str(stored_state(settings)["port"]))
    for password in (None, "wrong"):
        with redis.Redis(port=port, password=password) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
            stranger.get("k")


def test_password_and_data_are_readable_by_the_owner_alone(settings: Settings) -> None:
    ensure_running(settings)
    folder = Layout(settings.home).redis
    assert folder.stat().st_mode & 0o077 == 0
    secret = [path for path in folder.iterdir() if str(stored_state(settings)["password"]).encode() in _bytes(path)]
    assert {path.name for path in secret} == {"server.json", "server.conf"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in secret)


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def test_the_password_is_on_no_command_line(settings: Settings) -> None:
    ensure_running(settings)
    pid = status(settings).pid
    assert str(stored_state(settings)["password"]) not in " ".join(psutil.Process(pid).cmdline())


def test_the_server_listens_on_the_loopback_alone_and_never_evicts(settings: Settings) -> None:
    with connect(settings) as client:
        listening = {c.laddr.ip for c in psutil.Process(status(settings).pid).net_connections() if c.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("append*")["appendonly"] == "yes"


def test_a_state_file_left_by_a_reboot_is_not_believed(settings: Settings) -> None:
    """Its pid now belongs to another process (this one), which must be neither used nor signalled."""
    folder = Layout(settings.home).redis
    folder.mkdir(parents=True)
    old = {"pid": os.getpid(), "created": 1.0, "port": detached.free_port(), "password": "p" * 43}
    (folder / "server.json").write_text(json.dumps(old))
    assert not status(settings).running
    assert not stop(settings)
    ensure_running(settings)
    assert status(settings).pid != os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_a_ruined_state_file_is_like_none(settings: Settings, content: str) -> None:
    folder = Layout(settings.home).redis
    folder.mkdir(parents=True)
    (folder / "server.json").write_text(content)
    ensure_running(settings)
    assert status(settings).running


def test_two_servers_never_write_to_one_folder(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_server, "_OWNER_TIMEOUT_S", 0.2)
    ensure_running(settings)
    state_file = Layout(settings.home).redis / "server.json"
    state = state_file.read_bytes()
    state_file.unlink()
    try:
        with pytest.raises(RedisStartFailed, match=r"still writes to .*: stop it \(its pid is in"):
            ensure_running(settings)
    finally:
        state_file.write_bytes(state)


def test_commands_without_a_server_fail_soon_and_work_once_it_is_back(settings: Settings) -> None:
    client = connect(settings, start=False)
    began = time.monotonic()
    with pytest.raises(UNREACHABLE, match="aap up"):
        client.ping()
    assert time.monotonic() - began < 20.0, "a command may take thirty seconds where there is a server"
    ensure_running(settings)
    assert client.ping()
    client.close()


def test_stop_says_whether_something_ran(settings: Settings) -> None:
    assert not stop(settings)
    ensure_running(settings)
    assert stop(settings)
    assert not stop(settings)
    assert not status(settings).running


@pytest.mark.parametrize("redis_server", ["redis-server"], indirect=True)
def test_a_server_of_ones_own_is_used_and_never_stopped(redis_server: Settings) -> None:
    assert not stop(redis_server)
    found = status(redis_server)
    assert (found.running, found.embedded) == (True, False)
    assert not Layout(redis_server.home).redis.exists()


def test_an_unreachable_url_is_named_without_its_password(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = detached.free_port()
    monkeypatch.setenv("AAP_REDIS_URL", f"redis://ann:s3cret@127.0.0.1:{port}/2?password=s3cret")
    settings = load_settings(home)
    with pytest.raises(RedisUnavailable) as caught:
        ensure_running(settings)
    assert f"redis://127.0.0.1:{port}/2 " in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in str(status(settings))


def test_a_url_that_is_none_is_refused_with_a_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AAP_REDIS_URL", "localhost:6379")
    with pytest.raises(RedisUnavailable, match="isn't a Redis URL"):
        connect(load_settings(home))
    assert not status(load_settings(home)).running


def test_public_url_leaves_out_user_password_and_query() -> None:
    assert public_url("rediss://u:p%40@[::1]:6380/1?password=x") == "rediss://[::1]:6380/1"


def test_a_server_too_busy_to_answer_is_not_said_to_be_stopped(settings: Settings) -> None:
    ensure_running(settings)
    process = status(settings).pid
    assert process
    os.kill(process, signal.SIGSTOP)
    try:
        found = status(settings)
    finally:
        os.kill(process, signal.SIGCONT)
    assert (found.running, found.pid, found.problem) == (False, process, "too busy to answer now")
    assert status(settings).running


def test_a_stranger_on_the_port_is_not_taken_for_ours(settings: Settings) -> None:
    ensure_running(settings)
    state = embedded_server.read_state(Layout(settings.home))
    assert state is not None
    other = embedded_server.ServerState(pid=state.pid, created=state.created, port=state.port, password="x" * 43)
    assert embedded_server.ping(state) is Ping.READY
    assert embedded_server.ping(other) is Ping.SILENT
