"""The consistency report: what was served since the sample began, recomputed, as a page and as figures.

Before anything is looked at, the sample is swept: what consent no longer covers, or is too old, is deleted. What the live
log accepted is brought into the archive, which the values are recomputed from.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

from aap.config import Settings
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.features.quality.online_offline_skew import Consistency, check
from aap.features.quality.served_vectors import Served
from aap.infra.atomic_files import write_atomically
from aap.infra.html import number, page, table
from aap.infra.locks import hold
from aap.infra.object_store import archive_folder
from aap.infra.paths import Layout
from aap.jobs.ingest import archive_live_events

__all__ = ["MOST", "ConsistencyReport", "check_consistency", "open_served"]

MOST = 2_000
"""Vectors recomputed of each service, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class ConsistencyReport:
    """What was found, and where the page is."""

    found: Consistency
    page: Path

    def figures(self) -> dict[str, Any]:
        """The sums, JSON-ready."""
        found = self.found
        return {
            "checked": found.checked,
            "mismatches": found.mismatches,
            "missing": found.missing,
            "mismatch_share": found.mismatches / found.checked if found.checked else 0.0,
            "outdated": sum(f.outdated for f in found.features),
            "other_declarations": found.other_declarations,
            "staleness_days": {s.service: s.median for s in found.staleness},
            "page": str(self.page),
        }


def open_served(settings: Settings) -> Served:
    """The sample of this home."""
    return Served(Layout(settings.home).served, timedelta(days=settings.served_sample_days))


def check_consistency(settings: Settings, *, now: datetime, most: int = MOST) -> ConsistencyReport:
    """Sweep the sample, recompute what may be used, write the page. One check at a time; a second raises `LockHeld`.

    Raises `NothingToVerify` when nothing is kept that may be used.
    """
    layout = Layout(settings.home)
    with hold(layout.run / "consistency.lock", what="a consistency check"):
        standing = open_ledger(settings).standing(in_force_at=now)
        served = open_served(settings)
        served.sweep(standing=standing, now=now)
        asked = served.usable(standing=standing, now=now)
        # After the vectors are chosen: what was folded into one of them is in the log by then, if not in the archive.
        archive_live_events(settings, now=now)
        found = check(asked, Archive(archive_folder(settings)), most=most)
    stem = layout.reports / f"consistency-{now:%Y-%m-%dT%H%M}"
    write_atomically(stem.with_suffix(".json"), json.dumps(asdict(found), indent=1).encode())
    write_atomically(stem.with_suffix(".html"), _html(found, now=now).encode())
    return ConsistencyReport(found, stem.with_suffix(".html"))


def _html(found: Consistency, *, now: datetime) -> str:
    mark = "no" if found.mismatches else "yes"
    columns = ["service", "feature", "served", "mismatched", "missing", "outdated", "relative error"]
    rows = [
        [
            escape(f.service), escape(f.feature), number(f"{f.served:,}"), number(f"{f.mismatch_share:.2%}"),
            number(f"{f.missing_share:.2%}"), number(f"{f.outdated_share:.2%}"), number(f"{f.relative_error:.2g}"),
        ]
        for f in found.features
    ]  # fmt: skip
    ages = [
        [escape(s.service), number(f"{s.vectors:,}"), number(f"{s.median:.2f}"), number(f"{s.longest:.2f}")]
        for s in found.staleness
    ]
    parts = [
        f"<h1>Served values recomputed, {now:%Y-%m-%d %H:%M} UTC</h1>",
        f"<p class='{mark}'>{found.mismatches:,} of {found.checked:,} values mismatched.</p>",
        *(f"<p>{escape(line)}</p>" for line in found.examples),
        "<h2>Features</h2>",
        "<p>Each value is computed anew from the archive, as of the moment it was served, from what its row could know. "
        "<b>Mismatched</b>: the two differ, which must never be. <b>Missing</b>: not found, or expired. <b>Outdated</b>: "
        "right for what the row knew, and another had it known all that was received by the moment of serving. "
        "<b>Relative error</b>: mean of the difference over the mean of both, 0 to 2.</p>",
        table(columns, rows),
        "<h2>Age of what was known</h2>",
        table(["service", "vectors", "median days", "longest"], ages),
        f"<p>{found.other_declarations:,} vectors were made by other declarations and left out.</p>",
    ]
    return page("Served values recomputed", parts)
