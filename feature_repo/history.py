"""History: what the archive knows of people whose state is not live yet, as the events it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa

from consent.purposes import Purpose
from events.archive import Archive
from events.log import LoggedEvent
from events.schema import event_type

__all__ = ["History"]


class History:
    """Reads the archive by person. `look` first says who is worth looking up; whoever isn't in it has no history."""

    def __init__(self, archive: Archive, events: Iterable[str]) -> None:
        self._archive = archive
        self._events = sorted(events)
        self._people: set[str] = set()
        self._left_out: dict[Purpose, set[str]] = {}

    def look(self) -> None:
        """Note who has any event in the archive now."""
        with _connection() as connection:
            for event in self._events:
                found = connection.execute(f"SELECT DISTINCT user_key FROM {self._archive.sql(event)}").fetchall()
                self._people |= {key for (key,) in found}

    def add(self, user_keys: Iterable[str], *, purpose: Purpose | None = None) -> None:
        """These may have events that no state took: of one purpose, or of all."""
        (self._people if purpose is None else self._left_out.setdefault(purpose, set())).update(user_keys)

    def known(self, user_keys: Iterable[str], *, purpose: Purpose) -> list[str]:
        """Those of `user_keys` that are worth looking up for `purpose`."""
        left_out = self._left_out.get(purpose, set())
        return sorted(key for key in user_keys if key in self._people or key in left_out)

    def of(self, wanted: Sequence[str]) -> dict[str, list[LoggedEvent]]:
        """The archived events of each person that has any, in the order they became available."""
        found: dict[str, list[LoggedEvent]] = {}
        if not wanted:
            return found
        with _connection() as connection:
            connection.register("wanted", pa.table({"k": pa.array(wanted, pa.string())}))
            for event in self._events:
                names = [f.name for f in event_type(event).fields]
                rows = connection.execute(
                    "SELECT e.source, e.id, e.user_key, epoch_us(e.occurred_at), epoch_us(e.available_at), "
                    f"{', '.join('e.' + n for n in names)} FROM {self._archive.sql(event)} e "
                    "SEMI JOIN wanted ON wanted.k = e.user_key"
                ).fetchall()
                for source, name, key, occurred, available, *values in rows:
                    fields = dict(zip(names, values, strict=True))
                    found.setdefault(key, []).append(LoggedEvent(source, name, event, key, occurred, available, fields))
        for events in found.values():
            events.sort(key=lambda e: (e.available_at, e.occurred_at, e.source, e.id))
        return found

    def known_before(self, events: Sequence[LoggedEvent]) -> set[tuple[str, str]]:
        """(source, id) of those of `events` that the archive has from an earlier time they were received."""
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
                known |= set(
                    connection.execute(
                        f"SELECT DISTINCT e.source, e.id FROM {self._archive.sql(kind)} e JOIN asked USING (source, id) "
                        "WHERE epoch_us(e.available_at) < asked.a"
                    ).fetchall()
                )
        return known


def _connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
    return connection
