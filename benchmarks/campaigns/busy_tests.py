"""Whether the tests hold on a machine that is busy: `make test` with four loops beside it that do nothing, all the time."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.campaigns.campaign import Arguments, Campaign, CannotRun, Goal, Parts

__all__ = ["CAMPAIGN", "busy_loops", "outcomes"]

_ROOT = Path(__file__).resolve().parents[2]
_OUTCOME = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed|deselected)")
_SUMMARY = re.compile(r"\bin [\d.]+s\b")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@contextmanager
def busy_loops(count: int) -> Iterator[list[int]]:
    """So many processes that use a processor each, as far as there is one; their pids."""
    loops = [subprocess.Popen([sys.executable, "-I", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield [loop.pid for loop in loops]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def outcomes(printed: str) -> dict[str, int]:
    """How many tests passed, failed and so on, by pytest's last line; empty where it came to none."""
    lines = [line for line in printed.splitlines() if _SUMMARY.search(line) and _OUTCOME.search(line)]
    found = _OUTCOME.findall(lines[-1]) if lines else []
    return {"errors" if what == "error" else what: int(count) for count, what in found}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--loops", type=int, default=4, help="processes that do nothing, all the time")
    parser.add_argument("--runs", type=int, default=1, help="of make test")


def _check(arguments: Arguments) -> None:
    if arguments["runs"] < 1 or arguments["loops"] < 0:
        raise CannotRun("--runs must be at least 1, and --loops no less than 0.")


def _parts(arguments: Arguments) -> list[str]:
    return [f"make test {number}" for number in range(1, arguments["runs"] + 1)]


def _run_part(part: str, arguments: Arguments) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    log = _ROOT / "var" / "campaigns" / "busy-tests" / f"{part.replace(' ', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with busy_loops(arguments["loops"]), log.open("wb") as out:
        done = subprocess.run(["make", "test"], cwd=_ROOT, env=env, stdout=out, stderr=out, check=False)
    printed = log.read_text(errors="replace")
    seconds = round(time.monotonic() - began)
    return {"code": done.returncode, "seconds": seconds, **outcomes(printed), "which": _FAILED.findall(printed)}


def _conclude(parts: Parts, arguments: Arguments) -> tuple[dict[str, Any], list[Goal]]:
    runs = list(parts.values())
    total = {what: sum(run.get(what, 0) for run in runs) for what in ("passed", "failed", "errors", "skipped")}
    clean = total["passed"] > 0 and not total["failed"] and not total["errors"] and not any(run["code"] for run in runs)
    goal = f"make test passes with {arguments['loops']} busy loops beside it, {len(runs)} times of {len(runs)}"
    return {**total, "runs": runs}, [Goal(goal, total, clean)]


CAMPAIGN = Campaign(
    name="busy-tests",
    about="The tests of make test on a machine that is busy with loops that do nothing.",
    options=_options,
    parts=_parts,
    run_part=_run_part,
    conclude=_conclude,
    check=_check,
)
