"""History: what the archive knows, brought into a live worker's memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from events.archive import Archive
from events.log import PARTITIONS, LoggedEvent
from events.schema import event_type
from feature_repo.live_layout import Arrivals, TypeLayout
from feature_repo.live_memory import Memory

__all__ = ["Snapshot"]

_OURS = f"('0x' || user_key[1:8])::BIGINT % {PARTITIONS}"
"""The partition of a person; see `events.log`."""


class Snapshot:
    """The archive as it is when this is made: files that come later are left out."""

    def __init__(self, archive: Archive, layouts: Mapping[str, TypeLayout]) -> None:
        self._archive, self._layouts = archive, layouts
        self._files: dict[str, list[Path]] = {event: archive.files(event) for event in layouts}

    def fill(self, memory: Memory, *, partition: int, at: int) -> list[LoggedEvent]:
        """Bring a partition's people into `memory`; returns the events that only begin to count after `at`."""
        waiting: list[LoggedEvent] = []
        with _connection() as connection:
            for event, layout in self._layouts.items():
                columns = layout.columns
                known = f"FROM {self._archive.sql(event, files=self._files[event])} WHERE {_OURS} = {partition}"
                due = f"greatest(epoch_us(occurred_at), epoch_us(available_at)) <= {at}"
                chosen = ", ".join(("user_key", "epoch_us(occurred_at) AS o", "source", "id", *columns))
                found = connection.execute(f"SELECT {chosen} {known} AND {due}").to_arrow_table()
                if found.num_rows:
                    memory.add(event, _arrivals(found, columns, named=bool(layout.texts)))
                waiting += _events(connection, event, f"{known} AND NOT {due}")
        return waiting

    def has(self, events: Collection[LoggedEvent], *, before: bool = False) -> set[tuple[str, str]]:
        """(source, id) of those of `events` that are archived; with `before`, from an earlier time they were received."""
        return known_in(self._archive, events, before=before, files=self._files)


def known_in(
    archive: Archive,
    events: Collection[LoggedEvent],
    *,
    before: bool,
    files: Mapping[str, Sequence[Path]] | None = None,
) -> set[tuple[str, str]]:
    """(source, id) of those of `events` that the archive has; with `before`, from an earlier time they were received."""
    known: set[tuple[str, str]] = set()
    with _connection() as connection:
        for kind in sorted({e.type for e in events}):
            ours = [e for e in events if e.type == kind]
            asked = pa.table({
                "source": pa.array([e.source for e in ours], pa.string()),
                "id": pa.array([e.id for e in ours], pa.string()),
                "a": pa.array([e.available_at for e in ours], pa.int64()),
            })  # fmt: skip
            connection.register("asked", asked)
            where = "WHERE epoch_us(e.available_at) < asked.a" if before else ""
            rows = archive.sql(kind, files=None if files is None else files.get(kind, ()))
            known |= set(
                connection.execute(
                    f"SELECT DISTINCT e.source, e.id FROM {rows} e JOIN asked USING (source, id) {where}"
                ).fetchall()
            )
    return known


def _arrivals(found: pa.Table, columns: Sequence[str], *, named: bool) -> Arrivals:
    sources, ids = found["source"].to_pylist(), found["id"].to_pylist()
    names = [f"{source}\0{name}" for source, name in zip(sources, ids, strict=True)] if named else ids
    return Arrivals(
        found["user_key"].to_pylist(), found["o"].to_numpy(), names, {c: found[c].to_pylist() for c in columns}
    )


def _events(connection: duckdb.DuckDBPyConnection, event: str, known: str) -> list[LoggedEvent]:
    names = [f.name for f in event_type(event).fields]
    rows = connection.execute(
        f"SELECT source, id, user_key, epoch_us(occurred_at), epoch_us(available_at), {', '.join(names)} {known}"
    ).fetchall()
    return [
        LoggedEvent(source, name, event, key, occurred, available, dict(zip(names, values, strict=True)))
        for source, name, key, occurred, available, *values in rows
    ]


@contextmanager
def _connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
        yield connection
