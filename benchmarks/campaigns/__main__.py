"""`python -m benchmarks.campaigns NAME [--resume] [OPTION ...]`, which is what `make campaign` runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.campaigns import CAMPAIGNS
from benchmarks.campaigns.campaign import CannotRun, run_campaign

_ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run one; 0 when its goals are met, 1 when they are not or it can't be run, 2 for a wrong argument."""
    parser = argparse.ArgumentParser(prog="make campaign", description="What takes longer to measure than CI can give.")
    named = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for campaign in CAMPAIGNS.values():
        own = named.add_parser(campaign.name, help=campaign.about, description=campaign.about)
        own.add_argument("--resume", action="store_true", help="go on where it was interrupted")
        campaign.options(own)
    given = vars(parser.parse_args())
    campaign, resume = CAMPAIGNS[given.pop("name")], given.pop("resume")
    try:
        file, met = run_campaign(campaign, given, root=_ROOT, resume=resume)
    except CannotRun as reason:
        sys.exit(str(reason))
    print(f"{file.relative_to(_ROOT)}: {'every goal met' if met else 'a goal was missed'}")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
