"""What a live worker knows: each person's events, as columns, a person's side by side in the order they happened.

Nothing is folded away: values at any moment, under any grant, can be told from it, and the order in which events arrive
doesn't matter. It is made from the archive and the log and may be lost at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aap.events.streaming.columns import EventColumns
from aap.features.streaming.plan import TypeLayout

__all__ = ["Events", "Memory", "spread"]

_FIRST_ROOM = 4
_PAIRS = 64
"""People with more new events than this, or ten thousand pairs of a new event and another, are sorted instead."""


class Memory:
    """The events of the people of one partition. A person is known by a row number."""

    def __init__(self, layouts: Mapping[str, TypeLayout]) -> None:
        self.keys: list[str] = []
        self.floor = np.empty(0, np.int64)
        """Of each person, a moment (microseconds since 1970) that no row of theirs is to be made as of before."""
        self.events = {event: Events(layout) for event, layout in layouts.items()}
        self._rows: dict[str, int] = {}

    def rows_of(self, keys: Sequence[str]) -> np.ndarray:
        """The row of each of `keys`; who is new gets one."""
        known = self._rows
        for key in keys:
            if key not in known:
                known[key] = len(self.keys)
                self.keys.append(key)
        if len(self.keys) > len(self.floor):
            self.floor = np.concatenate((self.floor, np.zeros(max(64, len(self.keys)), np.int64)))
        return np.array([known[k] for k in keys], np.int64)

    def add(self, arrived: EventColumns) -> None:
        """Take in events, none of them taken before."""
        rows = self.rows_of(arrived.user_keys)
        self.events[arrived.type].add(rows, arrived, people=len(self.keys))

    def forget(self, row: int) -> None:
        """Let go of everything of one person."""
        for events in self.events.values():
            events.forget(row)


class Events:
    """The events of one type, by person. `sums`, `codes` and `texts` are laid out as the `TypeLayout` says."""

    def __init__(self, layout: TypeLayout) -> None:
        self._layout = layout
        self._start = np.zeros(0, np.int64)
        self._length = np.zeros(0, np.int64)
        self._room = np.zeros(0, np.int64)
        self._used = 0
        self.occurred = np.empty(0, np.int64)
        self.sums = np.empty((0, len(layout.sums)), np.int64)
        self.codes = np.empty((0, len(layout.codes)), np.int64)
        self.texts = np.empty((0, layout.text_columns), object)

    def segments(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the events of each of `rows` begin and how many they are."""
        held = rows < len(self._start)
        places = np.where(held, rows, 0)
        if not len(self._start):
            return np.zeros_like(rows), np.zeros_like(rows)
        return self._start[places], np.where(held, self._length[places], 0)

    def add(self, rows: np.ndarray, arrived: EventColumns, *, people: int) -> None:
        """Take in events of the people in `rows`, of all the people there are."""
        sums, codes, texts = self._layout.extract(arrived)
        order = np.lexsort((arrived.occurred, rows))
        rows = rows[order]
        first = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1])))
        who, count = rows[first], np.diff(np.append(first, len(rows)))
        self._make_room(who, count, people=people)
        places = spread(self._start[who] + self._length[who], count)
        self.occurred[places], self.sums[places], self.codes[places] = (
            arrived.occurred[order],
            sums[order],
            codes[order],
        )
        self.texts[places] = texts[order]
        old = self._length[who]
        self._length[who] += count
        if self._layout.codes:
            self._mark_last(who, old, count)
        late = old > 0
        late[late] = self.occurred[(self._start[who] + old)[late]] < self.occurred[(self._start[who] + old - 1)[late]]
        if late.any():
            self._sort(who[late])

    def forget(self, row: int) -> None:
        """Let go of one person's events."""
        if row < len(self._length):
            start, room = self._start[row], self._room[row]
            self.texts[start : start + room] = None
            self.sums[start : start + room] = 0
            self._length[row] = 0

    def _make_room(self, who: np.ndarray, count: np.ndarray, *, people: int) -> None:
        if people > len(self._start):
            more = np.zeros(max(people, 2 * len(self._start)) - len(self._start), np.int64)
            self._start, self._length, self._room = (
                np.concatenate((held, more)) for held in (self._start, self._length, self._room)
            )
        needed = self._length[who] + count
        tight = needed > self._room[who]
        movers = who[tight]
        room = np.maximum(_FIRST_ROOM, 1 << np.ceil(np.log2(needed[tight])).astype(np.int64))
        if self._used + room.sum() > len(self.occurred):
            self._compact()
            if self._used + room.sum() > len(self.occurred) * 3 // 4:
                self._grow(2 * (self._used + int(room.sum())))
        begins = self._used + np.cumsum(room) - room
        self._used += int(room.sum())
        source, length = spread(self._start[movers], self._length[movers]), self._length[movers]
        self._copy(source, spread(begins, length))
        self._start[movers], self._room[movers] = begins, room

    def _copy(self, source: np.ndarray, to: np.ndarray) -> None:
        for held in (self.occurred, self.sums, self.codes, self.texts):
            held[to] = held[source]
        self.texts[source] = None

    def _grow(self, size: int) -> None:
        grown = []
        for held in (self.occurred, self.sums, self.codes, self.texts):
            wider = np.empty((size, *held.shape[1:]), held.dtype)
            wider[: len(held)] = held
            grown.append(wider)
        self.occurred, self.sums, self.codes, self.texts = grown

    def _compact(self) -> None:
        """Close the gaps that people who moved have left."""
        order = np.argsort(self._start, kind="stable")
        order = order[self._room[order] > 0]
        length, room = self._length[order], self._room[order]
        begins = np.cumsum(room) - room
        source, to = spread(self._start[order], length), spread(begins, length)
        for held in (self.occurred, self.sums, self.codes, self.texts):
            held[to] = held[source]
        self._start[order] = begins
        self._used = int(room.sum())

    def _sort(self, who: np.ndarray) -> None:
        start, length = self.segments(who)
        places = spread(start, length)
        order = places[np.lexsort((self.occurred[places], np.repeat(np.arange(len(who)), length)))]
        for held in (self.occurred, self.sums, self.codes, self.texts):
            held[places] = held[order]

    def _mark_last(self, who: np.ndarray, old: np.ndarray, count: np.ndarray) -> None:
        """Of the events of one person with one value, only the last one's flag stays 1."""
        many = (count > _PAIRS) | (count * (old + count) > 10_000)
        for chosen in np.array_split(np.flatnonzero(~many), 1 + int((count * (old + count))[~many].sum()) // 2_000_000):
            self._mark_by_pairs(who[chosen], old[chosen], count[chosen])
        for one in np.flatnonzero(many):
            self._mark_by_sorting(int(self._start[who[one]]), int(self._length[who[one]]))

    def _mark_by_pairs(self, who: np.ndarray, old: np.ndarray, count: np.ndarray) -> None:
        whole = old + count
        new = spread(self._start[who] + old, count)
        each = np.repeat(whole, count)
        mine, other = np.repeat(new, each), spread(np.repeat(self._start[who], count), each)
        earlier = (self.occurred[other] < self.occurred[mine]) | (
            (self.occurred[other] == self.occurred[mine]) & (other < mine)
        )
        apart = other != mine
        for code, place in self._flags():
            flags, codes = self.sums[:, place], self.codes[:, code]
            same = (codes[other] == codes[mine]) & apart
            same &= codes[mine] != np.iinfo(np.int64).min
            flags[other[same & earlier]] = 0
            # of two that are not new the later one is marked already, so only a new one can be the earlier here
            flags[mine[same & ~earlier]] = 0

    def _mark_by_sorting(self, start: int, length: int) -> None:
        occurred = self.occurred[start : start + length]
        for code, place in self._flags():
            codes = self.codes[start : start + length, code]
            order = np.lexsort((occurred, codes))
            last = np.append(codes[order][1:] != codes[order][:-1], True)
            last &= codes[order] != np.iinfo(np.int64).min
            self.sums[start + order, place] = last

    def _flags(self) -> list[tuple[int, int]]:
        return [(i, self._layout.sums.index(signal)) for i, signal in enumerate(self._layout.codes)]


def spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`starts[0]`, `starts[0] + 1`, … `lengths[0]` of them, then those from `starts[1]` on, and so forth."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(int(ends[-1]) if len(ends) else 0)
