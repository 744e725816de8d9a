"""The processor time that a command takes, with all that it starts: children, detached servers, workers that are killed.

Exact, not sampled: the command runs below a *watcher*, a process of its own that has made itself the reaper of every
orphan below it (Linux, `PR_SET_CHILD_SUBREAPER`). What detaches itself, as the embedded server does, falls to the watcher
when its parent is gone, and the kernel hands over a process's user and system time, and that of all it waited for, when
it is waited for. Left out is the child of a process that ignores SIGCHLD: nobody ever waits for it.

A preparation can be counted apart: with `counted_from`, the words that some process's command line must end with, what
was spent until such a process is first seen is `prepared_s`. It is looked for twenty times a second, so this bound is known
to a tenth of a second; the sum of both sides stays exact.

The watcher is this file, run by itself: nothing is imported that is not in the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["CommandFailed", "Spent", "measure_command"]

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK_EVERY_S = 0.05
_LEFT_BEHIND_S = 15.0
"""How long what outlives the command has to end by itself."""
_TICK = os.sysconf("SC_CLK_TCK")


class CommandFailed(Exception):
    """The command ended with another code than 0, or not within its limit; the message says how, and its last line."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds; `own_s` is the command's own process, `servers_s` the detached Redis, and `cpu_s` all there is.

    With `counted_from`, all four are of the time since then, and `prepared_s` is the processor time until then.
    """

    wall_s: float
    cpu_s: float
    own_s: float
    servers_s: float
    prepared_s: float
    left_behind: int
    """Processes that outlived the command and had to be ended."""


def measure_command(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    limit_s: float,
    counted_from: Sequence[str] = (),
) -> tuple[str, Spent]:
    """Run `command` and return what it printed and what it spent.

    Raises `CommandFailed`; whatever it started has been ended by then.
    """
    with tempfile.TemporaryDirectory(prefix="aap-cpu-") as folder:
        told, printed, said = (Path(folder) / name for name in ("spent.json", "stdout", "stderr"))
        options = [str(told), str(os.getpid()), str(limit_s), json.dumps(list(counted_from))]
        with printed.open("wb") as out, said.open("wb") as err:
            watcher = subprocess.Popen(
                [sys.executable, "-I", __file__, *options, *command], cwd=cwd, env=dict(env), stdout=out, stderr=err
            )
            try:
                watcher.wait()
            except BaseException:
                watcher.terminate()  # it ends what is below it first
                watcher.wait()
                raise
        if not told.exists():
            raise CommandFailed(f"{command[0]} was not watched to its end: {_last(said)}")
        found = json.loads(told.read_text())
        if ended := found.pop("ended"):
            raise CommandFailed(f"{' '.join(command)} {ended}: {_last(said) or _last(printed)}")
        return printed.read_text(), Spent(**found)


def _last(file: Path) -> str:
    lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:])


class _Watcher:
    """Runs one command and reaps all that comes of it."""

    def __init__(self, limit_s: float, counted_from: Sequence[str]) -> None:
        self._ends = time.monotonic() + limit_s
        self._counted_from = list(counted_from)
        self._mark: tuple[float, float, float, float] | None = None
        self._cpu = self._own = self._servers = 0.0
        self._pid = 0
        self._stop = False

    def run(self, command: Sequence[str], *, parent: int) -> dict[str, object]:
        """Spent seconds by their names in `Spent`, and `ended`: how the command failed, or an empty text."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stop", True))
        # Whoever asked for the measurement may be killed: what is measured then ends too.
        for option, value in ((_PR_SET_PDEATHSIG, signal.SIGTERM), (_PR_SET_CHILD_SUBREAPER, 1)):
            if ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0):
                raise OSError(ctypes.get_errno(), "can't become the reaper of orphans")
        self._stop = os.getppid() != parent  # killed before we could ask to be told
        begun = time.monotonic()
        self._pid = subprocess.Popen(command).pid
        code, ended = self._reap_until_gone()
        wall = time.monotonic() - begun
        left = self._end_what_is_left()
        mark = self._mark or (begun, 0.0, 0.0, 0.0)
        if not ended and code:
            ended = f"ended with code {code}"
        if not ended and self._counted_from and self._mark is None:
            ended = f"never started {' '.join(self._counted_from)}, from which it would have been counted"
        spent = Spent(
            wall_s=wall - (mark[0] - begun),
            cpu_s=self._cpu - mark[1],
            own_s=self._own - mark[2],
            servers_s=self._servers - mark[3],
            prepared_s=mark[1],
            left_behind=left,
        )
        return {**asdict(spent), "ended": ended}

    def _reap_until_gone(self) -> tuple[int | None, str]:
        """The command's exit code once it has ended, or why it was ended."""
        while True:
            for pid, code in self._reap():
                if pid == self._pid:
                    return code, ""
            if self._counted_from and self._mark is None:
                self._look_for_mark()
            if self._stop or time.monotonic() > self._ends:
                return None, "was stopped" if self._stop else "took longer than its limit"
            time.sleep(_LOOK_EVERY_S)

    def _reap(self) -> Iterator[tuple[int, int]]:
        """Wait for every child that has ended, and add what it spent."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            stat = _stat(ended.si_pid)
            _, status, usage = os.wait4(ended.si_pid, 0)
            seconds = usage.ru_utime + usage.ru_stime
            self._cpu += seconds
            if ended.si_pid == self._pid and stat is not None:
                self._own = stat.own
            elif stat is not None and _is_server(stat.name):
                self._servers += seconds
            yield ended.si_pid, os.waitstatus_to_exitcode(status)

    def _look_for_mark(self) -> None:
        below = list(_below(os.getpid()))
        if not any(_command_line(pid)[-len(self._counted_from) :] == self._counted_from for pid in below):
            return
        stats = [stat for pid in below if (stat := _stat(pid)) is not None]
        self._mark = (
            time.monotonic(),
            self._cpu + sum(stat.own + stat.waited for stat in stats),
            sum(stat.own for stat in stats if stat.pid == self._pid),
            self._servers + sum(stat.own + stat.waited for stat in stats if _is_server(stat.name)),
        )

    def _end_what_is_left(self) -> int:
        """Wait for what outlives the command, then end it; returns how many had to be ended."""
        patience = 0.0 if self._stop or time.monotonic() > self._ends else _LEFT_BEHIND_S
        left = 0
        for way in (None, signal.SIGTERM, signal.SIGKILL):
            if way is not None:
                running = [pid for pid in _below(os.getpid()) if (stat := _stat(pid)) and stat.state != "Z"]
                left = left or len(running)
                for pid in running:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, way)
            until = time.monotonic() + (patience if way is None else _LEFT_BEHIND_S)
            while True:
                list(self._reap())
                if not list(_below(os.getpid())):
                    return left
                if time.monotonic() > until:
                    break
                time.sleep(_LOOK_EVERY_S)
        return left


@dataclass(frozen=True, slots=True)
class _Stat:
    """What /proc says of a process: its own seconds, and those of children that it has waited for."""

    pid: int
    name: str
    state: str
    parent: int
    own: float
    waited: float


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    user, system, waited_user, waited_system = (int(field) / _TICK for field in fields[11:15])
    return _Stat(pid, name, fields[0], int(fields[1]), user + system, waited_user + waited_system)


def _below(parent: int) -> Iterator[int]:
    """Processes below `parent`, at any depth."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and (stat := _stat(int(place.name))) is not None:
            children.setdefault(stat.parent, []).append(stat.pid)
    waiting = list(children.get(parent, ()))
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, ())


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _is_server(name: str) -> bool:
    return name.startswith(("valkey", "redis"))


if __name__ == "__main__":
    place, parent, limit, mark, *command = sys.argv[1:]
    spent = _Watcher(float(limit), json.loads(mark)).run(command, parent=int(parent))
    if Path(place).parent.exists():  # not if whoever asked is gone
        Path(place).write_text(json.dumps(spent))
