"""Processor time of everything a command starts is counted, whoever its parent is in the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.support.processor_time import CommandFailed, Spent, measure_command

_BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"


def _measure(script: str, folder: Path, *, counted_from: tuple[str, ...] = (), limit_s: float = 60.0) -> Spent:
    command = [sys.executable, "-I", "-c", script]
    return measure_command(command, cwd=folder, env=os.environ, limit_s=limit_s, counted_from=counted_from)[1]


def test_what_detached_itself_and_what_was_killed_is_counted(tmp_path: Path) -> None:
    spent = _measure(
        "import os, signal, subprocess, sys\n"
        f"burn = [sys.executable, '-I', '-c', {_BURN.format(seconds=0.4)!r}]\n"
        # a session of its own, whose parent is gone at once
        "subprocess.run(['/bin/sh', '-c', '\"$@\" & echo', 'sh', *burn], start_new_session=True)\n"
        # a worker that is killed after it worked, and that nobody waits for
        f"work = {_BURN.format(seconds=0.4)!r} + 'print(1, flush=True); time.sleep(60)'\n"
        "worker = subprocess.Popen([*burn[:3], work], stdout=subprocess.PIPE)\n"
        "worker.stdout.readline()\n"
        "os.kill(worker.pid, signal.SIGKILL)\n"
        "os._exit(0)\n",
        tmp_path,
    )
    assert 0.8 < spent.cpu_s < 1.6
    assert spent.own_s < 0.4
    assert (spent.left_behind, spent.prepared_s, spent.servers_s) == (0, 0.0, 0.0)


def test_time_and_output_of_the_command_itself_are_told(tmp_path: Path) -> None:
    script = _BURN.format(seconds=0.3) + "print('done')"
    printed, spent = measure_command([sys.executable, "-c", script], cwd=tmp_path, env=os.environ, limit_s=60.0)
    assert printed == "done\n"
    assert spent.cpu_s >= 0.3
    assert spent.own_s == pytest.approx(spent.cpu_s, abs=0.03)  # it is told in hundredths
    assert spent.wall_s > 0.3


def test_a_preparation_is_counted_apart(tmp_path: Path) -> None:
    spent = _measure(
        "import subprocess, sys, time\n"
        + _BURN.format(seconds=0.6)
        + f"subprocess.run([sys.executable, '-I', '-c', {_BURN.format(seconds=0.3)!r}, 'serve'])\n",
        tmp_path,
        counted_from=("serve",),
    )
    assert 0.5 < spent.prepared_s < 0.8
    assert 0.25 < spent.cpu_s < 0.5
    assert spent.own_s < 0.1


def test_a_preparation_that_never_ends_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="never started serve"):
        _measure("pass", tmp_path, counted_from=("serve",))


def test_a_command_that_fails_or_takes_too_long_is_said_so_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="ended with code 3: what went wrong"):
        _measure("import sys\nprint('what went wrong', file=sys.stderr)\nsys.exit(3)", tmp_path)
    mark = f"{time.time_ns()}"
    sleeper = f"[sys.executable, '-c', 'import time; time.sleep(300)', '{mark}']"
    with pytest.raises(CommandFailed, match="took longer than its limit"):
        _measure(f"import subprocess, sys\nsubprocess.run({sleeper})", tmp_path, limit_s=1.0)
    assert not [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])]


def test_nothing_goes_on_when_whoever_measures_is_killed(tmp_path: Path) -> None:
    mark = f"{time.time_ns()}"
    measuring = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from benchmarks.support.processor_time import measure_command\n"
        f"sleeper = [sys.executable, '-c', 'import time; time.sleep(300)', '{mark}']\n"
        "measure_command(sleeper, cwd=Path.cwd(), env=os.environ, limit_s=300.0)\n"
    )

    def running() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])]

    def becomes(*, there: bool) -> bool:
        until = time.monotonic() + 30
        while bool(running()) is not there and time.monotonic() < until:
            time.sleep(0.05)
        return bool(running()) is there

    measurer = subprocess.Popen([sys.executable, "-c", measuring], cwd=Path(__file__).parents[2])
    assert becomes(there=True)
    measurer.kill()
    measurer.wait()
    assert becomes(there=False)
