"""The runner: killed by SIGKILL inside every step and between every two, a job still does each step to its end once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aap.config import Settings
from aap.jobs.reports.retrain_plots import data_in, drift_scores, embedded, models_beside
from tests.waiting import PATIENCE_S

# One process imports everything once and opens nothing; each attempt is a fork of it that kills itself at its point.
_KILLED_EVERYWHERE = """
import json, os, signal, sys
from pathlib import Path
from aap.jobs.runner import run_job
from aap.config import load_settings

marks, steps = Path(sys.argv[1]), ("import", "features", "train", "publish")

def mark(what):
    with marks.open("a") as file:
        file.write(what + "\\n")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def attempt(point):
    settings = load_settings()
    def step(name):
        def do():
            mark("begin " + name)
            if point == ("inside", name):
                die()
            mark("end " + name)
            return {"name": name}
        return do
    def say(name, done, total):
        if point == ("before", name):
            die()
    def finish(result, run):
        if point == ("inside", "finish"):
            die()
    made = run_job(settings, "killed", as_of=settings.now(), steps_of=lambda *_: {n: step(n) for n in steps},
                   finish=finish, say=say)
    print(json.dumps({"resumed": made.resumed, "as_of": made.as_of, "run": made.run_id, "steps": list(made.steps)}))
    sys.stdout.flush()

points = [(where, name) for name in steps for where in ("before", "inside")] + [("inside", "finish"), None]
for point in points:
    child = os.fork()
    if not child:
        attempt(point)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == (-signal.SIGKILL if point else 0), (point, code)
"""


@pytest.mark.full
def test_a_job_killed_inside_every_step_and_between_them_ends_each_step_once(
    settings: Settings, tmp_path: Path
) -> None:
    environment = {**os.environ, "AAP_HOME": str(settings.home)}
    command = [sys.executable, "-c", _KILLED_EVERYWHERE, str(tmp_path / "marks")]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    marks = (tmp_path / "marks").read_text().splitlines()
    for name in ("import", "features", "train", "publish"):
        assert marks.count(f"begin {name}") == 2, "once killed inside, once done"
        assert marks.count(f"end {name}") == 1
    (line,) = told.stdout.splitlines()
    found = json.loads(line)
    assert found["resumed"]
    assert found["steps"] == ["import", "features", "train", "publish"]


def test_the_summary_shows_a_picture_only_of_what_there_is() -> None:
    assert embedded(models_beside([{"model": "churn", "reasons": ["Not trained: too few rows."]}]), told="x") == ""
    assert data_in([]) is None
    assert drift_scores({"churn": {}}, threshold=0.2) is None
    outcome = {"model": "churn", "version": 3, "promoted": False, "headline": "auc", "metrics": {"auc": 0.8}}
    figure = models_beside([{**outcome, "champion": 0.82, "baselines": {"recency": {"auc": 0.7}, "odd": {}}}])
    assert figure is not None
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["recency", "champion before", "this version"]
    assert "kept the champion" in axes.get_title(loc="left")
    assert embedded(figure, told="a < b").startswith("<img style='max-width:100%' alt='a &lt; b' src='data:image/png")
