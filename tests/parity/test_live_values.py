"""What a live worker's memory says, of many people at once, is what the declarations mean at every moment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from aap.events.streaming.columns import EventColumns, LoggedEvent, by_type
from aap.features.declarations import DAY_US, Feature, Op, Where
from aap.features.streaming.evaluate import LiveValues, evaluate
from aap.features.streaming.plan import TypeLayout, plan_view
from aap.features.streaming.state import Memory
from aap.features.views import make_views
from tests.unit.features.brute_force import Happened
from tests.unit.features.test_meaning import (
    HOUR,
    ORIGIN,
    PEOPLE,
    PERSONAL,
    _agree,
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
LAYOUTS: dict[str, TypeLayout] = {}
PLAN = plan_view(VIEW, LAYOUTS)


def name(i: int, event: Happened) -> str:
    """What tells who comes first of two events of one moment."""
    return event.id or f"e{i}"


def deliver(memory: Memory, events: list[tuple[int, Happened]]) -> None:
    told = [
        LoggedEvent("shop", name(i, h), h.type, h.person, h.occurred, h.available, dict(h.fields))  # type: ignore[arg-type]
        for i, h in events
    ]
    for columns in by_type(told):
        memory.add(columns)


def told(found: LiveValues, person: int, t: int) -> np.ndarray:
    """One person's numbers at `t`, times since a moment in days, as a reader of row and timetable has them."""
    mine = np.flatnonzero((found.person == person) & (found.moments <= t))
    row = found.numbers[mine[-1]].copy()
    since = np.array(VIEW.since)
    row[since] = (t - row[since]) / DAY_US
    return row


@settings(max_examples=25, deadline=None)
@given(histories(), st.tuples(starts, starts), moments, st.integers(1, 5))
def test_the_values_of_many_people_now_and_later_are_what_the_declarations_mean(
    events: list[Happened], granted: tuple[int, int], now: int, together: int
) -> None:
    now = max(now, *granted)
    known = [(i, e) for i, e in enumerate(events) if e.available <= now and e.occurred <= now]
    memory = Memory(LAYOUTS)
    rows = memory.rows_of(PEOPLE)
    for at in range(0, len(known), together):  # in the order they were made, not that in which they happened
        deliver(memory, known[at : at + together])
    found = evaluate(memory, PLAN, rows, starts=np.array(granted), at=now, ahead=True)
    plain = evaluate(memory, PLAN, rows, starts=np.array(granted), at=now, ahead=False)
    np.testing.assert_array_equal(plain.numbers, found.numbers[np.searchsorted(found.person, rows)])
    for person, (key, start) in enumerate(zip(PEOPLE, granted, strict=True)):
        mine = [(i, e) for i, e in known if e.person == key and e.occurred >= start]
        later = [t for _, e in mine[:3] for t in _later(e.occurred) if now <= t < now + VIEW.time_to_live_us]
        for t in {now, *later, min(int(plain.valid_until[person]) - 1, now + 30 * DAY_US), now + HOUR}:
            _agree(VIEW, told(found, person, t), t, [e for _, e in mine], start)
        newest = sorted(mine, key=lambda e: (-e[1].occurred, name(*e)))
        assert found.lists[person] == [
            [e.fields["item_id"] for _, e in newest][:3],
            [e.fields["department"] for _, e in newest if e.fields["department"] is not None][:50],
        ]


def bought(number: int, person: int, at: int) -> Happened:
    fields = {"basket_id": f"b{number % 7}", "item_id": f"i{number % 40}", "quantity": 1, "amount": number % 900}
    return Happened(f"{person:032x}", at, at, fields={**fields, "discount": None, "department": "d1"})


@pytest.mark.parametrize(("people", "count"), [(200, 6_000), (2, 5_000)])
def test_memory_says_the_same_however_events_are_cut_into_batches(people: int, count: int) -> None:
    random = np.random.default_rng(3)
    made = [
        (i, bought(i, int(random.integers(people)), ORIGIN + int(random.integers(90 * DAY_US)))) for i in range(count)
    ]
    rows, found = np.arange(people), []
    for sizes in ([count], [1, 40, 3_000, count], [500] * (count // 500)):
        memory, at = Memory(LAYOUTS), 0
        memory.rows_of([f"{p:032x}" for p in range(people)])
        for size in sizes:
            if made[at : at + size]:
                deliver(memory, made[at : at + size])
            at += size
        found.append(
            evaluate(memory, PLAN, rows, starts=np.zeros(people, np.int64), at=ORIGIN + 90 * DAY_US, ahead=True)
        )
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].numbers, other.numbers)
        np.testing.assert_array_equal(found[0].moments, other.moments)
        assert found[0].lists == other.lists


def test_what_is_forgotten_has_no_effect_and_its_place_is_used_again() -> None:
    memory = Memory(LAYOUTS)
    deliver(memory, [(i, bought(i, i % 3, ORIGIN + i)) for i in range(300)])
    memory.forget(1)
    deliver(memory, [(i, bought(i, i % 3, ORIGIN + i)) for i in range(300, 306)])
    found = evaluate(memory, PLAN, np.arange(3), starts=np.zeros(3, np.int64), at=ORIGIN + HOUR, ahead=False)
    assert found.numbers[:, VIEW.names.index("product_purchased_count_ever")].tolist() == [102, 2, 102]


def test_a_million_events_of_one_person() -> None:
    count = 1_000_000
    ids = [f"e{i}" for i in range(count)]
    occurred = ORIGIN + np.arange(count) * (30 * DAY_US // count)
    same = {"quantity": 1, "amount": 250, "discount": None, "department": "d1"}
    fields = {name: [value] * count for name, value in same.items()}
    fields |= {"basket_id": [f"b{i // 5}" for i in range(count)], "item_id": [f"i{i % 40}" for i in range(count)]}
    memory, at = Memory(LAYOUTS), ORIGIN + 30 * DAY_US
    moments = occurred.tobytes()
    memory.add(EventColumns("product_purchased", ["shop"] * count, ids, [PEOPLE[0]] * count, moments, moments, fields))
    deliver(memory, [(count, bought(7, 1, at - 1))])
    found = evaluate(memory, PLAN, np.array([0]), starts=np.zeros(1, np.int64), at=at, ahead=True)
    row = dict(zip(VIEW.names, found.numbers[0].tolist(), strict=True))
    assert row["product_purchased_count_ever"] == count
    assert row["amount_sum_ever"] == 2.5 * count
    assert row["item_id_distinct_7d"] == 40
    assert row["product_purchased_count_7d"] == sum(occurred > at - 7 * DAY_US)
