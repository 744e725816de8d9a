"""Accepted events: one by one, and as columns, which is how the log keeps them and how many are handled at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, compress
from typing import Any

import msgspec
import numpy as np

__all__ = ["EventColumns", "LoggedEvent", "by_type", "decode", "encode", "merged"]

Value = str | int | float | None


class LoggedEvent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One accepted event. Moments are microseconds since 1970."""

    source: str
    id: str
    type: str
    user_key: str
    occurred_at: int
    available_at: int
    fields: dict[str, Value]


class EventColumns(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Events of one type, one entry of each column an event. Moments are int64 as bytes; see `occurred`, `available`."""

    type: str
    sources: list[str]
    ids: list[str]
    user_keys: list[str]
    occurred_at: bytes
    available_at: bytes
    fields: dict[str, list[Value]]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def occurred(self) -> np.ndarray:
        """When they happened, int64, microseconds since 1970."""
        return np.frombuffer(self.occurred_at, "<i8")

    @property
    def available(self) -> np.ndarray:
        """When they were accepted, int64, microseconds since 1970."""
        return np.frombuffer(self.available_at, "<i8")

    def column(self, name: str) -> Sequence[Value]:
        """The values of one field, None where an event has none."""
        held = self.fields.get(name)
        return [None] * len(self) if held is None else held

    def chosen(self, which: np.ndarray) -> EventColumns:
        """Those where `which` (bool) is true."""
        if which.all():
            return self
        yes = which.tolist()
        return EventColumns(
            self.type,
            list(compress(self.sources, yes)),
            list(compress(self.ids, yes)),
            list(compress(self.user_keys, yes)),
            self.occurred[which].tobytes(),
            self.available[which].tobytes(),
            {name: list(compress(values, yes)) for name, values in self.fields.items()},
        )

    def events(self) -> list[LoggedEvent]:
        """One by one."""
        rows = zip(*self.fields.values(), strict=True) if self.fields else ((),) * len(self)
        moments = self.occurred.tolist(), self.available.tolist()
        return [
            LoggedEvent(source, name, self.type, key, occurred, available, dict(zip(self.fields, row, strict=True)))
            for source, name, key, occurred, available, row in zip(
                self.sources, self.ids, self.user_keys, *moments, rows, strict=True
            )
        ]

    def named(self, names: set[tuple[str, str]]) -> np.ndarray:
        """Whose (source, id) is among `names`, bool."""
        pairs = zip(self.sources, self.ids, strict=True)
        return np.fromiter((pair in names for pair in pairs), dtype=bool, count=len(self))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[EventColumns]).decode


def encode(events: Sequence[LoggedEvent]) -> bytes:
    """An entry of the log."""
    return _encode(by_type(events))


def decode(entry: bytes) -> list[EventColumns]:
    """What an entry of the log holds, by type."""
    return _decode(entry)


def by_type(events: Iterable[LoggedEvent]) -> list[EventColumns]:
    """`events` as columns, one a type, in their order."""
    found: dict[str, list[LoggedEvent]] = {}
    for event in events:
        found.setdefault(event.type, []).append(event)
    return [_columns(kind, ours) for kind, ours in found.items()]


def merged(parts: Iterable[EventColumns]) -> dict[str, EventColumns]:
    """All parts of one type in one."""
    found: dict[str, list[EventColumns]] = {}
    for part in parts:
        found.setdefault(part.type, []).append(part)
    return {kind: ours[0] if len(ours) == 1 else _joined(kind, ours) for kind, ours in found.items()}


def _columns(kind: str, events: Sequence[LoggedEvent]) -> EventColumns:
    fields: list[Mapping[str, Value]] = [e.fields for e in events]
    names: Iterable[str] = fields[0]
    if any(f.keys() != fields[0].keys() for f in fields):
        names = dict.fromkeys(chain.from_iterable(fields))
    return EventColumns(
        kind,
        [e.source for e in events],
        [e.id for e in events],
        [e.user_key for e in events],
        np.array([e.occurred_at for e in events], "<i8").tobytes(),
        np.array([e.available_at for e in events], "<i8").tobytes(),
        {name: [f.get(name) for f in fields] for name in names},
    )


def _joined(kind: str, parts: Sequence[EventColumns]) -> EventColumns:
    names = dict.fromkeys(chain.from_iterable(p.fields for p in parts))
    return EventColumns(
        kind,
        _chain(p.sources for p in parts),
        _chain(p.ids for p in parts),
        _chain(p.user_keys for p in parts),
        b"".join([p.occurred_at for p in parts]),
        b"".join([p.available_at for p in parts]),
        {name: _chain(p.column(name) for p in parts) for name in names},
    )


def _chain(columns: Iterable[Sequence[Any]]) -> list[Any]:
    return list(chain.from_iterable(columns))
