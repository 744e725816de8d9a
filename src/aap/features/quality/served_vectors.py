"""Served vectors: a sample of what was handed out, kept to be recomputed (`aap.features.quality.online_offline_skew`).

A row is personal data under the purpose its values were made for. It may be used while the grant those were made under
is in force, and is deleted when that ends, when its time is over, or when the person is erased. Nothing is kept of
people who were denied. Files are `day=YYYY-MM-DD/*.parquet`, whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aap.consent.purposes import Purpose, spec
from aap.features.datasets import Vectors
from aap.features.declarations import Entity
from aap.features.errors import SampleDamaged
from aap.features.offline.build import Standing, current_spans
from aap.features.views import service as service_called, view_for
from aap.infra.atomic_files import write_atomically
from aap.infra.timestamps import from_micros

__all__ = ["SCHEMA", "Served", "rows_of"]

_MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("time", _MOMENT, nullable=False),
        pa.field("service", pa.string(), nullable=False),
        pa.field("purpose", pa.string(), nullable=False),
        pa.field("user_key", pa.string(), nullable=False),
        pa.field("as_of", _MOMENT, nullable=False),
        pa.field("grant_start", _MOMENT, nullable=False),
        pa.field("ledger_seq", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.int64(), nullable=False),
        pa.field("features", pa.list_(pa.string()), nullable=False),
        pa.field("values", pa.list_(pa.float64()), nullable=False),
        pa.field("statuses", pa.list_(pa.uint8()), nullable=False),
        pa.field("sequences", pa.list_(pa.list_(pa.string())), nullable=False),
        pa.field("request", pa.map_(pa.string(), pa.float64()), nullable=False),
    ]
)
"""`time` is the moment of serving; `as_of`, up to when what was received was known to the values (1970 where
none could be read); `fingerprint`, of the view's declarations; `sequences`, in the order of the service's;
`request`, what request-time features were given. See `frame.Vectors`.
"""


def rows_of(
    vectors: Vectors, user_keys: Sequence[str], *, places: Iterable[int], service: str, now: datetime
) -> list[dict[str, Any]]:
    """Rows of `SCHEMA` for those at `places` who were not denied."""
    asked = service_called(service)
    as_of, grant_start = vectors.as_of, vectors.grant_start
    if as_of is None or grant_start is None:
        return []
    fingerprint = view_for(Entity.USER, asked.purpose).fingerprint
    rows = []
    for i in places:
        decision = vectors.decisions[i]
        if decision.allowed:
            row = {
                "time": now, "service": service, "purpose": asked.purpose.value, "user_key": user_keys[i],
                "as_of": from_micros(int(as_of[i])), "grant_start": from_micros(int(grant_start[i])),
                "ledger_seq": decision.ledger_seq, "fingerprint": fingerprint, "features": vectors.features,
                "values": vectors.values[i].tolist(), "statuses": vectors.status[i].tolist(),
                "sequences": [vectors.sequences[name][i] for name in asked.sequences],
                "request": [(name, float(column[i])) for name, column in vectors.request.items()],
            }  # fmt: skip
            rows.append(row)
    return rows


@dataclass(frozen=True, slots=True)
class Served:
    """The sample below `folder`; a row is kept for `keep` after it was served, or as long as its purpose allows."""

    folder: Path
    keep: timedelta

    def count(self) -> int:
        """Rows there are, whoever's."""
        return sum(_read(file).num_rows for file in self._files())

    def usable(self, *, standing: Standing, now: datetime) -> pa.Table:
        """The rows that may be used at `now`, by time, service and person."""
        tables = [_read(file) for file in self._files()]
        table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
        kept = table.filter(self._may_be_used(table, standing=standing, now=now))
        return kept.sort_by([("time", "ascending"), ("service", "ascending"), ("user_key", "ascending")])

    def sweep(self, *, standing: Standing, now: datetime) -> int:
        """Delete every row that may not be used any more; returns how many. Only one sweep may run at a time."""
        return self._delete(lambda table: self._may_be_used(table, standing=standing, now=now))

    def erase(self, user_key: str) -> int:
        """Delete every row of one person; returns how many there were."""
        return self._delete(lambda table: pc.not_equal(table["user_key"], user_key))

    def _may_be_used(self, table: pa.Table, *, standing: Standing, now: datetime) -> pa.Array:
        """bool `[n]`: whose grant is still the one the row rests on, and whose time is not over."""
        names = table["purpose"].to_pylist()
        keys, starts = table["user_key"].to_pylist(), table["grant_start"].cast(pa.int64()).to_pylist()
        times = table["time"].to_pylist()
        held: dict[str, dict[str | None, int | None]] = {}
        oldest: dict[str, datetime] = {}
        for name in set(names):
            spans = current_spans(standing, Purpose(name), as_of=now)
            held[name] = dict(zip(spans["k"].to_pylist(), spans["start"].to_pylist(), strict=True))
            oldest[name] = now - min(self.keep, spec(Purpose(name)).retention)
        return pa.array(
            [
                held[name].get(key) == start and at > oldest[name]
                for name, key, start, at in zip(names, keys, starts, times, strict=True)
            ],
            pa.bool_(),
        )

    def _delete(self, kept: Callable[[pa.Table], pa.Array]) -> int:
        """Rewrite the files without the rows that are not `kept`."""
        deleted = 0
        for file in self._files():
            table = _read(file)
            left = table.filter(kept(table))
            gone = table.num_rows - left.num_rows
            if gone == table.num_rows:
                file.unlink()
            elif gone:
                _write(left, file)
            deleted += gone
        return deleted

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("day=*/*.parquet"))


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, schema=SCHEMA, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise SampleDamaged(f"{file} can't be read ({error}); delete it: it holds nothing but a sample.") from None


def _write(rows: pa.Table, file: Path) -> None:
    write_atomically(file, lambda out: pq.write_table(rows, out, compression="zstd"), private=True)
