"""The item catalogue: names and places of what is sold. It holds nothing about people."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aap.infra.atomic_files import write_atomically
from aap.infra.duckdb import open_duckdb

__all__ = ["CATALOGUE_FIELDS", "read_catalogue", "update_catalogue"]

CATALOGUE_FIELDS = ("item_id", "name", "department", "category", "brand")
"""What the catalogue knows of an item; only `item_id` is needed."""

_SCHEMA = pa.schema([(name, pa.string()) for name in CATALOGUE_FIELDS])


def read_catalogue(path: Path) -> pa.Table:
    """All items: the text columns of `CATALOGUE_FIELDS`, ordered by `item_id`; empty when there is no catalogue."""
    return pq.read_table(path) if path.is_file() else _SCHEMA.empty_table()


def update_catalogue(path: Path, items: pa.Table) -> tuple[int, int]:
    """Add `items` (any of the catalogue's columns); a later row about an item replaces an earlier one.

    Returns how many items are new, and how many there are.
    """
    before = read_catalogue(path)
    filled = pa.table(
        {
            n: items[n].cast(pa.string()) if n in items.column_names else pa.nulls(len(items), pa.string())
            for n in CATALOGUE_FIELDS
        }
    )
    connection = open_duckdb()
    connection.register("before", before)
    connection.register("arriving", filled)
    merged = connection.execute(
        "SELECT * EXCLUDE (age, place) FROM ("
        "SELECT *, 0 AS age, row_number() OVER () AS place FROM before UNION ALL "
        "SELECT *, 1 AS age, row_number() OVER () AS place FROM arriving WHERE item_id IS NOT NULL) "
        "QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY age DESC, place DESC) = 1 ORDER BY item_id"
    ).to_arrow_table()
    sink = pa.BufferOutputStream()
    pq.write_table(merged.cast(_SCHEMA), sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())
    return len(merged) - len(before), len(merged)
