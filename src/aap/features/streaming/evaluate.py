"""The values of a view for many people at once, from a live worker's memory: now, and at each moment they change by
themselves.

A person's events lie in the order they happened, so a window is a span of them, found by bisection, and a sum over it is
the difference of two running totals. Totals are whole numbers: nothing drifts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from aap.features.declarations import DAY_US, Op
from aap.features.online.row_codec import NEVER, changes, pack_rows, pack_sequences, pack_timetables
from aap.features.online.writer import OnlineRows
from aap.features.streaming.plan import LivePlan, Read
from aap.features.streaming.state import Memory, spread

__all__ = ["PEOPLE", "LiveValues", "evaluate", "pack"]

PEOPLE = 4_000
"""People evaluated at once, at most: (person, moment) pairs are searched for as one number of 63 bits."""

_SHIFT = 51  # microseconds since 1970 fit in until the year 2041


@dataclass(frozen=True, slots=True)
class LiveValues:
    """Values of some people: those that hold at a moment, and then those from each moment of change on."""

    person: np.ndarray
    """int64 `[m]`, ascending, places in what was asked for; the first of each holds at the moment asked for."""
    moments: np.ndarray
    """int64 `[m]`: from when on, microseconds since 1970."""
    numbers: np.ndarray
    """float64 `[m, n_numbers]`; NaN for null, a moment where the reader tells the time since it."""
    valid_until: np.ndarray
    """int64 `[n]`: until when the first row holds if nothing happens."""
    lists: list[list[list[str]]]
    """Of each person the view's sequences, if it has any."""


@dataclass(slots=True)
class _Spans:
    """The events of one type of the people asked about: a person's side by side, in order."""

    occurred: np.ndarray
    key: np.ndarray
    """person and moment in one, ascending."""
    totals: np.ndarray
    """int64 `[events + 1, sums]`, running."""
    sums: np.ndarray
    first: np.ndarray
    """Of each person, the first event under their grant."""
    end: np.ndarray
    places: np.ndarray
    texts: np.ndarray
    """Of the memory, by `places`: source and id of each event first, where they are kept."""
    _days: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def days(self, counts: int) -> tuple[np.ndarray, np.ndarray]:
        """When each day with an event under the grant began, a person's side by side, in order; and of each event, and of the
        end, how many such days begin before it. Only of events that the sums at `counts` count, unless that is -1.
        """
        if counts not in self._days:
            person = self.key >> _SHIFT
            counted = np.flatnonzero(np.arange(len(person)) >= self.first[person])
            if counts >= 0:
                counted = counted[self.sums[counted, counts] > 0]
            begun = self.occurred[counted] // DAY_US * DAY_US
            new = np.diff((person[counted] << _SHIFT) + begun, prepend=-1) != 0
            known = np.zeros(len(person) + 1, np.int64)
            known[counted[new] + 1] = 1
            self._days[counts] = begun[new], np.cumsum(known)
        return self._days[counts]


def evaluate(
    memory: Memory, plan: LivePlan, rows: np.ndarray, *, starts: np.ndarray, at: int | np.ndarray, ahead: bool
) -> LiveValues:
    """The values at `at` (one moment, or int64 `[n]`) of at most `PEOPLE` people, whose grants began at `starts` (`[n]`).

    What the memory holds is taken to have come by then. With `ahead` also those from each moment of change on, for as long
    as a row made at `at` may be read.
    """
    held = {event: _spans(memory, event, rows, starts) for event in plan.events}
    person, moments = np.arange(len(rows)), np.broadcast_to(np.asarray(at), len(rows))
    valid_until = np.full(len(rows), NEVER)
    more: list[np.ndarray] = []
    for event, window, hop in sorted({(r.event, r.window, r.hop) for r in plan.reads if r.window}):
        spans = held[event]
        inside = _begin(spans, person, moments, window, hop)
        there = inside < spans.end
        leaves = -(-spans.occurred[inside[there]] // hop) * hop + window
        valid_until[there] = np.minimum(valid_until[there], leaves)
        if ahead:
            more.append(_leaving(spans, inside, window, hop, before=moments + plan.view.time_to_live_us))
    if ahead:
        every = np.unique(np.concatenate([(person << _SHIFT) + moments, *more]))
        person, moments = every >> _SHIFT, every & ((1 << _SHIFT) - 1)
    numbers = np.empty((len(person), len(plan.view.numbers)))
    for read in plan.reads:
        numbers[:, read.number] = _value(held[read.event], read, person, moments)
    for number, top, bottom, default in plan.ratios:
        over = numbers[:, bottom]
        undefined = np.isnan(numbers[:, top]) | np.isnan(over) | (over == 0)
        numbers[:, number] = np.where(undefined, default, numbers[:, top] / np.where(undefined, 1.0, over))
    return LiveValues(person, moments, numbers, valid_until, _lists(plan, held, len(rows)))


def pack(
    plan: LivePlan, keys: Sequence[str], found: LiveValues, *, starts: np.ndarray, at: int, ahead: bool
) -> OnlineRows:
    """The rows of `found`, as of `at`, each with its timetable if they were evaluated `ahead`."""
    view, n = plan.view, len(keys)
    first = np.searchsorted(found.person, np.arange(n))
    packed: Sequence[bytes] = pack_rows(
        view, found.numbers[first], as_of=at, valid_until=found.valid_until, grant_start=starts
    )
    tables = [b""] * n
    if ahead:
        later = np.ones(len(found.person), dtype=bool)
        later[first] = False
        after = np.flatnonzero(later)
        entries, counts = changes(found.numbers[after - 1], found.moments[after], found.numbers[after])
        mine = np.bincount(np.repeat(found.person[after], counts), minlength=n)
        any_ = np.bincount(found.person[after], minlength=n) > 0
        made = pack_timetables(view, entries, mine, as_of=at, grant_start=starts)
        tables = [table if some else b"" for table, some in zip(made, any_.tolist(), strict=True)]
    if view.sequences:
        packed = [row + pack_sequences(lists) for row, lists in zip(packed, found.lists, strict=True)]
    return OnlineRows(keys, packed, tables, np.full(n, at), starts)


def _spans(memory: Memory, event: str, rows: np.ndarray, starts: np.ndarray) -> _Spans:
    events = memory.events[event]
    begin, length = events.segments(rows)
    places = spread(begin, length)
    occurred, sums = events.occurred[places], events.sums[places]
    person = np.arange(len(rows)) << _SHIFT
    key = np.repeat(person, length) + occurred
    totals = np.zeros((len(places) + 1, sums.shape[1]), np.int64)
    np.cumsum(sums, axis=0, out=totals[1:])
    first = np.searchsorted(key, person + starts, side="left")
    return _Spans(occurred, key, totals, sums, first, np.cumsum(length), places, events.texts)


def _begin(spans: _Spans, person: np.ndarray, moments: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Of each (person, moment) the first event that is in the window, or the person's end."""
    if not window:
        return spans.first[person]
    cut = (moments - window) // hop * hop
    return np.maximum(np.searchsorted(spans.key, (person << _SHIFT) + cut, side="right"), spans.first[person])


def _leaving(spans: _Spans, inside: np.ndarray, window: int, hop: int, *, before: np.ndarray) -> np.ndarray:
    """(person, moment) in one, of every moment before `before` at which events leave the window."""
    length = spans.end - inside
    places, person = spread(inside, length), np.repeat(np.arange(len(length)), length)
    leaves = -(-spans.occurred[places] // hop) * hop + window
    soon = leaves < before[person]
    return np.unique((person[soon] << _SHIFT) + leaves[soon])


def _value(spans: _Spans, read: Read, person: np.ndarray, moments: np.ndarray) -> np.ndarray:
    begin, end = _begin(spans, person, moments, read.window, read.hop), spans.end[person]
    counts = end - begin if read.counts < 0 else spans.totals[end, read.counts] - spans.totals[begin, read.counts]
    if read.op is Op.COUNT:
        return counts.astype(np.float64)
    if read.op in (Op.SINCE_LAST, Op.SINCE_FIRST):
        return _moment(spans, read, begin, end, counts)
    if read.op is Op.SINCE_NTH_DAY:
        return _day(spans, read, person, end)
    if read.op is Op.LAST:
        found = spans.sums[_last(spans, read, end), read.value] if len(spans.sums) else np.zeros(len(end), np.int64)
    elif read.op in (Op.MIN, Op.MAX):
        found = _extreme(spans, read, spans.sums[:, read.value], begin, end)
    else:
        found = spans.totals[end, read.value] - spans.totals[begin, read.value]
    if read.op in (Op.SUM, Op.DISTINCT):
        return found / read.scale
    divided = found / np.maximum(counts, 1) if read.op is Op.MEAN else found
    return np.where(counts > 0, divided / read.scale, read.default)


def _moment(spans: _Spans, read: Read, begin: np.ndarray, end: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The first or last moment, in microseconds since 1970."""
    if read.counts >= 0:
        found = _extreme(spans, read, spans.occurred, begin, end)
    else:
        place = begin if read.op is Op.SINCE_FIRST else end - 1
        found = np.append(spans.occurred, 0)[place]
    return np.where(counts > 0, found, math.nan)


def _day(spans: _Spans, read: Read, person: np.ndarray, end: np.ndarray) -> np.ndarray:
    """When the n-th last day with an event began, in microseconds since 1970."""
    days, known = spans.days(read.counts)
    place = known[end] - read.n
    there = place >= known[spans.first[person]]
    return np.where(there, np.append(days, 0)[np.where(there, place, -1)], math.nan)


def _last(spans: _Spans, read: Read, end: np.ndarray) -> np.ndarray:
    """The place of the last event that counts, of those before `end`; of one moment, the one named first."""
    counting = np.flatnonzero(spans.sums[:, read.counts])
    if not len(counting):
        return np.zeros(len(end), np.int64)
    chosen = counting.copy()
    begins = np.flatnonzero(np.diff(spans.key[counting], prepend=-1))
    many = np.diff(begins, append=len(counting))
    for begin, n in zip(begins[many > 1].tolist(), many[many > 1].tolist(), strict=True):
        tied = counting[begin : begin + n]
        chosen[begin : begin + n] = min(tied.tolist(), key=lambda place: tuple(spans.texts[spans.places[place], :2]))
    return np.asarray(chosen[np.searchsorted(counting, end) - 1])


def _extreme(spans: _Spans, read: Read, of: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest or largest that counts, of each span; anything where none does."""
    fold, worst = (
        (np.minimum, np.iinfo(np.int64).max)
        if read.op in (Op.MIN, Op.SINCE_FIRST)
        else (np.maximum, np.iinfo(np.int64).min)
    )
    counted = np.append(np.where(spans.sums[:, read.counts] > 0, of, worst), worst)
    edges = np.column_stack((begin, end)).ravel()
    return np.asarray(fold.reduceat(counted, edges)[::2])


def _lists(plan: LivePlan, held: dict[str, _Spans], n: int) -> list[list[list[str]]]:
    if not plan.lists:
        return []
    lists: list[list[list[str]]] = [[] for _ in range(n)]
    for event, text, most in plan.lists:
        spans = held[event]
        for mine, first, end in zip(lists, spans.first.tolist(), spans.end.tolist(), strict=True):
            mine.append(_newest(spans.occurred[first:end], spans.texts, spans.places[first:end], 2 + text, most))
    return lists


def _newest(occurred: np.ndarray, texts: np.ndarray, places: np.ndarray, column: int, most: int) -> list[str]:
    """The last `most` of a person's texts, newest first, ties by source and id."""
    values = texts[places, column].tolist()
    if None in values:
        there = [i for i, value in enumerate(values) if value is not None]
        occurred, places, values = occurred[there], places[there], [values[i] for i in there]
    near = max(0, len(values) - most)
    while near > 0 and occurred[near - 1] == occurred[near]:
        near -= 1
    values.reverse()
    values = values[: len(values) - near]
    at = occurred[near:][::-1]
    if len(at) > 1 and (at[1:] == at[:-1]).any():
        names = texts[places[near:], :2][::-1].tolist()
        values = [values[i] for i in sorted(range(len(values)), key=lambda i: (-int(at[i]), names[i]))]
    return [str(value) for value in values[:most]]
