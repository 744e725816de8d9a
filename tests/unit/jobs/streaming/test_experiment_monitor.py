"""The platform looks at its experiments by itself: nobody types a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aap.config import Settings, load_settings
from aap.consent.ledger.ledger import Entry
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_desk
from aap.experiments.assignment.exposures import Exposures
from aap.experiments.assignment.service_metrics import Vitals
from aap.experiments.errors import FlagsUnusable
from aap.experiments.flags.kill_switch import stopped
from aap.experiments.flags.rollout import ramp_key, step_of
from aap.experiments.flags.store import Flags
from aap.infra.paths import Layout
from aap.infra.redis import connection
from aap.jobs.streaming import experiment_monitor
from tests.waiting import until

ROOT = Path(__file__).parents[4]
CANARY, GROWING = "churn_version", "growing"


def flag(*variants: str, **metadata: str | float) -> dict[str, Any]:
    return {
        "state": "ENABLED",
        "variants": {v: v for v in variants},
        "defaultVariant": variants[0],
        "targeting": {"fractional": [[v, 50] for v in variants]},
        "metadata": metadata,
    }


def answer(layout: Layout, name: str, variants: tuple[str, str], *, fails: bool, now: datetime) -> None:
    vitals = Vitals(layout.vitals)
    for i in range(400):
        try:
            with vitals.measured(name, variants[i % 2], people=1):
                if fails and i % 2:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    vitals.close(now=now - timedelta(minutes=1))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Settings]:
    """A home with a canary whose challenger fails every call, and a growing flag in which all is well."""
    declared = tmp_path / "settings"
    declared.mkdir()
    (declared / "flags.json").write_text(
        json.dumps(
            {"flags": {CANARY: flag("champion", "challenger"), GROWING: flag("a", "b", ramp="5,100", ramp_hours=1e-4)}}
        )
    )
    (declared / "experiments.yaml").write_text(f"{GROWING}: {{guardrails: [{{metric: error_share, at_most: 0.1}}]}}")
    place = tmp_path / "home"
    place.mkdir()
    (place / "aap.env").write_text(f"AAP_SETTINGS_DIR={declared}\nAAP_WATCH_MINUTES=0.03\n")
    settings = load_settings(place)
    connection.ensure_running(settings)
    layout, now = Layout(place), datetime.now(UTC)
    answer(layout, CANARY, ("champion", "challenger"), fails=True, now=now)
    answer(layout, GROWING, ("a", "b"), fails=False, now=now)
    people = [f"{i:032x}" for i in range(200)]
    both = (Purpose.FUNCTIONAL_SERVICE_IMPROVE, Purpose.ANALYTICS_REPORTING)
    agreed = [
        Entry(p, purpose, Status.GIVEN, now - timedelta(days=9), "the person", "test", "1")
        for p in people
        for purpose in both
    ]
    open_desk(settings).record_many(agreed, received_at=now)
    log = Exposures(layout.exposures)
    for i, person in enumerate(people):
        log.log(person, flag=GROWING, variant="ab"[i % 2], split="a:50,b:50", at=now - timedelta(hours=1))
    log.close()
    yield settings
    connection.stop(settings)


def share(settings: Settings) -> int:
    with connection.connect(settings) as client:
        growing = Flags(settings.settings_dir / "flags.json", checked=settings.home / "other.json").get(GROWING)
        return step_of(growing, client.get(ramp_key(GROWING))).share  # type: ignore[arg-type]


def test_while_the_platform_runs_a_failing_canary_is_stopped_and_a_share_grows_with_nobody_typing_a_command(
    home: Settings,
) -> None:
    command = [sys.executable, "-m", "aap.cli.main", "--home", str(home.home), "live"]
    with (
        (home.home / "live.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT) as live,
    ):
        client = connection.connect(home)
        # What is said comes last, once all is done. A look is of low priority: beside other work it takes minutes.
        both = (f"Experiment {CANARY} is stopped", f"Experiment {GROWING} takes in 100 %")
        try:
            until(
                lambda: live.poll() is not None or all(told in (home.home / "live.log").read_text() for told in both),
                within_s=1_500,
                every_s=0.2,
            )
            assert live.poll() is None
        finally:
            live.terminate()
    (found,) = stopped(client, [CANARY]).values()
    assert found.by == "a guardrail"
    assert found.reason == "error_share of challenger is 1 where control has 0, and may be at most 0.01."
    assert share(home) == 100
    said = (home.home / "live.log").read_text()
    assert f"Experiment {CANARY} is stopped: error_share of challenger is 1" in said
    assert f"Experiment {GROWING} takes in 100 % of people." in said
    assert (Layout(home.home).reports / f"experiment-{CANARY}.html").is_file()


def test_of_several_processes_one_has_the_turn_until_it_is_time_for_the_next_look(home: Settings) -> None:
    often, seldom = (home.model_copy(update={"watch_minutes": minutes}) for minutes in (0.001, 5.0))
    assert len(experiment_monitor.look_around(seldom)) == 1
    with connection.connect(home) as client:
        client.delete(f"experiment:stopped:{CANARY}")
        assert experiment_monitor.look_around(often) == []
        assert stopped(client, [CANARY]) == {}
        client.delete("experiment:look")
    assert f"Experiment {CANARY} is stopped" in experiment_monitor.look_around(often)[0]
    (home.settings_dir / "flags.json").write_text("{")
    time.sleep(0.1)
    with pytest.raises(FlagsUnusable):  # it looks again
        experiment_monitor.look_around(often)


def test_a_look_that_fails_is_a_sentence_and_the_next_one_does_better(
    home: Settings, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment_monitor.os, "nice", lambda _: 0)  # this process is not its own
    monkeypatch.setattr(experiment_monitor.signal, "signal", lambda *_: None)
    plans = home.settings_dir / "experiments.yaml"
    sound = plans.read_text()
    plans.write_text("growing: {metric: joy}")
    experiment_monitor.look(str(home.home), os.getppid())
    assert "can't be looked at now: growing in" in capfd.readouterr().err
    plans.write_text(sound)
    time.sleep(2)
    experiment_monitor.look(str(home.home), os.getppid())
    assert f"Experiment {CANARY} is stopped" in capfd.readouterr().err


def test_a_mistake_in_the_flag_file_takes_nobodys_guardrails_away(home: Settings) -> None:
    source = home.settings_dir / "flags.json"
    Flags(source, checked=Layout(home.home).run / "flags.json").close()
    source.write_text("{")
    assert f"Experiment {CANARY} is stopped" in experiment_monitor.look_around(home)[0]
