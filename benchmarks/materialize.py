"""`aap bench materialize`: from a built view's Parquet file to rows that can be read online.

Ours is what `aap features materialize` does for a view: the latest row of each person whose grant is in force, the
timetable of the changes to come, packed and written by the script that checks consent and keeps the newest. Feast's is
its own `materialize` into its own Redis store, on fewer people, for it takes long; its rows are of ten values, ours of
fifty. A user-view row is one person's row of one view.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from aap.events.archive import Archive
from aap.features.offline.store import Inputs
from aap.features.offline.writer import ValuesWriter
from aap.features.online import reader
from aap.features.online.materialize import latest_rows
from aap.features.views import View
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import Folder, archive_folder, features_folder
from benchmarks.support.environment import describe
from benchmarks.support.feast_redis import VIEWS, FeastPeer
from benchmarks.support.synthetic_users import AS_OF, Crowd, a_server_of_its_own, crowd, project, the_view

__all__ = ["MaterializeReport", "run"]

_PAST = 3
"""Change points before the moment of materialization, a person."""
_CHANGED = 5
"""Values that change at each."""


@dataclass(frozen=True, slots=True)
class MaterializeReport:
    """User-view rows a second; `with_changes` when a tenth of the values change by themselves within the month."""

    machine: str
    people: int
    ours_rows_per_s: int
    ours_prepare_s: float
    """Reading and packing alone; the rest is Redis."""
    ours_again_rows_per_s: int
    """Onto rows that are there already."""
    with_changes_rows_per_s: int
    feast_people: int
    feast_rows_per_s: int
    vs_feast: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def run(*, people: int = 100_000, feast_people: int = 4_000, seed: int = 7) -> MaterializeReport:
    """Measure; about half a minute. Of Feast no more people than there are."""
    feast_people = min(feast_people, people)
    view, everybody = the_view(), crowd(people, seed=seed)
    with a_server_of_its_own() as (settings, client):
        features = features_folder(settings)
        project(client, everybody)
        expected = len(everybody.with_values())

        def bring(*, write: bool = True) -> float:
            started = time.perf_counter()
            rows = latest_rows(
                view,
                folder=features,
                archive=Archive(archive_folder(settings)),
                standing=everybody.standing,
                as_of=AS_OF,
            )
            got = reader.write_many(client, view, rows)[0] if write else sum(map(len, rows))
            if got != expected:
                raise RuntimeError(f"{got} rows came of {expected}.")
            return time.perf_counter() - started

        _lay_down(view, features, everybody, future=0)
        prepared, first, again = bring(write=False), bring(), bring()
        _lay_down(view, features, everybody, future=2)
        with_changes = bring()
        feast_s = FeastPeer(settings, folder=settings.home / "peer").fill(everybody, range(feast_people))
        ours, feast = expected / first, VIEWS * feast_people / feast_s
        return MaterializeReport(
            machine=describe(client),
            people=people,
            ours_rows_per_s=round(ours),
            ours_prepare_s=round(prepared, 3),
            ours_again_rows_per_s=round(expected / again),
            with_changes_rows_per_s=round(expected / with_changes),
            feast_people=feast_people,
            feast_rows_per_s=round(feast),
            vs_feast=round(ours / feast, 1),
        )


def _lay_down(view: View, folder: Folder, people: Crowd, *, future: int) -> None:
    """The view's files as a build would leave it: `_PAST` change points of each person, and `future` to come."""
    places = np.array(people.with_values())
    order = places[np.argsort(np.array([people.keys[i] for i in places]))]
    each = _PAST + future
    moments = reader.to_micros(AS_OF) + (np.arange(each) - _PAST) * 86_400_000_000 + 3_600_000_000
    values = np.repeat(people.values[order], each, axis=0)
    for change in range(each):
        values[change::each, change * _CHANGED : (change + 1) * _CHANGED] += 1
    starts = [reader.to_micros(people.standing[people.keys[i]][view.purpose][0][0].start) for i in order]
    columns = {
        "k": pa.array(np.repeat([people.keys[i] for i in order], each)),
        "moment": np.tile(moments, len(order)),
        "grant_start": np.repeat(starts, each),
        **{name: values[:, place] for place, name in enumerate(view.names)},
    }
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("laid", pa.table(columns))
        writer = ValuesWriter(view, folder=folder)
        writer.add(connection, "laid")
        writer.finish(Inputs(AS_OF))
