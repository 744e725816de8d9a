"""The Global Privacy Control as a person's setting: while it is set, no marketing and no sharing, whatever is said."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from aap.config import Settings
from aap.consent.errors import UnusableChoice
from aap.consent.policy import Choice, Decision, Reason, Status, decide, grants
from aap.consent.purposes import Purpose, spec
from aap.consent.service import ConsentDesk, open_desk

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ANA = "a" * 32
MARKETING, SHARING, PROFILING = (
    Purpose.MARKETING_RETENTION, Purpose.THIRD_PARTY_SHARING, Purpose.PERSONALIZE_PROFILING
)  # fmt: skip


@pytest.fixture
def desk(settings: Settings) -> ConsentDesk:
    return open_desk(settings)


def say(desk: ConsentDesk, purpose: Purpose, *, minutes: int, status: Status = Status.GIVEN) -> None:
    at = NOW + minutes * MINUTE
    desk.record(ANA, purpose, status, said_by="her", method="form", indicated_at=at, received_at=at)


def control(desk: ConsentDesk, *, on: bool, minutes: int) -> None:
    at = NOW + minutes * MINUTE
    desk.set_gpc(ANA, on=on, said_by="her", indicated_at=at, received_at=at)


def told(desk: ConsentDesk, purpose: Purpose, *, minutes: int) -> tuple[bool, Reason]:
    found = desk.decision(ANA, purpose, now=NOW + minutes * MINUTE)
    return found.allowed, found.reason


def test_it_stops_marketing_and_sharing_and_nothing_else() -> None:
    assert [p for p in Purpose if spec(p).stopped_by_gpc] == [MARKETING, SHARING]


def test_while_it_is_set_a_grant_counts_for_nothing_and_lifting_it_brings_none_back(desk: ConsentDesk) -> None:
    for purpose in (MARKETING, PROFILING):
        say(desk, purpose, minutes=0)
    control(desk, on=True, minutes=1)
    assert told(desk, MARKETING, minutes=1) == (False, Reason.GPC)
    assert told(desk, SHARING, minutes=1) == (False, Reason.GPC)
    assert told(desk, PROFILING, minutes=1) == (True, Reason.GRANTED)
    with pytest.raises(
        UnusableChoice, match=r"^marketing\.retention can't be granted while the person's Global Privacy"
    ):
        say(desk, MARKETING, minutes=2)
    control(desk, on=False, minutes=3)
    assert not told(desk, MARKETING, minutes=3)[0]
    say(desk, MARKETING, minutes=4)
    assert told(desk, MARKETING, minutes=4) == (True, Reason.GRANTED)
    (_, afresh) = desk.ledger.standing()[ANA][MARKETING][0]
    assert afresh.start == NOW + 4 * MINUTE, "what was known before is not known again"


def test_a_grant_that_arrives_by_another_way_while_it_is_set_is_denied_all_the_same() -> None:
    def choice(status: Status, minute: int, *, signal: bool = False) -> Choice:
        return Choice(ANA, MARKETING, status, NOW + minute * MINUTE, signal=signal)

    said = [
        choice(Status.GIVEN, 0), choice(Status.WITHDRAWN, 1, signal=True), choice(Status.GIVEN, 2),
        choice(Status.RENEWED, 3),
    ]  # fmt: skip
    for order in itertools.permutations(said):
        found, otherwise = grants(order, subject=ANA, purpose=MARKETING)
        for minute, allowed in ((0, True), (1, False), (2, False), (3, False), (9, False)):
            decision = decide(found, purpose=MARKETING, otherwise=otherwise, now=NOW + minute * MINUTE, ledger_seq=1)
            reason = Reason.GRANTED if allowed else Reason.GPC
            assert decision == Decision(allowed, MARKETING, reason, 1)


statuses = st.sampled_from([Status.GIVEN, Status.RENEWED, Status.WITHDRAWN, Status.REFUSED])
said = st.lists(st.tuples(statuses, st.integers(0, 30)), max_size=6)
signals = st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=4)


@given(said, signals, st.integers(0, 30), st.randoms(use_true_random=False))
def test_nothing_permits_at_a_moment_at_which_it_is_set(
    answers: list[tuple[Status, int]], controls: list[tuple[bool, int]], minute: int, random: object
) -> None:
    choices = [Choice(ANA, MARKETING, s, NOW + m * MINUTE) for s, m in answers]
    choices += [
        Choice(ANA, MARKETING, Status.WITHDRAWN if on else Status.UNKNOWN, NOW + m * MINUTE, signal=True)
        for on, m in controls
    ]
    random.shuffle(choices)  # type: ignore[attr-defined]
    past = [(m, not on) for on, m in controls if m <= minute]
    is_set = bool(past) and not max(past, key=lambda p: (p[0], not p[1]))[1]
    found, _ = grants(choices, subject=ANA, purpose=MARKETING)
    at = NOW + minute * MINUTE
    assert not (is_set and any(g.start <= at < g.end for g in found))
    assert grants(reversed(choices), subject=ANA, purpose=MARKETING) == grants(choices, subject=ANA, purpose=MARKETING)
