"""The packed row: all of one person's values for one purpose as a few hundred bytes, read by numpy without parsing.

A row is a header and the view's numbers as float64, then, where a view has sequences, those as msgpack. The header says
which declarations and which grant it was made under, as of when, until when it holds if nothing happens, and when it is
too old to be read. As it is stored, a person's row begins with a copy of their consent projection
(`src/aap/consent/redis_projection.py`), which the scripts that write put there and keep level; an item has no consent. Beside
it lies a timetable: which numbers change by themselves, when, and to what. It says which row it goes with, and is of no use
beside another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

import msgspec
import numpy as np

from aap.consent import redis_projection
from aap.features.declarations import Entity
from aap.features.views import View

__all__ = [
    "AS_OF",
    "CHANGE",
    "EXPIRES_AT",
    "GRANT_START",
    "HEADER",
    "MADE_BY",
    "NEVER",
    "VALID_UNTIL",
    "PackedRows",
    "changes",
    "consent_size",
    "cut",
    "header_of",
    "pack_row",
    "pack_rows",
    "pack_sequences",
    "pack_timetable",
    "pack_timetables",
    "parts",
    "row_layout",
    "sequences_of",
    "stored_size",
    "timetable_of",
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

MADE_BY, AS_OF, VALID_UNTIL, EXPIRES_AT, GRANT_START, _WORDS = range(6)
"""Places in a header read as integers, and how many there are; the first is fingerprint and number of numbers in one."""

NEVER = np.iinfo(np.int64).max
"""`valid_until` of a row that nothing but an event changes."""

_TIMETABLE = np.dtype([("fingerprint", "<u4"), ("changes", "<u4"), ("as_of", "<i8"), ("grant_start", "<i8")])


CHANGE = np.dtype([("moment", "<i8"), ("place", "<u2"), ("value", "<f8")])
"""One entry of a timetable: from `moment` (microseconds since 1970) on, the number at `place` is `value`."""


@dataclass(frozen=True, slots=True)
class PackedRows(Sequence[bytes]):
    """Many rows in one piece of memory; each is cut out when it is asked for."""

    whole: bytes
    edges: np.ndarray
    """int64 `[n + 1]`: where in `whole` each row begins, and the last ends."""

    @classmethod
    def of(cls, rows: Sequence[bytes]) -> PackedRows:
        """From rows that lie apart, unless they lie together already."""
        if isinstance(rows, PackedRows):
            return rows
        return cls(b"".join(rows), np.cumsum([0, *map(len, rows)]))

    def joined(self) -> bytes:
        """All of them, one after another."""
        return self.whole[int(self.edges[0]) : int(self.edges[-1])]

    def __len__(self) -> int:
        return len(self.edges) - 1

    @overload
    def __getitem__(self, place: int) -> bytes: ...

    @overload
    def __getitem__(self, place: slice) -> PackedRows: ...

    def __getitem__(self, place: int | slice) -> bytes | PackedRows:
        if isinstance(place, slice):
            first, end, _ = place.indices(len(self))
            return PackedRows(self.whole, self.edges[first : max(first, end) + 1])
        first = range(len(self))[place]
        return self.whole[int(self.edges[first]) : int(self.edges[first + 1])]

    def __iter__(self) -> Iterator[bytes]:
        return iter(cut(self.whole, self.edges))


def consent_size(view: View) -> int:
    """Bytes of consent that a row of `view` begins with, as it is stored."""
    return redis_projection.ROW.itemsize if view.entity is Entity.USER else 0


def stored_size(view: View) -> int:
    """Bytes of a row as it is stored, up to its sequences: consent, header and the view's numbers."""
    return consent_size(view) + HEADER.itemsize + 8 * len(view.numbers)


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
    tail = pack_sequences(sequences) if view.sequences else b""
    return header.tobytes() + values.astype("<f8", copy=False).tobytes() + tail


def pack_sequences(sequences: Sequence[Sequence[str]]) -> bytes:
    """What follows the numbers in a row of a view with sequences."""
    return msgspec.msgpack.encode(list(sequences))


def parts(view: View, blobs: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Consent int64 `[n, projection.WORDS]` (of items `[n, 0]`), headers int64 `[n, 5]` and numbers float64
    `[n, n_numbers]`, all of one writable table; zeros where no row is sound.

    A header is read as integers, of which `MADE_BY` and so on are the places.
    """
    size, before = stored_size(view), consent_size(view) // 8
    held: Sequence[bytes] = blobs  # type: ignore[assignment]
    if None in blobs or set(map(len, held)) - {size}:
        empty = bytes(size)
        held = [b[:size] if b is not None and len(b) >= size else empty for b in blobs]
    table = np.frombuffer(bytearray().join(held), "<f8").reshape(len(blobs), size // 8)
    whole = table.view("<i8")
    return whole[:, :before], whole[:, before : before + _WORDS], table[:, before + _WORDS :]


def header_of(view: View, blob: bytes) -> np.void:
    """The header of one stored row."""
    return np.frombuffer(blob, HEADER, count=1, offset=consent_size(view))[0]


def sequences_of(view: View, blob: bytes) -> list[list[str]]:
    """The lists of one stored row, in the order of `view.sequences`."""
    tail = blob[stored_size(view) :]
    return msgspec.msgpack.decode(tail, type=list[list[str]]) if tail else [[] for _ in view.sequences]


def pack_rows(
    view: View, values: np.ndarray, *, as_of: int, valid_until: np.ndarray, grant_start: np.ndarray
) -> PackedRows:
    """Many rows at once, without sequences: `values` is float64 `[n, n_numbers]`, the two moments int64 `[n]`."""
    table = np.zeros(len(values), row_layout(view))
    header = table["header"]
    header["fingerprint"], header["numbers"] = view.fingerprint, len(view.numbers)
    header["as_of"], header["valid_until"], header["grant_start"] = as_of, valid_until, grant_start
    header["expires_at"] = as_of + view.time_to_live_us
    table["numbers"] = values
    return PackedRows(table.tobytes(), np.arange(len(values) + 1) * table.itemsize)


def row_layout(view: View) -> np.dtype[Any]:
    """A row without its sequences, for numpy."""
    return np.dtype([("header", HEADER), ("numbers", "<f8", (len(view.numbers),))])


def changes(before: np.ndarray, moments: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What differs from row to row: entries (`CHANGE`, in order), and how many there are of each row, int64 `[m]`.

    `before` and `values` are float64 `[m, n_numbers]`: the row that held, and the one that holds from `moments[i]` on.
    """
    differs = (before != values) & ~(np.isnan(before) & np.isnan(values))
    row, place = np.nonzero(differs)
    found = np.empty(len(row), CHANGE)
    found["moment"], found["place"], found["value"] = moments[row], place, values[row, place]
    return found, np.bincount(row, minlength=len(values))


def pack_timetables(
    view: View, entries: np.ndarray, counts: np.ndarray, *, as_of: int, grant_start: np.ndarray
) -> list[bytes]:
    """One timetable a person, of rows as of `as_of`: `counts` int64 `[n]` of the `entries` are theirs, in order."""
    header = np.zeros(len(counts), _TIMETABLE)
    header["fingerprint"], header["changes"] = view.fingerprint, counts
    header["as_of"], header["grant_start"] = as_of, grant_start
    heads = cut(header.tobytes(), np.arange(len(counts) + 1) * _TIMETABLE.itemsize)
    bodies = cut(entries.tobytes(), np.concatenate(([0], np.cumsum(counts))) * CHANGE.itemsize)
    return [head + body for head, body in zip(heads, bodies, strict=True)]


def pack_timetable(
    view: View, before: np.ndarray, moments: np.ndarray, values: np.ndarray, *, as_of: int, grant_start: int
) -> bytes:
    """One person's timetable: `before` float64 `[n_numbers]` holds as of `as_of`, `values[i]` from `moments[i]` on."""
    entries, counts = changes(np.vstack((before[None], values[:-1])), moments, values)
    total, start = np.array([counts.sum()]), np.array([grant_start])
    return pack_timetables(view, entries, total, as_of=as_of, grant_start=start)[0]


def timetable_of(view: View, blob: bytes | None, *, as_of: int, grant_start: int) -> np.ndarray | None:
    """The entries (`CHANGE`, moments ascending) that go with the row as of `as_of` under the grant of `grant_start`.

    None when they are missing or damaged, or belong to another row.
    """
    if blob is None or len(blob) < _TIMETABLE.itemsize:
        return None
    told = np.frombuffer(blob, _TIMETABLE, count=1)[0]
    if (told["fingerprint"], told["as_of"], told["grant_start"]) != (view.fingerprint, as_of, grant_start):
        return None
    if len(blob) != _TIMETABLE.itemsize + int(told["changes"]) * CHANGE.itemsize:
        return None
    entries = np.frombuffer(blob, CHANGE, offset=_TIMETABLE.itemsize)
    return entries if (entries["place"] < len(view.numbers)).all() else None


def cut(whole: bytes, edges: np.ndarray) -> list[bytes]:
    """`whole` in pieces, from each of `edges` (ascending) to the next."""
    places = edges.tolist()
    return [whole[first:end] for first, end in pairwise(places)]
