"""`aap experiment`: what it prints, what it switches, and how it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from aap.cli.main import main
from aap.config import Settings
from aap.consent.ledger.ledger import Entry
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_desk
from aap.experiments.assignment.exposures import Exposures
from aap.experiments.flags import kill_switch
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect

FLAG = "recommendation_strategy"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def aap(settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command as the console script does; returns (exit code, output, errors)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aap", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def last_line(out: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(out.splitlines()[-1])
    return found


def test_an_experiment_is_listed_stopped_read_out_and_resumed(aap: Run, settings: Settings) -> None:
    now = settings.now()
    for purpose in (Purpose.FUNCTIONAL_SERVICE_IMPROVE, Purpose.ANALYTICS_REPORTING):
        entry = Entry("a" * 32, purpose, Status.GIVEN, now - timedelta(days=9), "the person", "test", "1")
        open_desk(settings).record_many([entry], received_at=now)
    log = Exposures(Layout(settings.home).exposures)
    for person in ("a" * 32, "b" * 32):
        log.log(person, flag=FLAG, variant="discover", split="buy_again:50,discover:50", at=now)
    log.close()
    code, out, _ = aap("experiment", "list", "--json")
    (line,) = last_line(out)["experiments"]  # type: ignore[misc]
    assert code == 0
    assert line["state"] == "running"
    assert line["people"] == {"buy_again": 0, "discover": 1}
    assert aap("experiment", "stop", FLAG, "--reason", "too slow")[0] == 0
    assert kill_switch.stopped(connect(settings), [FLAG])[FLAG].reason == "too slow"
    assert "stopped before" in aap("experiment", "stop", FLAG)[1]
    assert "too slow" in aap("experiment", "list")[1]
    code, out, _ = aap("experiment", "readout", FLAG, "--json")
    told = last_line(out)
    assert code == 0
    assert told["stopped"]["by"] == "a person"  # type: ignore[index]
    assert told["excluded"] == {"no consent for functional.service.improve since before the exposure": 1}
    assert told["variants"] == []
    assert "nothing to compare" in out
    assert (Layout(settings.home).reports / f"experiment-{FLAG}.html").is_file()
    assert "No experiment runs." in aap("experiment", "watch")[1]
    assert "goes on" in aap("experiment", "resume", FLAG)[1]
    code, out, _ = aap("experiment", "watch", "--json")
    assert [r["experiment"] for r in last_line(out)["readouts"]] == [FLAG]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["readout", "stop", "resume"])
def test_an_unknown_experiment_is_refused_in_one_sentence(aap: Run, command: str) -> None:
    code, _, said = aap("experiment", command, "nothing")
    assert code == 2
    assert said.strip() == f"Error: There is no experiment 'nothing'; there are: {FLAG}."


def test_a_plan_with_a_mistake_is_refused_in_one_sentence(
    aap: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Path(__file__).parents[4] / "conf" / "flags.json"
    (tmp_path / "flags.json").write_text(ours.read_text())
    (tmp_path / "experiments.yaml").write_text(f"{FLAG}: {{metric: joy}}")
    monkeypatch.setenv("AAP_SETTINGS_DIR", str(tmp_path))
    code, _, said = aap("experiment", "readout", FLAG)
    assert code == 2
    assert "is judged by 'joy': choose one of spend" in said
    assert "Traceback" not in said
