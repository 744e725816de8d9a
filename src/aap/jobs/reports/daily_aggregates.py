"""Daily aggregates: what was bought on each day, of people who allow reporting now, with small groups left out.

The table is made anew each night, as far back as purchases may be kept: it takes a second, and somebody who withdrew
yesterday is in no day of it today. A day with fewer than `FEWEST` customers is left out, so that no line is about a few
people (k-anonymity). So a line may stay when the purchases it sums are deleted for their age; it is kept as it was then.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aap.config import Settings
from aap.consent.purposes import Purpose, spec
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.features.offline.build import current_spans
from aap.infra.atomic_files import write_atomically
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import archive_folder
from aap.infra.paths import Layout

__all__ = ["FEWEST", "daily_aggregates", "write_daily"]

FEWEST = 10
"""Customers a day or a month must have to be shown."""


def daily_aggregates(settings: Settings, *, as_of: datetime) -> pa.Table:
    """One row a day (UTC) before that of `as_of`, oldest first.

    `day` date32, `customers`, `baskets`, `lines`, `units` int64, `amount` and `discount` in the currency's main unit. An
    event counts if one unbroken grant of `analytics.reporting` covers it and both `as_of` and now.
    """
    now = settings.now()
    standing = open_ledger(settings).standing(purposes=(Purpose.ANALYTICS_REPORTING,), in_force_at=max(as_of, now))
    spans = current_spans(standing, Purpose.ANALYTICS_REPORTING, as_of=as_of)
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("spans", spans)
        purchases = Archive(archive_folder(settings)).sql("product_purchased", on=connection)
        return connection.execute(
            "SELECT e.occurred_at::DATE AS day, count(DISTINCT e.user_key) AS customers, "
            "count(DISTINCT (e.user_key, e.basket_id)) AS baskets, count(*) AS lines, "
            "coalesce(sum(e.quantity), 0)::BIGINT AS units, coalesce(sum(e.amount), 0)::BIGINT / 100 AS amount, "
            "coalesce(sum(e.discount), 0)::BIGINT / 100 AS discount "
            f"FROM {purchases} e JOIN spans ON spans.k = e.user_key AND epoch_us(e.occurred_at) >= spans.start "
            "WHERE e.available_at <= $as_of AND e.occurred_at::DATE < $as_of::DATE "
            "GROUP BY day HAVING customers >= $fewest ORDER BY day",
            {"as_of": as_of, "fewest": FEWEST},
        ).to_arrow_table()


def write_daily(settings: Settings, *, as_of: datetime) -> tuple[Path, pa.Table]:
    """Put the aggregates into `<home>/aggregates/daily.parquet`, whole or not at all: days of whose purchases none may
    have been deleted for its age as they are now, older ones as they were when they were written last.
    """
    file = Layout(settings.home).aggregates / "daily.parquet"
    fresh, first = daily_aggregates(settings, as_of=as_of), _first_whole_day(as_of)
    before = pq.read_table(file) if file.exists() else fresh.slice(0, 0)
    older = before.filter(pc.less(before["day"], pa.scalar(first, pa.date32())))
    known = pc.is_in(fresh["day"], value_set=older["day"])
    left = fresh.filter(pc.or_(pc.greater_equal(fresh["day"], pa.scalar(first, pa.date32())), pc.invert(known)))
    table = pa.concat_tables([older, left]).sort_by("day")
    written = pa.BufferOutputStream()
    pq.write_table(table, written, compression="zstd")
    write_atomically(file, written.getvalue().to_pybytes())
    return file, table


def _first_whole_day(as_of: datetime) -> date:
    """The first day (UTC) all of which is younger than purchases are kept for reporting."""
    return (as_of - spec(Purpose.ANALYTICS_REPORTING).retention).date() + timedelta(days=1)
