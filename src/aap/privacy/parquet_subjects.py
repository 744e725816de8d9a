"""One person's rows in folders of Parquet files, whoever wrote them: counted, read, taken out.

A file is rewritten whole, with its metadata and row order, or not touched; the files' own statistics tell which ones can't
hold the person. Folders may be in an S3 bucket; rows are taken out of local ones alone, for archive and features know
better themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aap.infra.atomic_files import explain_full_disk, write_atomically
from aap.infra.object_store import Folder

__all__ = ["count_rows", "erase_rows", "read_rows"]

_KEY = "user_key"


def count_rows(folder: Folder | Path, user_key: str) -> int:
    """How many rows below `folder` are of this person."""
    return sum(table.num_rows for _, table in _theirs(folder, user_key, columns=[_KEY]))


def read_rows(folder: Folder | Path, user_key: str) -> Iterator[tuple[str, pa.Table]]:
    """Each file that has rows of this person, and those rows."""
    return _theirs(folder, user_key, columns=None)


def erase_rows(folder: Path, user_key: str) -> int:
    """Take the person's rows out of every file below `folder`; returns how many there were."""
    erased = 0
    for name, found in list(_theirs(folder, user_key, columns=[_KEY])):
        erased += found.num_rows
        _rewrite(folder / name, user_key)
    return erased


def _theirs(place: Folder | Path, user_key: str, *, columns: list[str] | None) -> Iterator[tuple[str, pa.Table]]:
    folder = Folder.at(place)
    for file in folder.files():
        with folder.open(file.name) as source:
            decryption = None if folder.seal is None else folder.seal.decryption(source)
            if _KEY not in pq.read_schema(source, decryption_properties=decryption).names:
                continue
            found = pq.read_table(
                source, columns=columns, filters=[(_KEY, "=", user_key)], partitioning=None,
                decryption_properties=decryption,
            )  # fmt: skip
        if found.num_rows:
            yield file.name, found


def _rewrite(path: Path, user_key: str) -> None:
    source = pq.ParquetFile(path)
    mode_is_private = not path.stat().st_mode & 0o077

    def write(file: object) -> None:
        with pq.ParquetWriter(file, source.schema_arrow, compression="zstd") as writer:
            for group in range(source.num_row_groups):
                rows = source.read_row_group(group)
                kept = rows.filter(pc.invert(pc.fill_null(pc.equal(rows[_KEY], user_key), False)))
                if kept.num_rows:
                    writer.write_table(kept, row_group_size=max(kept.num_rows, 1))

    with explain_full_disk(path):
        write_atomically(path, write, private=mode_is_private)
