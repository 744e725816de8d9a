"""The laws of the consent policy, over random histories of choices."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from aap.consent.policy import (
    BEGINNING,
    FOREVER,
    LONGEST_GRANT,
    Choice,
    Decision,
    Grant,
    Reason,
    Status,
    admissible,
    decide,
    grants,
)
from aap.consent.purposes import Purpose, UnknownPurpose, parse_purpose, spec

pytestmark = pytest.mark.fast

DAY = timedelta(days=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
BY_CONSENT, BY_INTEREST = Purpose.ANALYTICS_REPORTING, Purpose.ESSENTIAL_FRAUD_DETECTION

# A coarse calendar makes ties and exact expiry moments common.
moments = st.integers(0, 1_000).map(lambda d: START + d * DAY)
lengths = st.one_of(st.none(), st.sampled_from([1, 10, 100, 396, 500]).map(lambda d: d * DAY))


@st.composite
def histories(draw: st.DrawFn, purpose: Purpose = BY_CONSENT) -> list[Choice]:
    rows = draw(st.lists(st.tuples(moments, st.sampled_from(list(Status)), lengths), max_size=8))
    return [Choice("ana", purpose, status, at, at + length if length else None) for at, status, length in rows]


def found(choices: list[Choice], purpose: Purpose = BY_CONSENT) -> list[Grant]:
    return grants(choices, subject="ana", purpose=purpose)[0]


def yes(at: datetime, status: Status = Status.GIVEN, expires_at: datetime | None = None) -> Choice:
    return Choice("ana", BY_CONSENT, status, at, expires_at)


def no(at: datetime, status: Status = Status.WITHDRAWN, purpose: Purpose = BY_CONSENT) -> Choice:
    return Choice("ana", purpose, status, at)


def held(choices: list[Choice], at: datetime, purpose: Purpose = BY_CONSENT) -> bool:
    return any(g.start <= at < g.end for g in found(choices, purpose))


@given(histories(), st.randoms(use_true_random=False))
def test_neither_the_order_of_records_nor_a_duplicate_changes_anything(
    choices: list[Choice], shuffle: random.Random
) -> None:
    told_otherwise = choices + choices[: len(choices) // 2]
    shuffle.shuffle(told_otherwise)
    assert grants(told_otherwise, subject="ana", purpose=BY_CONSENT) == grants(
        choices, subject="ana", purpose=BY_CONSENT
    )


@given(histories())
def test_grants_are_apart_in_order_and_never_empty(choices: list[Choice]) -> None:
    spans = found(choices)
    assert all(g.start < g.end for g in spans)
    assert all(a.end <= b.start for a, b in pairwise(spans))


@given(histories(), moments)
def test_at_one_moment_a_withdrawal_wins_over_any_yes(choices: list[Choice], at: datetime) -> None:
    assert not held([*choices, yes(at), yes(at, Status.RENEWED), no(at)], at)


@given(histories())
def test_no_grant_lasts_longer_than_13_months_after_the_last_yes(choices: list[Choice]) -> None:
    for grant in found(choices):
        said = [c.indicated_at for c in choices if c.status.permits and grant.start <= c.indicated_at < grant.end]
        assert said, "a grant begins with a yes"
        assert grant.start in said
        assert grant.end <= max(said) + LONGEST_GRANT


@given(histories(), moments)
def test_without_a_yes_before_it_nothing_is_allowed(choices: list[Choice], at: datetime) -> None:
    earlier = [c for c in choices if c.status.permits and c.indicated_at <= at]
    assert earlier or not held(choices, at)


@given(histories(), moments, moments)
def test_what_is_said_later_never_changes_what_held_before(
    choices: list[Choice], at: datetime, later: datetime
) -> None:
    at, later = min(at, later), max(at, later) + DAY
    assert held(choices, at) == held([*choices, no(later)], at) == held([*choices, yes(later)], at)


@given(moments, st.integers(1, 395), st.sampled_from([Status.RENEWED, Status.GIVEN]))
def test_a_renewal_before_expiry_continues_the_grant(at: datetime, days: int, status: Status) -> None:
    again = at + days * DAY
    assert found([yes(at), yes(again, status)]) == [Grant("ana", BY_CONSENT, at, again + LONGEST_GRANT, Reason.EXPIRED)]


@given(moments, st.integers(396, 900), st.sampled_from([Status.RENEWED, Status.GIVEN]))
def test_a_renewal_from_the_moment_of_expiry_on_starts_afresh(at: datetime, days: int, status: Status) -> None:
    again = at + days * DAY
    first, second = found([yes(at), yes(again, status)])
    assert (first.start, first.end, second.start) == (at, at + LONGEST_GRANT, again)


def test_of_two_yeses_at_one_moment_the_one_that_ends_sooner_counts() -> None:
    short, long = yes(START, expires_at=START + DAY), yes(START, Status.RENEWED)
    assert found([short, long])[0].end == found([long, short])[0].end == START + DAY


def test_a_stated_expiry_ends_the_grant_there_and_a_longer_one_is_cut_to_13_months() -> None:
    assert found([yes(START, expires_at=START + 5 * DAY)])[0].end == START + 5 * DAY
    assert found([yes(START, expires_at=START + 5000 * DAY)])[0].end == START + LONGEST_GRANT


@given(histories(BY_INTEREST), moments)
def test_legitimate_interest_holds_exactly_until_an_objection_and_from_a_later_yes_on(
    choices: list[Choice], at: datetime
) -> None:
    latest: dict[datetime, bool] = {}
    for c in choices:
        if c.indicated_at <= at:
            latest[c.indicated_at] = latest.get(c.indicated_at, True) and c.status.permits
    expected = latest[max(latest)] if latest else True
    assert held(choices, at, BY_INTEREST) == expected


def test_legitimate_interest_of_a_known_person_reaches_back_to_the_beginning_and_never_expires() -> None:
    assert found([], BY_INTEREST) == [Grant("ana", BY_INTEREST, BEGINNING, FOREVER, Reason.OBJECTED)]


def test_choices_about_other_people_and_other_purposes_count_for_nothing() -> None:
    others = [
        Choice("bob", BY_CONSENT, Status.GIVEN, START),
        Choice("ana", Purpose.TRAIN_AI_SYSTEM, Status.GIVEN, START),
    ]
    assert grants(others, subject="ana", purpose=BY_CONSENT) == ([], Reason.NOT_GRANTED)


@given(histories(), moments, moments)
def test_admissible_means_that_one_grant_covers_both_the_event_and_now(
    choices: list[Choice], event_at: datetime, now: datetime
) -> None:
    both = any(admissible(g, event_at=event_at, now=now) for g in found(choices))
    if both:
        assert event_at <= now
        assert held(choices, event_at)
        assert held(choices, now)
        broken = [c for c in choices if not c.status.permits and event_at < c.indicated_at <= now]
        assert not broken, "a no between the event and now breaks the grant"
    elif event_at <= now and held(choices, event_at) and held(choices, now):
        apart = [g for g in found(choices) if g.start <= event_at < g.end or g.start <= now < g.end]
        assert len(apart) == 2


@pytest.mark.parametrize("status", [s for s in Status if s not in (Status.GIVEN, Status.RENEWED)])
def test_every_state_but_given_and_renewed_ends_a_grant(status: Status) -> None:
    later = START + DAY
    assert held([yes(START), no(later, status)], START)
    assert not held([yes(START), no(later, status)], later)


def decided(choices: list[Choice], now: datetime, purpose: Purpose = BY_CONSENT) -> Decision:
    spans, otherwise = grants(choices, subject="ana", purpose=purpose)
    return decide(spans, purpose=purpose, otherwise=otherwise, now=now, ledger_seq=7)


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ([], Reason.NOT_GRANTED),
        ([yes(START)], Reason.GRANTED),
        ([no(START, Status.REFUSED)], Reason.REFUSED),
        ([no(START, Status.REQUESTED)], Reason.NOT_GRANTED),
        ([yes(START), no(START + DAY)], Reason.WITHDRAWN),
        ([yes(START), no(START + DAY, Status.REVOKED)], Reason.WITHDRAWN),
        ([yes(START), no(START)], Reason.WITHDRAWN),
        ([yes(START, expires_at=START + DAY)], Reason.EXPIRED),
        ([yes(START), no(START + DAY), yes(START + 2 * DAY)], Reason.GRANTED),
    ],
)
def test_a_decision_says_why(choices: list[Choice], reason: Reason) -> None:
    assert decided(choices, START + 10 * DAY) == Decision(reason is Reason.GRANTED, BY_CONSENT, reason, 7)


def test_a_decision_by_legitimate_interest_says_so_and_an_objection_says_that() -> None:
    assert decided([], START, BY_INTEREST).reason is Reason.LEGITIMATE_INTEREST
    assert decided([no(START, purpose=BY_INTEREST)], START, BY_INTEREST) == Decision(
        False, BY_INTEREST, Reason.OBJECTED, 7
    )


def test_every_purpose_is_explained_has_a_retention_and_can_be_parsed_back() -> None:
    for purpose in Purpose:
        assert spec(purpose).explanation.endswith(".")
        assert spec(purpose).retention > timedelta(0)
        assert parse_purpose(purpose.value) is purpose


def test_an_unknown_purpose_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(
        UnknownPurpose, match=r"^Unknown purpose 'whatever we like'; choose one of: .*train_ai_system.*\.$"
    ):
        parse_purpose("whatever we like")
