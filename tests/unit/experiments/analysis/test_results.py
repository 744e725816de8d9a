"""Readouts of real exposures, events and grants: who counts, what may be said, and what stops an experiment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from aap.config import Settings
from aap.consent.ledger.ledger import Entry
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_desk
from aap.events.archive import Archive
from aap.events.schema import event_type
from aap.experiments.analysis.metrics import METRICS, metric
from aap.experiments.analysis.outcomes import admitted, outcomes
from aap.experiments.analysis.plan import read_plans
from aap.experiments.analysis.report import sentence, to_dict, write_report
from aap.experiments.analysis.results import Readout, Verdict, judge
from aap.experiments.assignment.assigner import Assigner
from aap.experiments.assignment.exposures import Exposures, read_exposures
from aap.experiments.assignment.service_metrics import Vitals
from aap.experiments.errors import PlanUnusable, UnknownFlag
from aap.experiments.flags import kill_switch
from aap.experiments.flags.store import Flags
from aap.experiments.service import Experiments, open_experiments
from aap.infra.object_store import archive_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect, stop as stop_server
from aap.infra.redis.embedded_server import HOST, ensure_running

NOW = datetime(2024, 6, 1, tzinfo=UTC)
SHOWN = NOW - timedelta(days=30)
BOTH = (Purpose.FUNCTIONAL_SERVICE_IMPROVE, Purpose.ANALYTICS_REPORTING)
GUARDS = "{metric: baskets, may_fall: 0.2}, {metric: latency_ms, may_rise: 0.5}, {metric: error_share, at_most: 0.02}"


class Town:
    """A home with a flag `x` that splits a and b in halves, people, and what they bought."""

    def __init__(self, home: Path, redis_url: str) -> None:
        self.settings_dir = home / "settings"
        self.settings = Settings(home=home, settings_dir=self.settings_dir, redis_url=redis_url)
        self.client = connect(self.settings)
        self.client.flushall()
        self.layout = Layout(home)
        self.settings_dir.mkdir(parents=True)
        flag = {"state": "ENABLED", "variants": {"a": "a", "b": "b"}, "defaultVariant": "a"}
        flag["targeting"] = {"fractional": [["a", 50], ["b", 50]]}
        (self.settings_dir / "flags.json").write_text(json.dumps({"flags": {"x": flag}}))
        self.plan(f"guardrails: [{GUARDS}]")
        self.desk = open_desk(self.settings)

    def plan(self, text: str) -> None:
        (self.settings_dir / "experiments.yaml").write_text(f"x: {{{text}}}")

    def experiments(self) -> Experiments:
        return open_experiments(self.settings)

    def readout(self, *, act: bool = True, as_of: datetime = NOW) -> Readout:
        return self.experiments().readout("x", as_of=as_of, now=NOW, act=act)

    def agree(self, people: Sequence[str], *purposes: Purpose, at: datetime, status: Status = Status.GIVEN) -> None:
        entries = [Entry(p, purpose, status, at, "the person", "test", "1") for p in people for purpose in purposes]
        self.desk.record_many(entries, received_at=NOW)

    def expose(
        self, people: Sequence[str], variants: Sequence[str], *, at: datetime = SHOWN, split: str = "a:50,b:50"
    ) -> None:
        log = Exposures(self.layout.exposures, every_s=60)
        for i, (person, variant) in enumerate(zip(people, variants, strict=True)):
            log.log(person, flag="x", variant=variant, split=split, at=at + timedelta(minutes=i))
        log.close()

    def buy(self, *lines: tuple[str, datetime, float], batch: str = "one", available: datetime | None = None) -> None:
        """Purchases (person, when, amount), each a basket of its own."""
        moment = pa.timestamp("us", tz="UTC")
        ids, count = [f"{batch}{i}" for i in range(len(lines))], len(lines)
        given = {
            "source": pa.array(["s"] * count),
            "id": pa.array(ids),
            "user_key": pa.array([person for person, _, _ in lines]),
            "occurred_at": pa.array([at for _, at, _ in lines], moment),
            "available_at": pa.array([available or at for _, at, _ in lines], moment),
            "basket_id": pa.array(ids),
            "item_id": pa.array(["tea"] * count),
            "quantity": pa.array([1] * count),
            "amount": pa.array([round(amount * 100) for _, _, amount in lines]),
        }
        declared = event_type("product_purchased").arrow
        columns = [given.get(f.name, pa.nulls(count, f.type)) for f in declared]
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register(
                "bought", pa.table(columns, schema=pa.schema([f.with_nullable(True) for f in declared]))
            )
            Archive(archive_folder(self.settings)).append(connection, {"product_purchased": "bought"}, batch=batch)

    def crowd(self, count: int = 600, *, lift: float = 0.0, share: float = 0.5, seed: int = 1) -> list[str]:
        """People who agreed long ago, are split, bought before, and buy after: b more than a by `lift`."""
        random = np.random.default_rng(seed)
        people = [f"{i:032x}" for i in range(count)]
        variants = ["b" if u < share else "a" for u in random.random(count)]
        self.agree(people, *BOTH, at=SHOWN - timedelta(days=60))
        self.expose(people, variants)
        lines = []
        for person, variant in zip(people, variants, strict=True):
            taste = float(random.lognormal(3.0, 0.4))
            lines.append((person, SHOWN - timedelta(days=5), taste * random.lognormal(0, 0.2)))
            more = 1 + lift * (variant == "b")
            lines.append((person, SHOWN + timedelta(days=6), taste * more * random.lognormal(0, 0.2)))
        self.buy(*lines)
        return people


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings(home=tmp_path_factory.mktemp("redis"))
    state = ensure_running(Layout(settings.home))
    yield f"redis://:{state.password}@{HOST}:{state.port}/0"
    stop_server(settings)


@pytest.fixture
def town(tmp_path: Path, redis_url: str) -> Iterator[Town]:
    made = Town(tmp_path / "home", redis_url)
    yield made
    made.client.close()


def spend_of(town: Town, person: str, *, as_of: datetime = NOW) -> list[float]:
    """[spend after, spend before] as the readout counts them."""
    exposures = read_exposures(town.layout.exposures, flag="x", until=as_of)
    people = admitted(exposures, standing=town.desk.ledger.standing(in_force_at=NOW))
    window, before = timedelta(days=14), timedelta(days=28)
    rows = outcomes(
        people,
        metric("spend"),
        archive=Archive(archive_folder(town.settings)),
        window=window,
        before=before,
        as_of=as_of,
    )
    return rows[people.user_keys.index(person)][[0, 2]].tolist()


def test_an_event_counts_after_exposure_and_within_the_window_and_before_it_as_the_covariate(town: Town) -> None:
    town.agree(["ann"], *BOTH, at=SHOWN - timedelta(days=90))
    town.expose(["ann"], ["a"])
    day, moment = timedelta(days=1), timedelta(microseconds=1)
    town.buy(
        ("ann", SHOWN + moment, 1.0),
        ("ann", SHOWN + 14 * day, 2.0),
        ("ann", SHOWN + 14 * day + moment, 4.0),
        ("ann", SHOWN, 8.0),
        ("ann", SHOWN - 28 * day, 16.0),
        ("ann", SHOWN - 28 * day - moment, 32.0),
    )
    town.buy(("ann", SHOWN + day, 64.0), batch="late", available=NOW + day)
    assert spend_of(town, "ann") == [3.0, 24.0]
    assert spend_of(town, "ann", as_of=NOW + 2 * day) == [67.0, 24.0]


def test_only_what_the_grant_in_force_covers_is_counted(town: Town) -> None:
    town.agree(["ann"], *BOTH, at=SHOWN - timedelta(days=10))
    town.expose(["ann"], ["a"])
    town.buy(("ann", SHOWN - timedelta(days=11), 8.0), ("ann", SHOWN - timedelta(days=9), 2.0))
    assert spend_of(town, "ann") == [0.0, 2.0]


@pytest.mark.parametrize("purpose", BOTH)
def test_who_withdraws_or_agreed_only_after_the_exposure_does_not_count(town: Town, purpose: Purpose) -> None:
    (other,) = set(BOTH) - {purpose}
    people = ["in", "gone", "back", "late", "never"]
    town.agree(people, other, at=SHOWN - timedelta(days=90))
    town.agree(["in", "gone", "back"], purpose, at=SHOWN - timedelta(days=90))
    town.agree(["gone", "back"], purpose, at=SHOWN + timedelta(days=20), status=Status.WITHDRAWN)
    town.agree(["back"], purpose, at=SHOWN + timedelta(days=21))
    town.agree(["late"], purpose, at=SHOWN + timedelta(days=1))
    town.expose(people, ["a"] * 5)
    found = town.readout()
    assert found.split.people == {"a": 1}
    assert found.excluded == {f"no consent for {purpose} since before the exposure": 4}


def test_what_a_person_did_who_may_not_be_counted_changes_no_number(town: Town) -> None:
    town.crowd()
    before = to_dict(town.readout())
    town.expose(["refuser"], ["b"])
    town.buy(("refuser", SHOWN + timedelta(days=3), 1e6), batch="forbidden")
    after = to_dict(town.readout())
    assert sum(after.pop("excluded").values()) == 1
    assert before.pop("excluded") == {}
    assert after == before


def test_a_planted_lift_is_found_with_its_size_and_shown_on_the_page(town: Town) -> None:
    town.crowd(lift=0.3)
    found = town.readout()
    (comparison,) = found.comparisons
    assert judge(found.split, found.guardrails, comparison) is Verdict.BETTER
    assert comparison.curve.lift_low[-1] < 0.3 < comparison.curve.lift_high[-1]
    assert comparison.curve.variance[-1] < 0.5 * comparison.curve.plain_variance[-1], "CUPED is at work"
    assert "b does better than a: money spent a person +" in sentence(found, comparison)
    html, page = write_report(found, folder=town.layout.reports)
    told = json.loads(page.read_text())
    assert told["variants"][0]["verdict"] == "better"
    assert len(told["variants"][0]["curve"]) == len(found.times) <= 60
    text = html.read_text()
    assert "<svg role=" in text
    assert "b does better than a" in text
    assert kill_switch.stopped(town.client, ["x"]) == {}


def test_without_a_lift_nothing_is_claimed(town: Town) -> None:
    town.crowd()
    (comparison,) = town.readout().comparisons
    assert comparison.verdict is Verdict.UNDECIDED


def test_a_broken_split_blocks_the_verdict_however_large_the_lift(town: Town) -> None:
    town.crowd(lift=0.5, share=0.35)
    found = town.readout()
    assert not found.split.sound
    assert found.comparisons[0].verdict is Verdict.BETTER
    assert judge(found.split, found.guardrails, found.comparisons[0]) is Verdict.BLOCKED
    assert "Nothing may be said of b: People are not split as intended" in sentence(found, found.comparisons[0])


@pytest.mark.parametrize("split", ["", "a:100", "a:100,b:0"])
def test_people_whose_split_is_unknown_or_impossible_block_the_verdict(town: Town, split: str) -> None:
    people = town.crowd(lift=0.5)
    extra = [f"e{i}" for i in range(3)]
    town.agree(extra, *BOTH, at=SHOWN - timedelta(days=60))
    town.expose(extra, ["b"] * 3, split=split)
    found = town.readout()
    assert len(people) == 600
    assert not found.split.sound
    assert "can't be checked" in found.split.why


def test_a_person_with_two_variants_is_left_out_and_counted(town: Town) -> None:
    town.agree(["ann"], *BOTH, at=SHOWN - timedelta(days=60))
    town.expose(["ann", "ann"], ["a", "b"])
    assert town.readout().excluded == {"two variants": 1}


def test_nobody_counts_before_their_window_is_over_and_few_are_too_few(town: Town) -> None:
    town.crowd(150)
    early = town.readout(as_of=SHOWN + timedelta(days=13))
    assert early.comparisons == []
    assert "nothing to compare" in write_report(early, folder=town.layout.reports)[0].read_text()
    assert town.readout().comparisons[0].verdict is Verdict.TOO_EARLY


def test_a_variant_that_makes_people_buy_less_often_is_stopped_by_the_readout_and_everybody_gets_the_default(
    town: Town,
) -> None:
    town.crowd(800)
    exposures = read_exposures(town.layout.exposures, flag="x", until=NOW).to_pylist()
    control = [e["user_key"] for e in exposures if e["variant"] == "a"]
    town.buy(*[(p, SHOWN + timedelta(days=8), 5.0) for p in control], batch="more")
    look = town.readout(act=False)
    assert [f.metric for f in look.guardrails if f.broken] == ["baskets"]
    assert look.stop is None
    found = town.readout()
    assert found.stopped_now
    assert found.stop is not None
    assert found.stop.by == "a guardrail"
    assert "baskets of b is 1 where control has 2" in found.stop.reason
    assert judge(found.split, found.guardrails, found.comparisons[0]) is Verdict.HARMFUL
    flags = Flags(town.settings_dir / "flags.json", checked=town.layout.run / "flags.json")
    log = Exposures(town.layout.exposures)
    answers = Assigner(town.client, flags=flags, exposures=log).assign(control[:3], flag="x", now=NOW)
    assert {(a.variant, a.reason) for a in answers} == {("a", "stopped")}
    log.close(), flags.close()
    assert not town.readout().stopped_now, "it was stopped before"


@pytest.mark.parametrize(
    ("slow", "failing", "broken"),
    [(1.0, 0, []), (1.3, 0, []), (3.0, 0, ["latency_ms"]), (1.0, 100, ["error_share"]), (1.0, 8, [])],
)
def test_a_variant_that_is_slow_or_fails_is_stopped_by_watching(
    town: Town, monkeypatch: pytest.MonkeyPatch, slow: float, failing: int, broken: list[str]
) -> None:
    vitals, random, clock = Vitals(town.layout.vitals), np.random.default_rng(3), [0.0]
    monkeypatch.setattr("aap.experiments.assignment.service_metrics.time.perf_counter", lambda: clock[0])
    for i in range(2_000):
        variant = "ab"[i % 2]
        try:
            with vitals.measured("x", variant, people=1):
                clock[0] += random.gamma(4.0, 0.005) * (slow if variant == "b" else 1.0)
                if variant == "b" and i % 2_000 < 2 * failing:
                    raise ConnectionError
        except ConnectionError:
            pass
    vitals.close(now=NOW - timedelta(hours=1))
    (found,) = town.experiments().watch(as_of=NOW, now=NOW)
    assert [f.metric for f in found.guardrails if f.broken] == broken
    assert (found.stop is not None) is bool(broken)
    if not broken:
        assert kill_switch.stopped(town.client, ["x"]) == {}


def test_a_growing_share_is_read_out_by_the_split_each_person_came_in_under(town: Town) -> None:
    """First one in ten, then half: late people spend four times as much, and b does nothing."""
    random = np.random.default_rng(6)
    people = [f"{i:032x}" for i in range(1_600)]
    town.agree(people, *BOTH, at=SHOWN - timedelta(days=60))
    variants = ["b" if random.random() < (0.1 if i < 800 else 0.5) else "a" for i in range(1_600)]
    town.expose(people[:800], variants[:800], split="a:90,b:10")
    town.expose(people[800:], variants[800:], at=SHOWN + timedelta(days=2))
    town.buy(
        *[
            (p, SHOWN + timedelta(days=9), (10 if i < 800 else 40) * random.lognormal(0, 0.3))
            for i, p in enumerate(people)
        ]
    )
    found = town.readout()
    assert found.split.sound
    assert found.comparisons[0].verdict is Verdict.UNDECIDED
    assert abs(found.comparisons[0].curve.lift[-1]) < 0.1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("metric: happiness", "judged by 'happiness': choose one of spend"),
        ("colour: red", "unknown colour"),
        ("window_days: soon", "window_days='soon'"),
        ("window_days: 0", "window_days above 0"),
        ("error_rate: 5", "error_rate 5.0"),
        ("guardrails: [{metric: joy, may_fall: 0.1}]", "guarded by 'joy'"),
        ("guardrails: [{metric: spend}]", "0 limits"),
        ("guardrails: [{metric: spend, may_fall: 0.1, at_most: 2}]", "2 limits"),
    ],
)
def test_a_mistake_in_a_plan_is_named(town: Town, text: str, says: str) -> None:
    town.plan(text)
    with pytest.raises(PlanUnusable, match=says):
        read_plans(town.settings_dir / "experiments.yaml")


def test_without_a_plan_the_default_one_holds_and_the_plans_we_ship_can_be_read(town: Town) -> None:
    (town.settings_dir / "experiments.yaml").unlink()
    assert town.experiments().all(as_of=NOW, now=NOW)[0].plan.metric == "spend"
    ours = read_plans(Path(__file__).parents[4] / "conf" / "experiments.yaml")
    assert set(ours) == {"recommendation_strategy"}
    assert replace(ours["recommendation_strategy"], guardrails=()).metric in METRICS


def test_an_unknown_experiment_and_a_control_outside_the_split_are_refused(town: Town) -> None:
    with pytest.raises(UnknownFlag, match="there are: x"):
        town.experiments().readout("y", as_of=NOW, now=NOW)
    town.plan("control: c")
    with pytest.raises(PlanUnusable, match="control 'c' isn't in its split"):
        town.readout()


def answer(town: Town, calls: int, *, flag: str = "x", arms: Sequence[str] = "ab", fails: int = 0) -> None:
    """So many calls, by turns of one arm and the other; of the second's every `fails`-th fails."""
    vitals = Vitals(town.layout.vitals)
    for i in range(calls):
        try:
            with vitals.measured(flag, arms[i % 2], people=1):
                if fails and i % (2 * fails) == 1:
                    raise ConnectionError
        except ConnectionError:
            pass
    vitals.close(now=NOW - timedelta(hours=1))


def grow(town: Town) -> None:
    path = town.settings_dir / "flags.json"
    document = json.loads(path.read_text())
    document["flags"]["x"]["metadata"] = {"ramp": "5,20,100", "ramp_hours": 24}
    path.write_text(json.dumps(document))


def shares(town: Town, days: int) -> list[int | None]:
    found = []
    for day in range(days):
        at = NOW + timedelta(days=day)
        found += [one.share for one in town.experiments().watch(as_of=at, now=at)]
    return found


def test_watching_lets_a_share_grow_day_by_day_while_all_is_well(town: Town) -> None:
    grow(town)
    town.crowd(300)
    town.plan("guardrails: [{metric: error_share, at_most: 0.1}]")
    answer(town, 400)
    assert shares(town, 4) == [5, 20, 100, 100]
    assert town.experiments().all(as_of=NOW, now=NOW)[0].share == 100


def test_a_share_stays_where_it_is_with_too_few_people_or_a_broken_split(town: Town) -> None:
    grow(town)
    town.crowd(60)
    answer(town, 400)
    town.plan("guardrails: [{metric: error_share, at_most: 0.1}]")
    assert shares(town, 3) == [5, 5, 5]
    many = [f"m{i}" for i in range(300)]
    town.agree(many, *BOTH, at=SHOWN - timedelta(days=60))
    town.expose(many, ["b"] * 300)
    assert shares(town, 3) == [5, 5, 5]


def test_a_share_that_does_harm_is_stopped_instead_of_growing(town: Town) -> None:
    grow(town)
    town.crowd(300)
    answer(town, 1_000, fails=4)
    assert shares(town, 3) == [None]
    assert "error_share of b is 0.25" in kill_switch.stopped(town.client, ["x"])["x"].reason


def test_a_share_does_not_grow_without_a_guardrail_or_before_its_calls_can_be_judged(town: Town) -> None:
    grow(town)
    town.crowd(300)
    town.plan("metric: spend")
    assert shares(town, 3) == [5, 5, 5]
    (found,) = town.experiments().watch(as_of=NOW, now=NOW)
    assert "has no guardrail, so nothing would stop it" in found.held_by
    town.plan("guardrails: [{metric: error_share, at_most: 0.1}]")
    answer(town, 100)
    assert shares(town, 3) == [5, 5, 5]
    (found,) = town.experiments().watch(as_of=NOW, now=NOW)
    assert found.held_by == "error_share of b can't be judged before 100 calls of each variant."


def test_a_canary_without_a_plan_is_stopped_when_its_challenger_fails(town: Town) -> None:
    arms = ("champion", "challenger")
    canary = {"state": "ENABLED", "variants": {v: v for v in arms}, "defaultVariant": "champion"}
    canary["targeting"] = {"fractional": [[v, 50] for v in arms]}
    canary["metadata"] = {"ramp": "2,10,50,100", "ramp_hours": 24}
    (town.settings_dir / "flags.json").write_text(json.dumps({"flags": {"churn_version": canary}}))
    (town.settings_dir / "experiments.yaml").unlink()
    answer(town, 400, flag="churn_version", arms=arms, fails=1)
    (found,) = town.experiments().watch(as_of=NOW, now=NOW)
    assert found.stop is not None
    assert found.stop.by == "a guardrail"
    assert found.stop.reason == "error_share of challenger is 1 where control has 0, and may be at most 0.01."
    assert {g.metric for g in found.plan.guardrails} == {"latency_ms", "error_share"}


def test_an_experiment_that_cant_be_read_out_keeps_no_other_from_being_stopped(town: Town) -> None:
    path = town.settings_dir / "flags.json"
    document = json.loads(path.read_text())
    lost = {**document["flags"]["x"], "targeting": {"fractional": [["b", 1]]}}
    path.write_text(json.dumps({"flags": {"lost": lost, **document["flags"]}}))
    answer(town, 400, fails=2)
    with pytest.raises(PlanUnusable, match="'lost' can't be read out"):
        town.experiments().watch(as_of=NOW, now=NOW)
    assert "error_share of b is 0.5" in kill_switch.stopped(town.client, ["x"])["x"].reason
