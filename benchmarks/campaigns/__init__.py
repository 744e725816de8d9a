"""Campaigns: what takes longer to measure than CI can give. `make campaign NAME` runs one and keeps it as a record.

A campaign is made of *parts*, each kept in `var/campaigns/NAME/state.json` as soon as it is done, so that `RESUME=1` goes on
where it was interrupted. Its *record*, `docs/campaigns/NAME.json`, says commit, date, machine, arguments, seeds, the result
and the goals with whether each was met; a test holds every record to that.
"""

from __future__ import annotations

from benchmarks.campaigns import busy_tests, moved_benchmarks
from benchmarks.campaigns.campaign import Campaign

__all__ = ["CAMPAIGNS"]

CAMPAIGNS: dict[str, Campaign] = {one.name: one for one in (moved_benchmarks.CAMPAIGN, busy_tests.CAMPAIGN)}
"""By the name that `make campaign` takes. A new one is a module here and its place in this line."""
