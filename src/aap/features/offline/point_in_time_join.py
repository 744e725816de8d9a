"""The point-in-time join: for each row, the values that held at its moment. No row is lost, doubled or moved.

A view's files hold an entity's change points side by side, in the order of their moments (`offline_values`). So the row
that held is found by bisection, and only such rows are taken: nothing is sorted (`docs/adr/0020`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aap.features.declarations import DAY_US, Entity
from aap.features.offline.store import OfflineValues, Piece
from aap.features.views import View

__all__ = ["Join", "point_in_time_join"]


class Join(Protocol):
    """A point-in-time join, as `point_in_time_join` is one."""

    def __call__(
        self, values: OfflineValues, *, keys: pa.Array, moments: np.ndarray, features: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values float64 `[n, n_features]`, found bool `[n]`, grant_start int64 `[n]`."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """The rows to be answered: `who` int64 `[n]` are places in `names`, `moments` int64 `[n]` microseconds."""

    names: pa.Array
    who: np.ndarray
    moments: np.ndarray


@dataclass(frozen=True, slots=True)
class _Answer:
    """For each row: float64 `[n, n_features]`, and int64 `[n]` since when the grant holds; -1 where nothing is known."""

    values: np.ndarray
    starts: np.ndarray


def point_in_time_join(
    values: OfflineValues, *, keys: pa.Array, moments: np.ndarray, features: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of `features` for each (key, moment), in the order given.

    `keys` are `[n]` entity keys, `moments` int64 `[n]` microseconds. Returns values float64 `[n, n_features]` (times since a
    moment in days, NaN for null or where nothing is known), `found` bool `[n]`, and `grant_start` int64 `[n]` in
    microseconds (-1 where not found; 0 for items). Raises `DamagedValues`.
    """
    encoded = keys.cast(pa.string()).dictionary_encode()
    who = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    asked = _Asked(encoded.dictionary, who, moments)
    answer = _Answer(
        np.full((len(keys), len(features)), np.nan, order="F"), np.full(len(keys), -1, np.int64)
    )  # a file's people are nobody else's: each thread has its own rows
    with values.reading(), ThreadPoolExecutor(os.cpu_count()) as readers:
        list(readers.map(lambda piece: _answer(values, piece, asked, features, into=answer), values.pieces))
    return answer.values, answer.starts >= 0, answer.starts


def _answer(values: OfflineValues, piece: Piece, asked: _Asked, features: Sequence[str], *, into: _Answer) -> None:
    """Answer the rows of those whose change points are in this file."""
    view = values.view
    with values.folder.open(piece.name) as file, pq.ParquetFile(file, read_dictionary=[view.key]) as opened:
        person = view.entity is Entity.USER
        told = opened.read(["valid_from", view.key, *(["grant_start"] if person else [])], use_threads=False)
        names, edges = _runs(told[view.key])
        ours = np.append(pc.index_in(asked.names, names).fill_null(-1).to_numpy(zero_copy_only=False), -1)[asked.who]
        places = np.flatnonzero(ours >= 0)
        entities, at = ours[places], asked.moments[places]
        rows = _last_by(_micros(told["valid_from"]), edges[entities], edges[entities + 1], at)
        known = rows >= edges[entities]
        places, rows = places[known], rows[known]
        into.starts[places] = _micros(told["grant_start"])[rows] if person else 0
        _take(view, opened, features, rows=rows, places=places, asked=asked, into=into)


def _take(
    view: View,
    opened: pq.ParquetFile,
    features: Sequence[str],
    *,
    rows: np.ndarray,
    places: np.ndarray,
    asked: _Asked,
    into: _Answer,
) -> None:
    """Put the values of the file's `rows` where `places` says, a row group at a time."""
    since = {name for name, moment in zip(view.names, view.since, strict=True) if moment}
    begin = 0
    for group in range(opened.num_row_groups if features else 0):
        end = begin + opened.metadata.row_group(group).num_rows
        here = (rows >= begin) & (rows < end)
        if here.any():
            held, mine, to = (
                opened.read_row_group(group, list(features), use_threads=False),
                rows[here] - begin,
                places[here],
            )
            for column, name in enumerate(features):
                found = _numbers(held[name])[mine]
                into.values[to, column] = (asked.moments[to] - found) / DAY_US if name in since else found
        begin = end


def _runs(keys: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """The different keys of a column where equal ones are side by side, and where each begins: int64 `[keys + 1]`."""
    whole = keys.combine_chunks()
    encoded = pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    begins = np.flatnonzero(np.concatenate((np.ones(min(1, len(codes)), bool), codes[1:] != codes[:-1])))
    return encoded.dictionary.take(pa.array(codes[begins])), np.append(begins, len(codes))


def _last_by(moments: np.ndarray, first: np.ndarray, end: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Of each span `[first, end)` of ascending `moments`, the last place that is not after `at`; `first - 1` if none is."""
    low, high = first.copy(), end.copy()
    for _ in range(int((end - first).max(initial=0)).bit_length()):
        middle = (low + high) // 2
        open_ = low < high
        past = open_ & (moments[np.where(open_, middle, 0)] <= at)
        low = np.where(past, middle + 1, low)
        high = np.where(open_ & ~past, middle, high)
    return low - 1


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """float64, NaN for null; a moment as microseconds since 1970."""
    whole = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    return whole.cast(pa.float64(), safe=False).to_numpy()


def _micros(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
