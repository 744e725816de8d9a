"""Whether the move to one package made anything slower: seven benchmarks, before and now, in turns.

A part is one pair of one benchmark, and the first of each warms both sides up. The benchmarks take turns too, so that the
pairs of each are spread over the whole campaign.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.campaigns.campaign import Arguments, Campaign, CannotRun, Goal, Parts
from benchmarks.compare import BEFORE_COMMIT, CASES, Missing, run_pair, summarize, trees
from benchmarks.support.paired_ratios import BOUND, FEWEST_PAIRS

__all__ = ["CAMPAIGN"]

_WARM_UP = 0


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, default=FEWEST_PAIRS, help="of each benchmark; fewer than 7 meet no goal")
    parser.add_argument("--only", default=",".join(CASES), help="benchmarks, with commas between")


def _names(arguments: Arguments) -> list[str]:
    return str(arguments["only"]).split(",")


def _check(arguments: Arguments) -> None:
    if unknown := set(_names(arguments)) - set(CASES):
        raise CannotRun(f"There is no benchmark to compare called {', '.join(sorted(unknown))}.")
    if arguments["pairs"] < 1:
        raise CannotRun("--pairs must be at least 1.")
    try:
        trees()
    except Missing as missing:
        raise CannotRun(str(missing)) from None


def _parts(arguments: Arguments) -> list[str]:
    return [f"{name} {number}" for number in range(arguments["pairs"] + 1) for name in _names(arguments)]


def _run_part(part: str, arguments: Arguments) -> Any:
    name, number = part.split()
    return run_pair(CASES[name], trees(), number=int(number))


def _conclude(parts: Parts, arguments: Arguments) -> tuple[dict[str, Any], list[Goal]]:
    found, goals = {}, []
    for name in _names(arguments):
        pairs = [parts[f"{name} {number}"] for number in range(_WARM_UP + 1, arguments["pairs"] + 1)]
        told = found[name] = summarize(CASES[name], pairs)
        wanted = (
            f"{name}: processor time no slower than before (the 95 % interval of the ratio reaches {BOUND} or less)"
        )
        goals.append(Goal(wanted, told["ratio"], told["verdict"] == "no slower"))
    return {"before": BEFORE_COMMIT, "benchmarks": found}, goals


CAMPAIGN = Campaign(
    name="moved-benchmarks",
    about="Processor time of seven benchmarks now against before, the commit before the move, in turns.",
    options=_options,
    parts=_parts,
    run_part=_run_part,
    conclude=_conclude,
    check=_check,
    seeds={"crowd": 7, "history": 7, "live": 7, "shop": 3, "choices": 0},
)
