"""The fold says at every moment what the declarations mean, and what DuckDB's change points say."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from events.log import LoggedEvent
from feature_repo.declare import DAY_US, Feature, Op, Where
from feature_repo.fold import State, fold, new_state, prune, sequences, settle, values_at
from feature_repo.fold_plan import Plan, plan_of
from feature_repo.views import View, make_views
from tests.feature_repo.brute_force import Happened
from tests.feature_repo.test_meaning import (
    HOUR,
    ORIGIN,
    PEOPLE,
    PERSONAL,
    _agree,
    _computed,
    _later,
    feature,
    histories,
    moments,
    starts,
)  # fmt: skip

EVERYTHING: list[Feature] = [
    *PERSONAL,
    feature(Op.COUNT, "365d", name="count_year"),
    feature(Op.DISTINCT, "365d", "item_id", name="items_year"),
    feature(Op.SINCE_FIRST, "ever", default=None, where=Where("department", "=", "d1"), name="since_first_d1"),
    feature(Op.LAST_N, "ever", "item_id", n=3, default=None, name="last_three"),
    feature(Op.LAST_N, "ever", "department", n=50, default=None, name="last_departments"),
]
(VIEW,) = make_views(EVERYTHING)
PLAN = plan_of(VIEW)


@dataclass(frozen=True)
class Delivery:
    """The events of one person in the order they became available, as the log delivers them."""

    events: list[LoggedEvent]

    @classmethod
    def of(cls, happened: list[Happened]) -> Delivery:
        named = [
            LoggedEvent("shop", h.id or f"e{i}", h.type, h.person, h.occurred, h.available, dict(h.fields))  # type: ignore[arg-type]
            for i, h in enumerate(happened)
        ]
        return cls(sorted(named, key=lambda e: e.available_at))


def stored(state: State) -> State:
    """The state, out to Redis and back."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)


def walk(plan: Plan, delivery: Delivery, start: int, times: list[int]) -> dict[int, State]:
    """The state at each of `times`, moved on event by event, stored in between and pruned at every step."""
    state, todo, found = new_state(plan), list(delivery.events), {}
    for t in sorted(times):
        while todo and todo[0].available_at <= t:
            event = todo.pop(0)
            settle(plan, state, now=event.available_at)
            if event.occurred_at >= start:
                fold(plan, state, event, now=event.available_at)
            prune(plan, state)
        state = stored(state)
        settle(plan, state, now=t)
        found[t] = stored(state)
    return found


@settings(max_examples=40)
@given(histories(), starts, st.lists(moments, max_size=6))
def test_the_fold_s_values_are_what_the_declarations_mean_at_every_moment(
    events: list[Happened], start: int, asked: list[int]
) -> None:
    mine = [e for e in events if e.person == PEOPLE[0]]
    times = {*asked, *(t for e in mine[:6] for t in _later(e.occurred)), *(e.available for e in mine)}
    times |= {e.occurred // DAY_US * DAY_US + 366 * DAY_US for e in mine[:2]}
    states = walk(PLAN, Delivery.of(mine), start, [t for t in times if t >= start])
    for t, state in states.items():
        _agree(VIEW, np.array(_told(VIEW, values_at(PLAN, state).numbers, t)), t, mine, start)
        known = [e for e in Delivery.of(mine).events if start <= e.occurred_at <= t and e.available_at <= t]
        newest = sorted(known, key=lambda e: (-e.occurred_at, e.source, e.id))
        assert sequences(PLAN, state) == [
            [e.fields["item_id"] for e in newest][:3],
            [e.fields["department"] for e in newest if e.fields["department"] is not None][:50],
        ]


@settings(max_examples=15)
@given(histories(), starts, st.lists(moments, max_size=6))
def test_the_fold_and_duckdb_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, events: list[Happened], start: int, asked: list[int]
) -> None:
    mine = [e for e in events if e.person == PEOPLE[0]]
    times = sorted({t for t in (*asked, *(t for e in mine[:4] for t in _later(e.occurred))) if t >= start})
    (view,) = make_views(PERSONAL)
    computed, _ = _computed(
        view, mine, {PEOPLE[0]: start}, [(PEOPLE[0], t) for t in times], tmp_path_factory.mktemp("v")
    )
    plan = plan_of(view)
    states = walk(plan, Delivery.of(mine), start, times)
    for row, t in zip(computed, times, strict=True):
        np.testing.assert_allclose(_told(view, values_at(plan, states[t]).numbers, t), row, rtol=1e-9, atol=1e-12)


@settings(max_examples=25)
@given(histories(), st.lists(moments, min_size=1, max_size=4))
def test_values_hold_until_they_say_and_not_a_microsecond_longer_is_promised(
    events: list[Happened], asked: list[int]
) -> None:
    mine = [e for e in events if e.person == PEOPLE[0]]
    for t, state in walk(PLAN, Delivery.of(mine), 0, asked).items():
        held = values_at(PLAN, state)
        seen = Delivery.of([e for e in mine if e.available <= t])
        for later in {t + 1, t + HOUR, t + 2 * DAY_US, held.valid_until - 1} - {2**63 - 2}:
            if t <= later < held.valid_until:
                again = walk(PLAN, seen, 0, [later])[later]
                assert repr(values_at(PLAN, again).numbers) == repr(held.numbers)


def test_the_order_in_which_events_arrive_leaves_no_trace() -> None:
    random = np.random.default_rng(3)
    events = [
        LoggedEvent("s", f"e{i}", "product_purchased", PEOPLE[0], ORIGIN + int(random.integers(0, 9 * DAY_US)), 0, {
            "basket_id": f"b{i % 7}", "item_id": f"i{i % 5}", "quantity": i % 3, "amount": i * 37 % 101,
            "discount": None, "department": None,
        })
        for i in range(200)
    ]  # fmt: skip
    found = []
    for _ in range(4):
        state = new_state(PLAN)
        for i in random.permutation(len(events)):
            fold(PLAN, state, events[int(i)], now=ORIGIN + 9 * DAY_US)
        settle(PLAN, state, now=ORIGIN + 9 * DAY_US)
        found.append((repr(values_at(PLAN, state).numbers), sequences(PLAN, state)))
    assert all(f == found[0] for f in found)


def test_an_event_from_a_moment_ahead_waits_inside_the_state_until_it_is_available() -> None:
    state = new_state(PLAN)
    ahead = LoggedEvent("s", "e", "product_purchased", PEOPLE[0], ORIGIN + 5, ORIGIN + 9, {"item_id": "i", "amount": 1})
    settle(PLAN, state, now=ORIGIN)
    fold(PLAN, state, ahead, now=ORIGIN)
    count = PLAN.names.index("product_purchased_count_ever")
    assert values_at(PLAN, state).numbers[count] == 0
    assert values_at(PLAN, state).valid_until == ORIGIN + 9
    state = stored(state)
    settle(PLAN, state, now=ORIGIN + 9)
    assert values_at(PLAN, state).numbers[count] == 1


def test_a_person_with_a_million_events_has_a_small_state() -> None:
    (view,) = make_views(
        [
            feature(Op.SUM, "90d", "amount"),
            feature(Op.DISTINCT, "28d", "item_id"),
            feature(Op.LAST_N, "ever", "item_id", n=500, default=None),
        ]
    )
    plan = plan_of(view)
    state, now = new_state(plan), ORIGIN
    fields = [{"item_id": f"i{i}", "amount": 250} for i in range(300)]
    for i in range(1_000_000):
        now = ORIGIN + i * 31_000_000  # a year's worth
        fold(plan, state, LoggedEvent("s", str(i), "product_purchased", PEOPLE[0], now, now, fields[i % 300]), now=now)  # type: ignore[arg-type]
        if i % 10_000 == 0:
            settle(plan, state, now=now)
            prune(plan, state)
    settle(plan, state, now=now)
    prune(plan, state)
    per_day = DAY_US / 31_000_000
    assert values_at(plan, state).numbers[0] == pytest.approx(90 * per_day * 2.5, rel=0.02)
    assert len(msgspec.msgpack.encode(state)) < 32_000


def _told(view: View, numbers: list[float], t: int) -> list[float]:
    return [(t - v) / DAY_US if since else v for v, since in zip(numbers, view.since, strict=True)]
