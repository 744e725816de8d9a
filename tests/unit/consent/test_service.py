"""The consent desk and its projection, on both kinds of Redis: acknowledged means in force."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from hypothesis import given, strategies as st

from aap.config import Settings, load_settings
from aap.consent import redis_projection
from aap.consent.errors import LedgerUnavailable, NotYetInForce
from aap.consent.ledger.ledger import Entry, Ledger
from aap.consent.policy import LONGEST_GRANT, Choice, Decision, Reason, Status, decide, grants
from aap.consent.purposes import Purpose
from aap.consent.service import ConsentDesk, open_desk, open_ledger
from aap.infra.redis import connection as server

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ANA, BOB = "a" * 32, "b" * 32
REPORTING, TRAINING, FRAUD = Purpose.ANALYTICS_REPORTING, Purpose.TRAIN_AI_SYSTEM, Purpose.ESSENTIAL_FRAUD_DETECTION


@pytest.fixture
def desk(redis_server: Settings) -> ConsentDesk:
    return open_desk(redis_server)


def say(
    desk: ConsentDesk, status: Status, *, at: datetime = NOW, subject: str = ANA, purpose: Purpose = REPORTING
) -> int:
    return desk.record(
        subject, purpose, status, said_by="the person", method="web form", indicated_at=at, received_at=at
    )


def seen(client: redis.Redis, purpose: Purpose = REPORTING, *, subject: str = ANA, now: datetime = NOW) -> Decision:
    """What any reader of Redis concludes."""
    blobs: list[bytes | None] = [client.get(redis_projection.consent_key(subject))]  # type: ignore[list-item]
    return redis_projection.decisions(blobs, purpose=purpose, now=now)[0]


def test_a_choice_is_in_redis_when_record_returns(desk: ConsentDesk, redis_client: redis.Redis) -> None:
    assert seen(redis_client) == Decision(False, REPORTING, Reason.NO_RECORD, -1)
    assert say(desk, Status.GIVEN) == 1
    assert seen(redis_client) == Decision(True, REPORTING, Reason.GRANTED, 1)
    assert seen(redis_client, TRAINING) == Decision(False, TRAINING, Reason.NOT_GRANTED, 1)
    assert seen(redis_client, FRAUD) == Decision(True, FRAUD, Reason.LEGITIMATE_INTEREST, 1)
    assert say(desk, Status.WITHDRAWN, at=NOW + MINUTE) == 2
    assert seen(redis_client, now=NOW + MINUTE) == Decision(False, REPORTING, Reason.WITHDRAWN, 2)


def test_the_projection_ends_with_the_grant_without_being_written_again(
    desk: ConsentDesk, redis_client: redis.Redis
) -> None:
    say(desk, Status.GIVEN)
    end = NOW + LONGEST_GRANT
    assert seen(redis_client, now=end - timedelta(microseconds=1)).allowed
    assert seen(redis_client, now=end) == Decision(False, REPORTING, Reason.EXPIRED, 1)


def test_a_withdrawal_deletes_what_its_purpose_knew_and_nothing_else(
    desk: ConsentDesk, redis_client: redis.Redis
) -> None:
    for subject in (ANA, BOB):
        for purpose in (REPORTING, TRAINING):
            say(desk, Status.GIVEN, subject=subject, purpose=purpose)
            redis_client.mset(dict.fromkeys(redis_projection.feature_keys(subject, purpose), b"values"))
    say(desk, Status.WITHDRAWN, at=NOW + MINUTE)
    assert redis_client.exists(*redis_projection.feature_keys(ANA, REPORTING)) == 0
    for subject, purpose in ((ANA, TRAINING), (BOB, REPORTING), (BOB, TRAINING)):
        assert redis_client.exists(*redis_projection.feature_keys(subject, purpose)) == 2


def test_an_objection_deletes_what_legitimate_interest_knew(desk: ConsentDesk, redis_client: redis.Redis) -> None:
    say(desk, Status.GIVEN)
    redis_client.mset(dict.fromkeys(redis_projection.feature_keys(ANA, FRAUD), b"values"))
    say(desk, Status.WITHDRAWN, purpose=FRAUD, at=NOW + MINUTE)
    assert redis_client.exists(*redis_projection.feature_keys(ANA, FRAUD)) == 0
    assert seen(redis_client, FRAUD, now=NOW + MINUTE).reason is Reason.OBJECTED


def test_withdrawn_and_given_again_in_one_batch_still_deletes_what_was_known_before(
    desk: ConsentDesk, redis_client: redis.Redis
) -> None:
    say(desk, Status.GIVEN)
    redis_client.mset(dict.fromkeys(redis_projection.feature_keys(ANA, REPORTING), b"values"))
    later = NOW + 5 * MINUTE
    desk.record_many(
        [
            Entry(ANA, REPORTING, Status.WITHDRAWN, NOW + MINUTE, "her", "form"),
            Entry(ANA, REPORTING, Status.GIVEN, NOW + 2 * MINUTE, "her", "form"),
        ],
        received_at=later,
    )
    assert seen(redis_client, now=later).allowed
    assert redis_client.exists(*redis_projection.feature_keys(ANA, REPORTING)) == 0


def test_a_renewal_keeps_what_is_known(desk: ConsentDesk, redis_client: redis.Redis) -> None:
    say(desk, Status.GIVEN)
    redis_client.mset(dict.fromkeys(redis_projection.feature_keys(ANA, REPORTING), b"values"))
    say(desk, Status.RENEWED, at=NOW + MINUTE)
    assert redis_client.exists(*redis_projection.feature_keys(ANA, REPORTING)) == 2


def test_the_newest_projection_wins_however_late_an_older_one_is_written(
    desk: ConsentDesk, redis_client: redis.Redis
) -> None:
    say(desk, Status.GIVEN)
    old = desk.ledger.standing()
    say(desk, Status.WITHDRAWN, at=NOW + MINUTE)
    redis_client.set(redis_projection.feature_keys(ANA, TRAINING)[0], b"values")
    redis_projection.write(redis_client, old, seq=1, now=NOW)
    assert seen(redis_client, now=NOW + MINUTE) == Decision(False, REPORTING, Reason.WITHDRAWN, 2)
    assert redis_client.exists(redis_projection.feature_keys(ANA, TRAINING)[0]) == 1, (
        "an outdated write deletes nothing either"
    )


@pytest.mark.parametrize(
    "blob",
    [b"", b"short", b"\x00" * (redis_projection.ROW.itemsize - 1), b"\x01" * (redis_projection.ROW.itemsize + 8)],
)
def test_a_misshapen_projection_denies_everything_as_unavailable(blob: bytes) -> None:
    for purpose in Purpose:
        assert redis_projection.decisions([blob], purpose=purpose, now=NOW)[0] == Decision(
            False, purpose, Reason.UNAVAILABLE, -1
        )


@given(st.binary(min_size=redis_projection.ROW.itemsize, max_size=redis_projection.ROW.itemsize))
def test_a_projection_of_the_right_size_with_any_content_gets_a_decision_and_never_an_error(blob: bytes) -> None:
    for purpose in Purpose:
        redis_projection.decisions([blob], purpose=purpose, now=NOW)


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Purpose)), st.sampled_from(list(Status)), st.integers(0, 600)), max_size=10
    ),
    st.integers(0, 1_200),
)
def test_the_projection_says_what_the_ledger_says(rows: list[tuple[Purpose, Status, int]], days: int) -> None:
    choices = [Choice(ANA, purpose, status, NOW + timedelta(days=d)) for purpose, status, d in rows]
    standing = {p: grants(choices, subject=ANA, purpose=p) for p in Purpose}
    now = max([c.indicated_at for c in choices], default=NOW) + timedelta(days=days)
    blob = redis_projection.pack(standing, seq=3)
    for purpose, (found, otherwise) in standing.items():
        told = decide(found, purpose=purpose, otherwise=otherwise, now=now, ledger_seq=3)
        assert redis_projection.decisions([blob], purpose=purpose, now=now) == [told]


def test_the_ledger_and_its_projection_agree_on_the_decision(desk: ConsentDesk, redis_client: redis.Redis) -> None:
    assert desk.decision(ANA, REPORTING, now=NOW) == seen(redis_client)
    say(desk, Status.GIVEN)
    assert desk.decision(ANA, REPORTING, now=NOW) == seen(redis_client)


@pytest.fixture
def stopped(settings: Settings) -> ConsentDesk:
    """A desk whose Redis was stopped after Ana agreed."""
    desk = open_desk(settings)
    say(desk, Status.GIVEN)
    server.stop(settings)
    return desk


def test_with_redis_down_a_choice_is_kept_but_not_acknowledged_and_applied_when_redis_is_back(
    stopped: ConsentDesk, home: Path
) -> None:
    later = NOW + MINUTE
    with pytest.raises(NotYetInForce, match="in the ledger but not yet in force, because Redis can't be written"):
        say(stopped, Status.WITHDRAWN, at=later)
    assert [r.entry.status for r in stopped.ledger.history(ANA)] == [Status.GIVEN, Status.WITHDRAWN]
    settings = load_settings(home)
    client = server.connect(settings)
    assert seen(client, now=later).allowed, "Redis came back as it was"
    client.mset(dict.fromkeys(redis_projection.feature_keys(ANA, REPORTING), b"values"))
    assert open_desk(settings).catch_up(now=later) == 1
    assert seen(client, now=later) == Decision(False, REPORTING, Reason.WITHDRAWN, 2)
    assert client.exists(*redis_projection.feature_keys(ANA, REPORTING)) == 0
    assert stopped.catch_up(now=later) == 0, "there is nothing left to do"


def test_saying_it_again_when_redis_is_back_also_brings_it_into_force(stopped: ConsentDesk, settings: Settings) -> None:
    with pytest.raises(NotYetInForce):
        say(stopped, Status.WITHDRAWN, at=NOW + MINUTE)
    client = server.connect(settings)
    say(stopped, Status.WITHDRAWN, at=NOW + MINUTE)
    assert seen(client, now=NOW + MINUTE).reason is Reason.WITHDRAWN


def test_an_emptied_redis_denies_until_everything_is_projected_again(
    desk: ConsentDesk, redis_client: redis.Redis
) -> None:
    say(desk, Status.GIVEN)
    say(desk, Status.REFUSED, subject=BOB)
    redis_client.flushall()
    assert seen(redis_client).reason is Reason.NO_RECORD
    assert desk.catch_up(now=NOW) == 2
    assert seen(redis_client).allowed
    assert seen(redis_client, subject=BOB).reason is Reason.REFUSED


def test_a_ledger_shorter_than_what_redis_obeys_is_not_the_truth_and_acknowledges_nothing(
    desk: ConsentDesk, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """An older copy was restored: what it lacks may be a withdrawal, and what it takes in would never be in force."""
    say(desk, Status.GIVEN)
    say(desk, Status.WITHDRAWN, at=NOW + MINUTE)
    assert desk.catch_up(now=NOW + MINUTE) == 1
    older = ConsentDesk(Ledger.at(tmp_path / "older.db"), redis_client)
    for _ in range(2):
        with pytest.raises(LedgerUnavailable, match="but Redis obeys one that goes to 2: restore the newer ledger"):
            older.catch_up(now=NOW + MINUTE)
        with pytest.raises(LedgerUnavailable, match="ends at record 1, but Redis obeys"):
            say(older, Status.GIVEN)
    assert seen(redis_client, now=NOW + MINUTE).reason is Reason.WITHDRAWN
    redis_client.flushall()
    assert older.catch_up(now=NOW + MINUTE) == 1


def test_a_round_of_mending_finds_what_redis_lost_or_holds_from_before(
    desk: ConsentDesk, redis_client: redis.Redis
) -> None:
    for subject in (ANA, BOB):
        say(desk, Status.GIVEN, subject=subject)
    before = redis_client.get(redis_projection.consent_key(ANA))
    say(desk, Status.WITHDRAWN, at=NOW + MINUTE)
    later = NOW + 2 * MINUTE
    desk.catch_up(now=later)
    assert desk.mend(after="", most=9, now=later) == (max(ANA, BOB), 0)
    redis_client.set(redis_projection.consent_key(ANA), before)  # type: ignore[arg-type]
    redis_client.delete(redis_projection.consent_key(BOB))
    place, mended = desk.mend(after="", most=1, now=later)
    assert (place, mended) == (min(ANA, BOB), 1)
    assert desk.mend(after=place, most=1, now=later) == (max(ANA, BOB), 1)
    assert desk.mend(after=max(ANA, BOB), most=1, now=later) == ("", 0)
    assert seen(redis_client, now=later).reason is Reason.WITHDRAWN
    assert seen(redis_client, subject=BOB, now=later).allowed


def test_a_ledger_elsewhere_is_a_setting(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AAP_LEDGER_URL", f"sqlite:///{tmp_path}/elsewhere.db")
    open_ledger(load_settings(home)).append([Entry(ANA, REPORTING, Status.GIVEN, NOW, "her", "form")], received_at=NOW)
    assert (tmp_path / "elsewhere.db").is_file()
    assert not (home / "consent").exists()
