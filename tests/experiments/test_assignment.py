"""Assignment: sticky, deterministic, only with consent, and each exposure logged once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis

from consent import projection
from consent.policy import Choice, Reason, Status, grants
from consent.purposes import Purpose
from experiments.assignment import PURPOSE, Assigner, assignment_key
from experiments.errors import MissingUser
from experiments.exposures import Exposures
from experiments.flags import Flags
from settings.config import Settings
from storage.redis_server import connect, stop

NOW = datetime(2017, 12, 1, 12, tzinfo=UTC)
PEOPLE = [f"{i:032x}" for i in range(40)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    yield connect(settings)
    stop(settings)


class Lab:
    """Flags, exposures and an assigner over one real Redis."""

    def __init__(self, home: Path, client: redis.Redis) -> None:
        client.flushall()
        self.home, self.client = home, client
        self.flag(50, 50)
        self.flags = Flags(home / "flags.json", checked=home / "run" / "flags.json")
        self.exposures = Exposures(home / "exposures", every_s=60)
        self.assigner = Assigner(client, flags=self.flags, exposures=self.exposures)

    def flag(self, a: int, b: int, *, state: str = "ENABLED", variants: str = "ab") -> None:
        arms = [[v, w] for v, w in (("a", a), ("b", b)) if v in variants]
        entry = {"state": state, "variants": {v: v for v in variants}, "defaultVariant": variants[0]}
        (self.home / "flags.json").write_text(
            json.dumps({"flags": {"x": {**entry, "targeting": {"fractional": arms}}}})
        )

    def choose(self, *choices: tuple[str, Status, datetime]) -> None:
        """What these people said about experiments, projected as the consent desk does."""
        standings = {}
        for person in {p for p, _, _ in choices}:
            said = [Choice(p, PURPOSE, status, at) for p, status, at in choices if p == person]
            none: tuple[list, Reason] = ([], Reason.NOT_GRANTED)
            standings[person] = dict.fromkeys(Purpose, none) | {PURPOSE: grants(said, subject=person, purpose=PURPOSE)}
        projection.write(self.client, standings, seq=1, now=NOW)

    def arms(self, people: list[str] = PEOPLE, *, now: datetime = NOW) -> list[str]:
        return [a.variant for a in self.assigner.assign(people, flag="x", now=now)]

    def reasons(self, people: list[str] = PEOPLE) -> set[str]:
        return {a.reason for a in self.assigner.assign(people, flag="x", now=NOW)}

    def logged(self) -> list[tuple[str, str]]:
        self.exposures.flush()
        tables = [pq.read_table(f) for f in (self.home / "exposures").rglob("*.parquet")]
        return [(row["user_key"], row["variant"]) for t in tables for row in t.to_pylist()]


@pytest.fixture
def lab(tmp_path: Path, client: redis.Redis) -> Iterator[Lab]:
    made = Lab(tmp_path, client)
    yield made
    made.exposures.close()
    made.flags.close()


def said_yes(
    people: list[str] = PEOPLE, *, at: datetime = NOW - timedelta(days=9)
) -> list[tuple[str, Status, datetime]]:
    return [(p, Status.GIVEN, at) for p in people]


def test_people_who_allow_it_are_split_and_each_exposure_is_logged_once(lab: Lab) -> None:
    lab.choose(*said_yes())
    first = lab.arms()
    assert set(first) == {"a", "b"}
    assert lab.arms() == first
    assert lab.reasons() == {"sticky"}
    assert sorted(lab.logged()) == sorted(zip(PEOPLE, first, strict=True))


def test_changing_the_weights_moves_nobody(lab: Lab) -> None:
    lab.choose(*said_yes())
    first = lab.arms()
    lab.flag(0, 100)
    assert lab.flags.refresh()
    newcomer = "f" * 32
    deadline = time.monotonic() + 10
    while lab.flags.bucket("x", user_key=PEOPLE[first.index("a")]) == "a" and time.monotonic() < deadline:
        time.sleep(0.1)
    lab.choose(*said_yes([newcomer]))
    assert lab.arms() == first
    assert lab.arms([newcomer]) == ["b"]


def test_without_consent_everyone_gets_the_default_and_nothing_is_kept(lab: Lab) -> None:
    lab.choose(*said_yes(PEOPLE[:10]), *[(p, Status.WITHDRAWN, NOW - timedelta(days=1)) for p in PEOPLE[:10]])
    answers = lab.assigner.assign(PEOPLE, flag="x", now=NOW)
    assert {a.variant for a in answers} == {"a"}
    assert {a.reason for a in answers[:10]} == {"consent_withdrawn"}
    assert {a.reason for a in answers[10:]} == {"consent_no_record"}
    assert lab.logged() == []
    assert list(lab.client.scan_iter("*:x:*")) == []


def test_a_later_grant_starts_afresh(lab: Lab) -> None:
    lab.choose(*said_yes(PEOPLE[:1]))
    lab.arms(PEOPLE[:1])
    kept = lab.client.get(assignment_key(PEOPLE[0], "x"))
    again = NOW - timedelta(days=1)
    lab.choose(
        *said_yes(PEOPLE[:1]),
        (PEOPLE[0], Status.WITHDRAWN, NOW - timedelta(days=2)),
        (PEOPLE[0], Status.GIVEN, again),
    )
    assert lab.reasons(PEOPLE[:1]) == {"split"}
    assert lab.client.get(assignment_key(PEOPLE[0], "x")) != kept


def test_processes_that_assign_at_the_same_time_agree_and_log_once(lab: Lab) -> None:
    lab.choose(*said_yes())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: lab.arms(), range(16)))
    assert all(arms == found[0] for arms in found)
    assert sorted(lab.logged()) == sorted(zip(PEOPLE, found[0], strict=True))


def test_a_disabled_flag_and_a_removed_variant_give_the_default(lab: Lab) -> None:
    lab.choose(*said_yes())
    first = lab.arms()
    lab.flag(50, 50, state="DISABLED")
    lab.flags.refresh()
    assert lab.reasons() == {"disabled"}
    assert set(lab.arms()) == {"a"}
    lab.flag(50, 50, variants="a")
    lab.flags.refresh()
    answers = lab.assigner.assign(PEOPLE, flag="x", now=NOW)
    assert {a.variant for a in answers} == {"a"}
    assert {a.reason for a, was in zip(answers, first, strict=True) if was == "b"} == {"variant_removed"}


def test_a_missing_user_is_refused(lab: Lab) -> None:
    with pytest.raises(MissingUser, match="user key of every person"):
        lab.assigner.assign([PEOPLE[0], ""], flag="x", now=NOW)


def test_forgetting_a_person_leaves_no_assignment(lab: Lab) -> None:
    lab.choose(*said_yes())
    lab.arms()
    assert lab.assigner.forget(PEOPLE[0]) == 1
    assert lab.client.get(assignment_key(PEOPLE[0], "x")) is None
    assert lab.client.get(assignment_key(PEOPLE[1], "x")) is not None
