"""Detached processes: started here, living on after us, and never confused with another process that got their number.

A process is known by its pid *and* the moment it was created, so a recycled pid (after a crash or a reboot) is never
signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from aap.infra.atomic_files import make_folder
from aap.infra.errors import ProcessFailed

__all__ = ["Identity", "free_port", "spawn", "tail", "terminate", "wait_gone"]

_POLL_S = 0.02
_CHILD_TIMEOUT_S = 3.0  # what a child gets to end by itself once its parent has
# psutil adds the boot time to a process's age; both are rounded, and the clock may be adjusted by a little.
_CREATED_TOLERANCE_S = 2.0
# The shell puts the command in the background and leaves, so that its parent is init: nobody has to reap it.
_BACKGROUND = '"$@" >&2 & echo $!'


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, now or in the past: `created` is its creation time in seconds since the epoch."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this pid now, or None."""
        try:
            return cls(pid=pid, created=psutil.Process(pid).create_time())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None

    @property
    def since(self) -> datetime:
        """When the process was created, UTC."""
        return datetime.fromtimestamp(self.created, UTC)

    def is_alive(self) -> bool:
        """Whether this very process runs; a zombie, or another process with its pid, doesn't count."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) <= _CREATED_TOLERANCE_S
            return same and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Identity:
    """Start `command` in a session of its own, its output appended to `log` (0600), and return who it is.

    It outlives this process, and a Ctrl-C at this terminal doesn't reach it. Raises `ProcessFailed` if it can't be
    started or ends at once.
    """
    make_folder(log.parent)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        started = subprocess.run(
            ["/bin/sh", "-c", _BACKGROUND, "sh", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=descriptor,
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
            start_new_session=True,
            pass_fds=pass_fds,
            umask=0o077,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ProcessFailed(f"{command[0]} can't be started: {error}.") from None
    finally:
        os.close(descriptor)
    identity = Identity.of(int(started.stdout))
    if identity is None:
        raise ProcessFailed(f"{command[0]} ended as soon as it was started: see {log}{tail(log)}")
    return identity


def terminate(identity: Identity, *, timeout_s: float) -> bool:
    """End a process and its children: SIGTERM, and SIGKILL for what is left after `timeout_s` seconds.

    Returns whether everything ended by itself. A process that is gone already counts as ended.
    """
    if not identity.is_alive():
        return True
    try:
        process = psutil.Process(identity.pid)
        children = [Identity.of(child.pid) for child in process.children(recursive=True)]
        process.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        raise ProcessFailed(f"Process {identity.pid} belongs to another user and can't be stopped.") from None
    by_itself = wait_gone(identity, timeout_s=timeout_s)
    for left in (identity, *filter(None, children)):
        if not wait_gone(left, timeout_s=0.0 if left is identity else _CHILD_TIMEOUT_S):
            by_itself = False
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(left.pid).kill()
            wait_gone(left, timeout_s=timeout_s)
    return by_itself


def wait_gone(identity: Identity, *, timeout_s: float) -> bool:
    """Wait until a process ended; False when it still lives after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while identity.is_alive():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on at this moment; somebody else may take it before it is used."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def tail(log: Path, *, lines: int = 1) -> str:
    """The last non-empty lines of a log as "; the last line is …", or an empty string."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            found = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return f", which ends with: {' / '.join(found[-lines:])}" if found else ""
