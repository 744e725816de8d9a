"""Noninterference: two worlds that differ only in data the rule forbids leave the same bytes everywhere.

Four people whose data may not matter, each for another reason, and three whose may. In the other world the first four do
other things: what nobody may store, what may not be used any more, and what may serve one purpose alone. Whatever happens
to both worlds in between, no sink tells which one it is.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings as hypothesis_settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.infra.paths import Layout
from aap.infra.redis import embedded_server
from tests.noninterference.world import World, purchase, told_apart, two_worlds

OPEN = ("ana", "ben", "cyd")
"""They allow everything, and change their minds."""
GHOST, REFUSER, QUITTER, HALF = "ghost", "refuser", "quitter", "half"
"""In no record; said no to everything; said no after a month of yes; allows reporting alone."""
REPORTING = Purpose.ANALYTICS_REPORTING
ITEMS = st.sampled_from(["bread", "milk", "tea", "salt"])
SECRET = "what-nobody-may-know"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    layout = Layout(tmp_path_factory.mktemp("worlds-redis") / "home")
    embedded_server.ensure_running(layout)
    state = embedded_server.read_state(layout)
    assert state is not None
    yield f"redis://:{state.password}@{embedded_server.HOST}:{state.port}/0"
    embedded_server.stop(layout)


class Worlds(RuleBasedStateMachine):
    """What may happen to both worlds, and what happens in the other one only."""

    redis_url = ""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="two-worlds-")
        self._made = two_worlds(Path(self._folder.name), self.redis_url)
        self.one, self.other = self._made.__enter__()
        self.numbers = itertools.count()
        self.silent: set[str] = set()
        """Of those who change their minds, who allows nothing now."""
        self.came_back: set[str] = set()

    @property
    def both(self) -> tuple[World, World]:
        return self.one, self.other

    @initialize()
    def a_month_passes(self) -> None:
        for world in self.both:
            world.say(REFUSER, Status.REFUSED)
            for user in (*OPEN, QUITTER):
                world.say(user, Status.GIVEN)
            world.say(HALF, Status.WITHDRAWN)
        self.wait(1)
        for world in self.both:
            world.say(HALF, Status.GIVEN, REPORTING)
        self.wait(1)
        for user in OPEN:
            for item in ("bread", "milk"):
                self.buy(user, item)
        for item in ("tea", "salt"):
            self.buy_otherwise(QUITTER, item)
        self.buy_otherwise(HALF, "milk")
        self.publish()
        self.learn()
        for world in self.both:
            world.say(QUITTER, Status.WITHDRAWN)
        self.silent = set()
        self.publish()
        self.learn()

    @rule(user=st.sampled_from(OPEN), item=ITEMS)
    def buy(self, user: str, item: str) -> None:
        number = next(self.numbers)
        if user in self.silent:
            return
        told = [w.send(purchase(number, user, item, w.now)).accepted for w in self.both]
        assert told == [1, 1]

    @rule(item=ITEMS)
    def reporting_alone(self, item: str) -> None:
        self.buy_otherwise(HALF, item)

    @rule(who=st.sampled_from([GHOST, REFUSER, QUITTER]), item=ITEMS)
    def a_thing_nobody_may_store(self, who: str, item: str) -> None:
        told = self.other.send(purchase(next(self.numbers), who, item, self.other.now, amount="77.77"))
        assert (told.accepted, told.refused.total()) == (0, 1)

    @rule(who=st.sampled_from(OPEN), item=ITEMS)
    def a_thing_from_before_the_grant(self, who: str, item: str) -> None:
        number = next(self.numbers)
        if who in self.silent or who in self.came_back:
            before = self.other.now if who in self.silent else self.other.now - timedelta(days=40)
            assert self.other.send(purchase(number, who, item, before, amount="66.66")).accepted == 0

    @rule(who=st.sampled_from([GHOST, REFUSER]))
    def a_thing_that_does_not_fit(self, who: str) -> None:
        event = purchase(next(self.numbers), who, SECRET, self.other.now) | {"properties": {SECRET: SECRET}}
        self.other.send(event)

    @rule(user=st.sampled_from(OPEN))
    def no(self, user: str) -> None:
        self.silent.add(user)
        for world in self.both:
            world.say(user, Status.WITHDRAWN)
        self.wait(1)

    @rule(user=st.sampled_from(OPEN))
    def yes_again(self, user: str) -> None:
        if user in self.silent:
            self.silent.discard(user)
            self.came_back.add(user)
        for world in self.both:
            world.say(user, Status.GIVEN)
        self.wait(1)

    @rule(hours=st.sampled_from([1, 30]))
    def wait(self, hours: int) -> None:
        self.one.clock[0] += timedelta(hours=hours)

    @rule()
    def live(self) -> None:
        for world in self.both:
            world.live()

    @rule()
    def publish(self) -> None:
        self.wait(1)
        for world in self.both:
            world.publish()

    @rule()
    def learn(self) -> None:
        for world in self.both:
            world.train()

    @rule()
    def answer(self) -> None:
        for world in self.both:
            world.predict(*OPEN, GHOST, REFUSER, QUITTER, "a stranger")

    @rule()
    def put_away(self) -> None:
        for world in self.both:
            world.retain()

    @precondition(lambda self: hasattr(self, "one"))
    @rule()
    def nothing_tells_them_apart(self) -> None:
        made = [w.sinks(allowed=OPEN, without=[QUITTER, HALF]) for w in self.both]
        theirs = self.one.key(HALF)
        allowed = {f"redis {{u:{theirs}}}:{kind}:{REPORTING}" for kind in "fs"}
        apart = [n for n in told_apart(made[0], made[1]) if n not in allowed]
        assert [n for n in apart if not n.startswith("user__analytics_reporting ")] == []

    def buy_otherwise(self, user: str, item: str) -> None:
        """The same line but what it is about: another thing, at another price, in each world."""
        number = next(self.numbers)
        assert self.one.send(purchase(number, user, item, self.one.now)).accepted == 1
        secret = purchase(number, user, f"{SECRET}-{item}", self.other.now, amount="999.99")
        assert self.other.send(secret).accepted == 1

    def teardown(self) -> None:
        if hasattr(self, "one") and self.one.popular is not None:
            self.nothing_tells_them_apart()
        self._made.__exit__(None, None, None)
        self._folder.cleanup()


def test_no_sink_tells_apart_two_worlds_that_differ_only_in_forbidden_data(redis_url: str) -> None:
    _run(redis_url, examples=2, steps=10)


@pytest.mark.full
def test_nor_after_many_more_histories(redis_url: str) -> None:
    _run(redis_url, examples=8, steps=20)


def _run(redis_url: str, *, examples: int, steps: int) -> None:
    Worlds.redis_url = redis_url
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Worlds,
        settings=hypothesis_settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
            suppress_health_check=checks,
        ),
    )  # fmt: skip


def test_what_is_allowed_does_tell_them_apart(tmp_path: Path, redis_url: str) -> None:
    """The comparison sees a difference where there may be one; else it would prove nothing."""
    with two_worlds(tmp_path, redis_url) as (one, other):
        for world in (one, other):
            world.say("ana", Status.GIVEN)
        one.clock[0] += timedelta(hours=1)
        for world, item in ((one, "bread"), (other, "tea")):
            assert world.send(purchase(1, "ana", item, world.now)).accepted == 1
            world.publish()
            world.train()
            world.predict("ana", "a stranger")
        apart = told_apart(one.sinks(allowed=["ana"]), other.sinks(allowed=["ana"]))
        kinds = {name.partition(" ")[0] for name in apart}
        assert kinds >= {"archive", "redis", "model", "predictions", "served", "answers", "export"}
        assert any(name.startswith("item__personalize_profiling ") for name in apart)
