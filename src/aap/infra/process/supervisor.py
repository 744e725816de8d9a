"""Background processes by name: started once, found again by any later command, stopped on request.

What is known of each is kept in `<home>/run/<name>.process.json`; its output goes to `<home>/logs/<name>.log`. Nothing
of what a process does is known here: the caller brings the command and the probe that says when it is ready.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from aap.infra.atomic_files import write_atomically
from aap.infra.errors import ProcessFailed
from aap.infra.locks import hold
from aap.infra.paths import Layout
from aap.infra.process import detached
from aap.infra.process.detached import Identity

__all__ = ["ProcessStatus", "start", "status", "stop"]

_RECORD = "process.json"
_POLL_S = 0.1
_STOP_TIMEOUT_S = 30.0
_LOG_LINES = 2


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One named process: `state` is "running", "died" (it ended by itself) or "stopped"; `since` is UTC."""

    name: str
    state: str
    pid: int | None = None
    address: str | None = None
    since: datetime | None = None

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self.state == "running"


@dataclass(frozen=True, slots=True)
class _Record:
    """Contents of a state file."""

    pid: int
    created: float
    address: str | None

    @property
    def identity(self) -> Identity:
        return Identity(pid=self.pid, created=self.created)


def start(
    name: str,
    *,
    layout: Layout,
    command: Sequence[str | Path],
    ready: Callable[[int], str | None],
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> ProcessStatus:
    """Start process `name` unless it runs, and wait until `ready(pid)` returns its address instead of None.

    Raises `ProcessFailed` with the end of its log when it ends before it is ready, or isn't ready within `timeout_s`
    seconds (it is stopped then); `LockHeld` when another process is starting it.
    """
    with hold(_place(layout, name, "lock"), what=f"Starting {name}", wait_s=timeout_s):
        running = status(name, layout=layout)
        if running.running:
            return running
        log = layout.logs / f"{name}.log"
        identity = detached.spawn(command, log=log, cwd=cwd, env=env)
        _write(layout, name, _Record(pid=identity.pid, created=identity.created, address=None))
        try:
            address = _wait_ready(name, identity, ready=ready, timeout_s=timeout_s, log=log)
        except BaseException:
            detached.terminate(identity, timeout_s=_STOP_TIMEOUT_S)
            _place(layout, name, _RECORD).unlink(missing_ok=True)
            raise
        _write(layout, name, _Record(pid=identity.pid, created=identity.created, address=address))
        return status(name, layout=layout)


def stop(name: str, *, layout: Layout) -> bool:
    """Stop process `name` and its children; requests in flight may finish first. Returns whether it was running."""
    record = _read(layout, name)
    if record is None:
        return False
    was_running = record.identity.is_alive()
    detached.terminate(record.identity, timeout_s=_STOP_TIMEOUT_S)
    _place(layout, name, _RECORD).unlink(missing_ok=True)
    return was_running


def status(name: str, *, layout: Layout) -> ProcessStatus:
    """What is known of process `name` now."""
    record = _read(layout, name)
    if record is None:
        return ProcessStatus(name=name, state="stopped")
    if not record.identity.is_alive():
        return ProcessStatus(name=name, state="died")
    return ProcessStatus(
        name=name, state="running", pid=record.pid, address=record.address, since=record.identity.since
    )


def names(layout: Layout) -> list[str]:
    """The processes something is known of, running or not, by name."""
    return sorted(file.name.removesuffix(f".{_RECORD}") for file in layout.run.glob(f"*.{_RECORD}"))


def _wait_ready(
    name: str, identity: Identity, *, ready: Callable[[int], str | None], timeout_s: float, log: Path
) -> str:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        address = ready(identity.pid)
        if address is not None:
            return address
        if not identity.is_alive():
            raise ProcessFailed(f"{name} ended before it was ready: see {log}{detached.tail(log, lines=_LOG_LINES)}")
        time.sleep(_POLL_S)
    raise ProcessFailed(
        f"{name} wasn't ready within {timeout_s:.0f} s and was stopped: see {log}{detached.tail(log, lines=_LOG_LINES)}"
    )


def _place(layout: Layout, name: str, ending: str) -> Path:
    return layout.run / f"{name}.{ending}"


def _read(layout: Layout, name: str) -> _Record | None:
    try:
        stored = json.loads(_place(layout, name, _RECORD).read_bytes())
        return _Record(pid=int(stored["pid"]), created=float(stored["created"]), address=stored["address"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(layout: Layout, name: str, record: _Record) -> None:
    write_atomically(_place(layout, name, _RECORD), json.dumps(asdict(record)).encode())
