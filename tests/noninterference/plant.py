"""Plants deliberate leaks, one at a time, in a copy of the tree, and sees whether the tests named beside each catch it.

A leak is a patch in `leaks/`: its first line names the tests, the rest takes one check out or turns it round. Run by
`make leaks`: `python -m tests.noninterference.plant [NAME…] [--at-once N]`. Each line says what became of a leak, how
many seconds that took, and which test failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LEAKS", "ROOT", "Leak", "applies", "leaks", "main"]

ROOT = Path(__file__).resolve().parents[2]
LEAKS = Path(__file__).parent / "leaks"
_HEADING = "Caught by: "
_MOST_S = 600
_TESTS_FAILED = 1
"""Pytest's own exit code; any other says that the tests were not run as they should be."""
_CAUGHT = "caught"
_FAILED = re.compile(r"^(?:FAILED (?=tests/)|(?=ERROR tests/))((?:ERROR )?\S+)", re.MULTILINE)
"""A leak that a fixture stumbles over is shown as such: look whether that is what should catch it."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One patch and what should catch it."""

    name: str
    tests: list[str]
    """Arguments to pytest."""
    patch: str


def leaks(names: Sequence[str] = ()) -> list[Leak]:
    """All, or those called so; raises `SystemExit` for a name nobody has."""
    found = []
    for file in sorted(LEAKS.glob("*.patch")):
        heading, _, patch = file.read_text(encoding="utf-8").partition("\n\n")
        found.append(Leak(file.stem, shlex.split(heading.removeprefix(_HEADING)), patch))
    if unknown := sorted(set(names) - {leak.name for leak in found}):
        raise SystemExit(f"There is no leak called {unknown[0]}: look into {LEAKS}.")
    return [leak for leak in found if not names or leak.name in names]


def applies(leak: Leak, *, to: Path = ROOT, really: bool = False) -> str:
    """Apply the patch, or only see whether it would; returns what git says against it, or nothing."""
    call = ["git", "apply", *([] if really else ["--check"]), "-"]
    done = subprocess.run(call, input=leak.patch, cwd=to, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant each, print what became of it, and the sum; 1 if one was not caught."""
    parser = argparse.ArgumentParser(description="Plant deliberate leaks and see whether the tests catch them.")
    parser.add_argument("names", nargs="*", help="Only these.")
    parser.add_argument("--at-once", type=int, default=2, help="How many copies are tested at the same time.")
    given = parser.parse_args(arguments)
    wanted = leaks(given.names)
    with ThreadPoolExecutor(given.at_once) as workers:
        caught = 0
        for leak, (what, seconds, by) in zip(wanted, workers.map(_timed, wanted), strict=True):
            caught += what == _CAUGHT
            print(f"{what:12} {leak.name:32} {seconds:5.0f} s  {by}", flush=True)
    print(f"caught {caught} / total {len(wanted)}")
    return int(caught < len(wanted))


def _timed(leak: Leak) -> tuple[str, float, str]:
    started = time.monotonic()
    what, by = _plant(leak)
    return what, time.monotonic() - started, by


def _plant(leak: Leak) -> tuple[str, str]:
    """What became of it, and the test that failed, if one did."""
    with tempfile.TemporaryDirectory(prefix="aap-leak-") as folder:
        tree = Path(folder) / "tree"
        _copy(tree)
        if why := applies(leak, to=tree, really=True):
            return "doesn't apply", why.strip()
        packages = os.pathsep.join(str(tree / folder) for folder in ("src", "clients/python/src", ""))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AAP_")} | {"PYTHONPATH": packages}
        call = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *leak.tests]
        try:
            done = subprocess.run(
                [*call, f"--basetemp={folder}/t"], cwd=tree, env=environment, capture_output=True, text=True,
                check=False, timeout=_MOST_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "too slow", ""
        if done.returncode == _TESTS_FAILED:
            return _CAUGHT, ", ".join(_FAILED.findall(done.stdout))
        return ("NOT CAUGHT" if done.returncode == 0 else f"tests broken ({done.returncode})"), ""


def _copy(tree: Path) -> None:
    """The tree as it is, without what git doesn't know."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)


if __name__ == "__main__":
    raise SystemExit(main())
