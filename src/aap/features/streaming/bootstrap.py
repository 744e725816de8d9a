"""History: what the archive knows, brought into a live worker's memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from aap.events.archive import Archive
from aap.events.schema import event_type
from aap.events.streaming.columns import EventColumns, LoggedEvent
from aap.events.streaming.event_log import PARTITIONS
from aap.features.streaming.plan import TypeLayout
from aap.features.streaming.state import Memory
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import StoredFile

__all__ = ["Snapshot"]

_OURS = f"('0x' || user_key[1:8])::BIGINT % {PARTITIONS}"
"""The partition of a person; see `aap.events.streaming.event_log`."""


class Snapshot:
    """The archive as it is when this is made: files that come later are left out."""

    def __init__(self, archive: Archive, layouts: Mapping[str, TypeLayout]) -> None:
        self._archive, self._layouts = archive, layouts
        self._files: dict[str, list[StoredFile]] = {event: archive.files(event) for event in layouts}

    def fill(self, memory: Memory, *, partition: int, at: int) -> list[LoggedEvent]:
        """Bring a partition's people into `memory`; returns the events that only begin to count after `at`."""
        waiting: list[LoggedEvent] = []
        with _connection() as connection:
            for event, layout in self._layouts.items():
                columns = layout.columns
                rows = self._archive.sql(event, on=connection, files=self._files[event])
                known = f"FROM {rows} WHERE {_OURS} = {partition}"
                due = f"greatest(epoch_us(occurred_at), epoch_us(available_at)) <= {at}"
                chosen = ", ".join(("user_key", "epoch_us(occurred_at) AS o", "source", "id", *columns))
                found = connection.execute(f"SELECT {chosen} {known} AND {due}").to_arrow_table()
                if found.num_rows:
                    memory.add(_columns(event, found, columns))
                waiting += _events(connection, event, f"{known} AND NOT {due}")
        return waiting

    def has(self, events: EventColumns) -> set[tuple[str, str]]:
        """(source, id) of those of `events` that are archived."""
        return known_in(self._archive, events, before=False, files=self._files.get(events.type, ()))


def known_in(
    archive: Archive, events: EventColumns, *, before: bool, files: Sequence[StoredFile] | None = None
) -> set[tuple[str, str]]:
    """(source, id) of those of `events` that the archive has; with `before`, from an earlier time they were received."""
    columns = {"source": events.sources, "id": events.ids, "a": events.available}
    where = "WHERE epoch_us(e.available_at) < asked.a" if before else ""
    with _connection() as connection:
        connection.register("asked", pa.table(columns))
        rows = archive.sql(events.type, on=connection, files=files)
        found = connection.execute(
            f"SELECT DISTINCT e.source, e.id FROM {rows} e JOIN asked USING (source, id) {where}"
        )
        return set(found.fetchall())


def _columns(event: str, found: pa.Table, columns: Sequence[str]) -> EventColumns:
    occurred = found["o"].to_numpy().astype("<i8").tobytes()
    told = {c: found[c].to_pylist() for c in columns}
    sources, ids, keys = (found[c].to_pylist() for c in ("source", "id", "user_key"))
    return EventColumns(event, sources, ids, keys, occurred, occurred, told)


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
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
        yield connection
