"""The packed row: all of one person's values for one purpose as a few hundred bytes, read by numpy without parsing.

A row is a header and the view's numbers as float64, then, where a view has sequences, those as msgpack. The header says
which declarations and which grant it was made under, as of when, until when it holds if nothing happens, and when it is
too old to be read. Beside it lies a timetable: the values at each later moment they change by themselves.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from feature_repo.views import View

__all__ = [
    "HEADER",
    "NEVER",
    "Timetable",
    "header_of",
    "numbers_size",
    "pack_row",
    "pack_timetable",
    "sequences_of",
    "unpack_timetable",
]

HEADER = np.dtype(
    [
        ("fingerprint", "<u4"),
        ("numbers", "<u4"),
        ("as_of", "<i8"),
        ("valid_until", "<i8"),
        ("expires_at", "<i8"),
        ("grant_start", "<i8"),
    ]
)
"""All moments are microseconds since 1970."""

NEVER = np.iinfo(np.int64).max
"""`valid_until` of a row that nothing but an event changes."""

_TIMETABLE = np.dtype([("fingerprint", "<u4"), ("rows", "<u4"), ("grant_start", "<i8")])


@dataclass(frozen=True, slots=True)
class Timetable:
    """Values to come: from `moments[i]` (microseconds, ascending) on, `values[i]` hold."""

    moments: np.ndarray
    values: np.ndarray

    def at(self, now: int) -> np.ndarray | None:
        """The values at `now` (microseconds), or None when the timetable begins later."""
        place = int(np.searchsorted(self.moments, now, side="right")) - 1
        return None if place < 0 else self.values[place]


def numbers_size(view: View) -> int:
    """Bytes of a header and the view's numbers."""
    return HEADER.itemsize + 8 * len(view.numbers)


def pack_row(
    view: View,
    values: np.ndarray,
    *,
    as_of: int,
    valid_until: int,
    grant_start: int,
    sequences: Sequence[Sequence[str]] = (),
) -> bytes:
    """One row. `values` is float64 `[n_numbers]`, NaN for null; features that tell time since a moment hold that moment."""
    header = np.zeros((), dtype=HEADER)
    header["fingerprint"], header["numbers"] = view.fingerprint, len(values)
    header["as_of"], header["valid_until"], header["grant_start"] = as_of, valid_until, grant_start
    header["expires_at"] = as_of + view.time_to_live_us
    tail = msgspec.msgpack.encode(list(sequences)) if view.sequences else b""
    return header.tobytes() + values.astype("<f8", copy=False).tobytes() + tail


def header_of(blob: bytes) -> np.void:
    """The header of one row."""
    return np.frombuffer(blob, HEADER, count=1)[0]


def sequences_of(view: View, blob: bytes) -> list[list[str]]:
    """The lists of one row, in the order of `view.sequences`."""
    tail = blob[numbers_size(view) :]
    return msgspec.msgpack.decode(tail, type=list[list[str]]) if tail else [[] for _ in view.sequences]


def pack_timetable(view: View, moments: np.ndarray, values: np.ndarray, *, grant_start: int) -> bytes:
    """A timetable: `moments` int64 `[m]` ascending, `values` float64 `[m, n_numbers]`. Compressed: rows differ little."""
    header = np.zeros((), dtype=_TIMETABLE)
    header["fingerprint"], header["rows"], header["grant_start"] = view.fingerprint, len(moments), grant_start
    body = moments.astype("<i8").tobytes() + values.astype("<f8").tobytes()
    return header.tobytes() + zlib.compress(body, level=1)


def unpack_timetable(view: View, blob: bytes | None, *, grant_start: int) -> Timetable | None:
    """The timetable in `blob`, or None when it is missing, damaged, or belongs to other declarations or another grant."""
    if blob is None or len(blob) < _TIMETABLE.itemsize:
        return None
    header = np.frombuffer(blob, _TIMETABLE, count=1)[0]
    if header["fingerprint"] != view.fingerprint or header["grant_start"] != grant_start:
        return None
    rows, width = int(header["rows"]), len(view.numbers)
    try:
        body = zlib.decompress(blob[_TIMETABLE.itemsize :])
    except zlib.error:
        return None
    if len(body) != 8 * rows * (1 + width):
        return None
    moments = np.frombuffer(body, "<i8", count=rows)
    return Timetable(moments, np.frombuffer(body, "<f8", offset=8 * rows).reshape(rows, width))
