"""`aap schedule`: text that cron, systemd and Kubernetes take, for a home whose path needs quoting too."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aap.jobs.schedule import KINDS, SCHEDULED, Place, cron, kubernetes, units
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[3]
PLACE = Place(
    Path("/opt/aap 1/bin/aap"), Path("/srv/100% aap"), Path("/opt/aap 1"), "aap", "registry.example/aap:1", "aap-home"
)
JOBS = list(SCHEDULED.values())
_FIELD = r"(\*|\d+)"


def test_every_cron_line_has_five_fields_and_a_command_the_shell_reads_back() -> None:
    lines = [line for line in cron(JOBS, PLACE).splitlines() if not line.startswith(("#", "AAP_HOME=", "AAP_PROJECT="))]
    assert len(lines) == len(JOBS)
    for line, job in zip(lines, JOBS, strict=True):
        found = re.fullmatch(rf"({_FIELD} {_FIELD} {_FIELD} {_FIELD} {_FIELD})  (.+)", line)
        assert found, line
        minute, hour, day, month, weekday = (0 if f == "*" else int(f) for f in found[1].split())
        assert (0 <= minute < 60, 0 <= hour < 24, 0 <= day < 32, 0 <= month < 13, 0 <= weekday < 8) == (True,) * 5
        assert not re.search(r"(?<!\\)%", found[7]), "a bare per cent sign ends a command in cron"
        words = shlex.split(found[7].replace(r"\%", "%"))
        assert words[: 1 + len(job.command)] == [str(PLACE.aap), *job.command]
        assert words[-2:] == [f"/srv/100% aap/logs/{job.name}.log", "2>&1"]


def test_systemd_has_a_service_and_a_timer_for_each_job_that_go_on_after_a_failure() -> None:
    found = units(JOBS, PLACE)
    assert set(found) == {f"aap-{job.name}.{kind}" for job in JOBS for kind in ("service", "timer")}
    for name, text in found.items():
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(text)
        if name.endswith(".service"):
            assert parser["Service"]["Restart"] == "on-failure"
            assert parser["Service"]["Environment"] == '"AAP_HOME=/srv/100%% aap" "AAP_PROJECT=/opt/aap 1"'
            assert parser["Service"]["ExecStart"].startswith('"/opt/aap 1/bin/aap" ')
        else:
            assert parser["Timer"]["Persistent"] == "true"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not on this machine")
def test_systemd_itself_finds_nothing_wrong(tmp_path: Path) -> None:
    place = Place(Path(sys.executable), tmp_path, tmp_path, "root", "", "")
    for name, text in units(JOBS, place).items():
        (tmp_path / name).write_text(text)
    told = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in units(JOBS, place))],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert "aap-" not in told.stderr, told.stderr


def test_kubernetes_has_one_cron_job_each_that_never_runs_twice_at_once() -> None:
    found = list(yaml.safe_load_all(kubernetes(JOBS, PLACE)))
    assert [one["metadata"]["name"] for one in found] == [f"aap-{job.name}" for job in JOBS]
    for one, job in zip(found, JOBS, strict=True):
        assert (one["apiVersion"], one["kind"], one["spec"]["concurrencyPolicy"]) == ("batch/v1", "CronJob", "Forbid")
        assert one["spec"]["schedule"] == job.cron
        pod = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        assert pod["restartPolicy"] == "OnFailure"
        (container,) = pod["containers"]
        assert container["args"] == ["aap", *job.command]
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_every_scheduled_command_is_one_that_aap_has() -> None:
    from aap.cli.main import ENTRIES

    assert {job.command[0] for job in JOBS} <= set(ENTRIES)


def _aap(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aap.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_the_command_prints_it_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    told = _aap("--home", str(tmp_path), "schedule", "cron", "--job", "weekly", "--aap", "/usr/bin/aap", "--json")
    found = json.loads(told.stdout.splitlines()[-1])
    assert found["jobs"] == ["weekly"]
    assert f"AAP_HOME={tmp_path}\nAAP_PROJECT={ROOT}\n" in found["text"]
    assert "10 3 * * 1  /usr/bin/aap retrain >> " in found["text"]
    wrong = _aap("schedule", "launchd")
    assert wrong.returncode == 2
    assert all(kind in wrong.stderr for kind in KINDS)
    assert not list(tmp_path.iterdir()), "nothing is written"
