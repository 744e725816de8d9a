"""The fold: the third engine. One person's state for one purpose takes events one by one and gives the values at any t.

It follows the meaning in `feature_repo.declare`. An event's *hop* is `⌈occurred_at / hop⌉`; it is in a window at t exactly
while `hop number × hop + window > t`, because the tail is rounded down to a whole hop. So a tally by hop answers every
window, the last hop of each value answers every distinct count, and a state's size is bounded by hops and values, not by
events. Sums are whole numbers: nothing drifts. All moments are microseconds since 1970.

A state takes an event when it is available and is then read at that moment or later; an event that becomes available
only later waits inside it.
"""

from __future__ import annotations

import math
from bisect import insort

import msgspec

from events.log import LoggedEvent
from feature_repo.declare import Op
from feature_repo.fold_plan import Kept, Plan
from feature_repo.packed import NEVER

__all__ = ["State", "Values", "fold", "new_state", "prune", "sequences", "settle", "values_at"]

Cell = list[int]
"""Of some events: how many, and the sum, smallest and largest of their column. Empty: none."""


class State(msgspec.Struct, array_like=True):
    """What one person's events left, for one purpose; each list has one entry a `Kept` of the plan."""

    as_of: int
    ever: list[Cell]
    hops: list[dict[int, Cell]]
    last_hops: list[dict[str | int, int]]
    moments: list[Cell]
    """First and last moment; empty: none."""
    lists: list[list[tuple[int, str, str, str]]]
    """(−occurred_at, source, id, value): ascending is newest first, ties by source and id."""
    waiting: list[LoggedEvent]


class Values(msgspec.Struct):
    """The numbers of a view at one moment (NaN for null; moments where the reader tells the time since), and until when
    they hold if nothing happens.
    """

    numbers: list[float]
    valid_until: int


def new_state(plan: Plan) -> State:
    """The state of a person of whom nothing is known."""
    return State(
        0,
        [[] for _ in plan.tallies],
        [{} for _ in plan.tallies],
        [{} for _ in plan.values],
        [[] for _ in plan.moments],
        [[] for _ in plan.lists],
        [],
    )


def fold(plan: Plan, state: State, event: LoggedEvent, *, now: int) -> None:
    """Take one event, admissible and not taken before. One that isn't available at `now` waits."""
    if max(event.available_at, event.occurred_at) > now:
        state.waiting.append(event)
        return
    tallies, values, moments, lists = plan.steps[event.type]
    at = event.occurred_at
    for i, kept in tallies:
        if (value := kept.column(event)) is not None:
            _tally(state, i, kept, at, value)  # type: ignore[arg-type]
    for i, kept in values:
        if (value := kept.column(event)) is not None:
            hop, held = -(-at // kept.hop), state.last_hops[i]
            if held.get(value, -1) < hop:
                held[value] = hop
    for i, kept in moments:
        if kept.column(event) is not None:
            first, last = state.moments[i] or (at, at)
            state.moments[i] = [min(first, at), max(last, at)]
    for i, kept in lists:
        if (value := kept.column(event)) is not None:
            newest = state.lists[i]
            insort(newest, (-at, event.source, event.id, str(value)))
            del newest[plan.lengths[i] :]


def settle(plan: Plan, state: State, *, now: int) -> None:
    """Move the state on to `now` (never back): what has become available meanwhile is folded in."""
    state.as_of = max(state.as_of, now)
    if state.waiting:
        waited, state.waiting = state.waiting, []
        for event in waited:
            fold(plan, state, event, now=state.as_of)


def prune(plan: Plan, state: State) -> None:
    """Forget what no window will reach again."""
    for kept, hops in zip(plan.tallies, state.hops, strict=True):
        _forget(kept, hops, {hop: hop for hop in hops}, state.as_of)
    for kept, last in zip(plan.values, state.last_hops, strict=True):
        if not kept.ever:
            _forget(kept, last, last, state.as_of)


def values_at(plan: Plan, state: State) -> Values:
    """The values at `state.as_of`."""
    t = state.as_of
    valid_until = min((max(e.available_at, e.occurred_at) for e in state.waiting), default=NEVER)
    tallied: list[dict[int | None, Cell]] = []
    for i, kept in enumerate(plan.tallies):
        cells, ends = _windows(kept, state.hops[i], t)
        valid_until = min(valid_until, ends)
        tallied.append({**cells, None: state.ever[i]})
    counted: list[dict[int | None, int]] = []
    for i, kept in enumerate(plan.values):
        numbers, ends = _count(kept, state.last_hops[i], t)
        valid_until = min(valid_until, ends)
        counted.append({**numbers, None: len(state.last_hops[i])})
    found: dict[str, float] = {}
    for name, (op, place, window) in plan.places.items():
        if op is Op.DISTINCT:
            found[name] = float(counted[place][window])
        elif op is Op.SINCE_LAST or op is Op.SINCE_FIRST:
            moments = state.moments[place]
            found[name] = float(moments[op is Op.SINCE_LAST]) if moments else math.nan
        elif op is Op.LAST:
            found[name], ends = _newest(state.lists[place], window, plan.hops[name], plan.scales[name], t)
            found[name] = plan.defaults[name] if math.isnan(found[name]) else found[name]
            valid_until = min(valid_until, ends)
        elif op is not Op.LAST_N:
            found[name] = _read(op, tallied[place][window], plan.scales[name], plan.defaults[name])
    for name, top, bottom in plan.ratios:
        parts = found[top], found[bottom]
        undefined = math.isnan(parts[0]) or math.isnan(parts[1]) or parts[1] == 0
        found[name] = plan.defaults[name] if undefined else parts[0] / parts[1]
    return Values([found[name] for name in plan.names], valid_until)


def sequences(plan: Plan, state: State) -> list[list[str]]:
    """The view's last-n lists, newest first."""
    return [[value for *_, value in state.lists[plan.places[f.name][1]][: f.n]] for f in plan.view.sequences]


def _tally(state: State, i: int, kept: Kept, at: int, value: int) -> None:
    if kept.ever:
        _add(state.ever[i], value)
    if kept.windows:
        hops, hop = state.hops[i], -(-at // kept.hop)
        cell = hops.get(hop)
        if cell is None:
            hops[hop] = [1, value, value, value]
        else:
            _add(cell, value)


def _add(cell: Cell, value: int) -> None:
    if not cell:
        cell[:] = (1, value, value, value)
        return
    cell[0] += 1
    cell[1] += value
    if value < cell[2]:
        cell[2] = value
    if value > cell[3]:
        cell[3] = value


def _forget(kept: Kept, held: dict, hops: dict, t: int) -> None:  # type: ignore[type-arg]
    longest = kept.windows[-1] if kept.windows else 0
    for key in [key for key, hop in hops.items() if hop * kept.hop + longest <= t]:
        del held[key]


def _windows(kept: Kept, hops: dict[int, Cell], t: int) -> tuple[dict[int | None, Cell], int]:
    """The cell of each finite window at `t`, and when the first hop leaves one."""
    found: dict[int | None, Cell] = {w: [] for w in kept.windows}
    ends = NEVER
    for hop, cell in hops.items():
        edge = hop * kept.hop
        for window in reversed(kept.windows):
            if edge + window <= t:
                break
            ends = min(ends, edge + window)
            held = found[window]
            if held:
                held[0] += cell[0]
                held[1] += cell[1]
                held[2] = min(held[2], cell[2])
                held[3] = max(held[3], cell[3])
            else:
                found[window] = list(cell)
    return found, ends


def _count(kept: Kept, last_hops: dict[str | int, int], t: int) -> tuple[dict[int | None, int], int]:
    """How many values each finite window holds at `t`, and when the first leaves one."""
    found: dict[int | None, int] = dict.fromkeys(kept.windows, 0)
    ends = NEVER
    for hop in last_hops.values():
        for window in reversed(kept.windows):
            end = hop * kept.hop + window
            if end <= t:
                break
            ends = min(ends, end)
            found[window] += 1
    return found, ends


def _newest(
    newest: list[tuple[int, str, str, str]], window: int | None, hop: int, scale: float, t: int
) -> tuple[float, int]:
    """The last value while its window holds it, else NaN; and when it leaves."""
    if not newest:
        return math.nan, NEVER
    before, *_, value = newest[0]
    ends = NEVER if window is None else -(before // hop) * hop + window
    return (int(value) / scale, ends) if t < ends else (math.nan, NEVER)


def _read(op: Op, cell: Cell, scale: float, default: float) -> float:
    if op is Op.COUNT:
        return float(cell[0]) if cell else 0.0
    if op is Op.SUM:
        return cell[1] / scale if cell else 0.0
    if not cell:
        return default
    if op is Op.MEAN:
        return cell[1] / cell[0] / scale
    return cell[2 if op is Op.MIN else 3] / scale
