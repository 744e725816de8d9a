"""`python -m benchmarks.compare [NAME ...]`: a benchmark in the tree *before* and in this one, in turns, as child processes.

Both sides are asked the same, `aap bench NAME … --json`, each by its own environment in a home of its own. Compared is the
processor time of everything the command starts, the embedded server included (`support.processor_time`), beside the wall
clock. Of a shop that has to be trained first nothing is counted until the service is started. What a benchmark tells of
processor time itself is compared too: it leaves out the peers that it runs beside.

`make bench-before` makes the other tree. Who goes first changes from pair to pair; one pair before the first, not counted,
warms both sides up.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.support.paired_ratios import FEWEST_PAIRS, Ratio, verdict
from benchmarks.support.processor_time import measure_command

__all__ = ["BEFORE", "BEFORE_COMMIT", "CASES", "Case", "Missing", "Tree", "run_pair", "summarize", "trees"]

ROOT = Path(__file__).resolve().parents[1]
BEFORE = ROOT / "var" / "bench" / "before"
BEFORE_COMMIT = "0a6163d6589518fadab70e3cfc8a08a5d72bb0c3"
"""The last commit under the first layout, as the Makefile has it."""


class Missing(Exception):
    """There is nothing to compare with; the message says how to make it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One benchmark, at a size at which a side takes half a minute, or two where a shop is trained or a year built."""

    name: str
    options: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    """Keys of its report to be compared as well, of which less is better."""
    per: str = ""
    """The key of a count to divide processor time by, where it differs from run to run."""
    counted_from: tuple[str, ...] = ()
    """How the command line ends of the process with whose start counting begins; else from the beginning."""
    env: Mapping[str, str] = field(default_factory=dict)
    limit_s: float = 3_600.0


def _under(prefix: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{of}.{name}" for of in prefix for name in names)


_OF_DEPTHS = _under(("depth.100", "depth.1000"), ("ours_cpu_s", "training_frame_cpu_s"))
_OF_SERVICE = _under(("churn", "churn_100_users", "recommendations"), ("c1.cpu_ms", "c16.cpu_ms"))
_OF_EVENTS = _under(("burst.cpu_us",), ("producer", "server", "archive", "workers"))
_SERVICE = ("serve",)

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("online", ("--people", "1000"), told=_under(("rows.1", "rows.100", "rows.500"), ("vs_bare",))),
        Case("offline", ("--labels", "20000", "--rows", "200000", "--limit", "0"), told=_OF_DEPTHS),
        Case("materialize", ("--people", "20000"), told=("ours_prepare_s",)),
        Case("live", ("--people", "1000", "--seconds", "2", "--events", "40000", "--workers", "1"), told=_OF_EVENTS),
        # Without Java the Spark build is left out: it is a peer, and takes as long as all else.
        Case("build", ("--copies", "2"), told=("duckdb.cpu_s", "duckdb_x10.cpu_s"), env={"JAVA_HOME": "/nonexistent"}),
        Case("serve", ("--rounds", "1", "--requests", "400"), told=_OF_SERVICE, counted_from=_SERVICE),
        Case("swap", ("--swaps", "2", "--requests", "20000"), per="requests", counted_from=_SERVICE),
    )
}
"""What the move to one package must not have made slower, by name."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout with an environment of its own."""

    folder: Path
    command: Path
    """Its `aap`."""


def trees() -> dict[str, Tree]:
    """`before` and `now`. Raises `Missing`."""
    before = Tree(BEFORE, BEFORE / ".venv" / "bin" / "aap")
    if not before.command.exists():
        raise Missing("There is nothing to compare with: run `make bench-before` first.")
    return {"before": before, "now": Tree(ROOT, Path(sys.executable).with_name("aap"))}


def run_pair(case: Case, sides: Mapping[str, Tree], *, number: int) -> dict[str, dict[str, Any]]:
    """What both sides spent, one after the other; the one that goes first changes with `number`."""
    order = sorted(sides, reverse=bool(number % 2))
    found = {side: _run(case, sides[side]) for side in order}
    return {side: found[side] for side in sides}


def summarize(case: Case, pairs: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """JSON-ready: ratios of now to before with their intervals, medians of seconds, and the verdict.

    `ratio` is of processor time; `parts` tells that of the command's own process, which makes the load where there is
    any, that of the embedded server, and that of all others.
    """

    def ratio(*path: str) -> Ratio | None:
        before, now = ([_at(pair[side], path) for pair in pairs] for side in ("before", "now"))
        return Ratio.of(before, now) if all(v is not None for v in (*before, *now)) else None

    compared = ratio("cost")
    return {
        "command": " ".join(("aap", "bench", case.name, *case.options, "--json")),
        "pairs": len(pairs),
        "verdict": verdict(compared),
        "ratio": _told(compared),
        "wall_ratio": _told(ratio("wall_s")),
        "parts": {part: _told(ratio("parts", part)) for part in ("own", "servers", "others")},
        "told": {key: _told(ratio("told", key)) for key in case.told},
        **{
            f"{side}_{what}": round(median(pair[side][what] for pair in pairs), 3)
            for what in ("cpu_s", "wall_s", "prepared_s")
            for side in ("before", "now")
        },
    }


def _run(case: Case, tree: Tree) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="aap-cmp-") as folder:
        ours = ("AAP_", "PYTHON", "MAKE", "MFLAGS", "VIRTUAL_ENV")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        env |= {"AAP_HOME": f"{folder}/home", "TMPDIR": folder, **case.env}
        printed, spent = measure_command(
            [str(tree.command), "bench", case.name, *case.options, "--json"],
            cwd=tree.folder,
            env=env,
            limit_s=case.limit_s,
            counted_from=case.counted_from,
        )
    report = json.loads(printed.strip().splitlines()[-1])
    count = _at(report, case.per.split(".")) if case.per else 1
    parts = {"own": spent.own_s, "servers": spent.servers_s, "others": spent.cpu_s - spent.own_s - spent.servers_s}
    return {
        **asdict(spent),
        "cost": spent.cpu_s / count,
        "parts": {part: seconds / count for part, seconds in parts.items()},
        "told": {key: _at(report, key.split(".")) for key in case.told},
    }


def _at(report: Any, path: Sequence[str]) -> Any:
    for name in path:
        report = report.get(name) if isinstance(report, Mapping) else None
    return report


def _told(ratio: Ratio | None) -> dict[str, float | None] | None:
    if ratio is None:
        return None
    low, high = (None if bound is None else round(bound, 4) for bound in (ratio.low, ratio.high))
    return {"median": round(ratio.median, 4), "low": low, "high": high}


def main() -> None:
    """Compare, say how it stands on stderr after each pair, and print one JSON object on the last line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="Before against now, in turns.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(CASES)}; all unless named")
    parser.add_argument("--pairs", type=int, default=FEWEST_PAIRS, help="at least 7 for a verdict")
    given = parser.parse_args()
    if unknown := set(given.names) - set(CASES):
        parser.error(f"no benchmark to compare is called {', '.join(sorted(unknown))}")
    if given.pairs < 1:
        parser.error("--pairs must be at least 1")
    try:
        sides = trees()
    except Missing as missing:
        sys.exit(str(missing))
    found = {}
    for name in given.names or CASES:
        case = CASES[name]
        run_pair(case, sides, number=0)
        pairs: list[dict[str, dict[str, Any]]] = []
        for number in range(given.pairs):
            pairs.append(run_pair(case, sides, number=number))
            so_far = summarize(case, pairs)
            print(f"{name} {len(pairs)}/{given.pairs}: {json.dumps(so_far['ratio'])}", file=sys.stderr, flush=True)
        found[name] = summarize(case, pairs)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
