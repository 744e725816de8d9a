"""The weekly retrain: killed anywhere it goes on, two at once don't, nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aap.config import Settings
from aap.events.archive import Archive
from aap.infra.errors import LockHeld
from aap.infra.locks import hold
from aap.infra.object_store import archive_folder
from aap.infra.paths import Layout
from aap.jobs.errors import StepFailed
from aap.jobs.ingest import import_again, import_source, remembered_sources
from aap.modeling.catalog import model_classes
from aap.modeling.registry.registry import open_registry
from pipelines.retrain import retrain
from tests.waiting import PATIENCE_S

_AAP = (sys.executable, "-m", "aap.cli.main")


def _steps_done(settings: Settings) -> list[str]:
    try:
        return list(json.loads((Layout(settings.home).run / "retrain.json").read_text())["steps"])
    except (OSError, ValueError):
        return []


@pytest.mark.full
def test_a_retrain_that_was_killed_goes_on_from_the_step_it_was_in_under_the_same_run(shop: Settings) -> None:
    environment = {**os.environ, "AAP_HOME": str(shop.home)}
    running = subprocess.Popen([*_AAP, "retrain"], env=environment, start_new_session=True)
    deadline = time.monotonic() + PATIENCE_S
    while "features" not in _steps_done(shop) and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    state = json.loads((Layout(shop.home).run / "retrain.json").read_text())
    assert "train anomaly" not in state["steps"], "it was killed before its end"

    result = retrain(shop, as_of=shop.now())

    assert result.resumed
    assert (result.run_id, result.as_of) == (state["run_id"], state["as_of"])
    assert result.steps["features"].seconds == state["steps"]["features"]["seconds"], "not done again"
    trained = [f"train {name}" for name in model_classes()]
    assert set(result.steps) == {"import", "consistency", "features", "drift", *trained, "experiments"}
    page = Path(result.summary).read_text()
    assert "data:image/png" in page
    assert "population stability index" in page
    assert not _steps_done(shop), "nothing is left to resume"


@pytest.mark.full
def test_the_next_retrain_takes_in_what_is_new_and_replaces_champions_only_through_the_gate(shop: Settings) -> None:
    before = {name: open_registry(shop).champion(name) for name in model_classes()}
    with Path(remembered_sources(shop)[0].location).open("a", encoding="utf-8") as file:
        file.write("C999998,client-0,ART-001,2,3.50,30/12/2023 10:00,R1\n")
    result = retrain(shop, as_of=shop.now())
    assert not result.resumed
    assert result.steps["import"].result["sources"][0]["accepted"] == {"product_purchased": 1}
    for name in model_classes():
        found = result.steps[f"train {name}"].result
        champion = open_registry(shop).champion(name)
        if "version" not in found:
            assert found["reasons"][0].startswith("Not trained: ")
            assert open_registry(shop).champion(name) == before[name]
            continue
        assert found["replaced"] == (before[name].version if before[name] else None)
        if found["promoted"]:
            assert champion is not None
            assert champion.version == found["version"]
        assert found["reasons"], "every decision says why"


def test_a_second_retrain_at_the_same_time_says_so_and_leaves(shop: Settings) -> None:
    with hold(Layout(shop.home).run / "retrain.lock", what="a retrain"):
        with pytest.raises(LockHeld, match="retrain"):
            retrain(shop, as_of=shop.now())
        environment = {**os.environ, "AAP_HOME": str(shop.home)}
        second = subprocess.run([*_AAP, "retrain"], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert second.returncode != 0
    assert second.stderr.startswith("Error:")
    assert "Traceback" not in second.stderr


def test_what_did_not_change_is_not_imported_again_and_what_grew_adds_only_what_is_new(shop: Settings) -> None:
    assert import_again(shop, now=shop.now()) == []
    (source,) = remembered_sources(shop)
    table = Path(source.location)
    held = Archive(archive_folder(shop)).count("product_purchased")
    with table.open("a", encoding="utf-8") as file:
        file.write("C999999,client-0,ART-001,2,3.50,30/12/2023 10:00,R1\n")
    (report,) = import_again(shop, now=shop.now())
    assert report.accepted == {"product_purchased": 1}
    assert Archive(archive_folder(shop)).count("product_purchased") == held + 1


@pytest.mark.full
def test_a_step_that_fails_is_named_and_the_run_can_go_on_once_the_cause_is_gone(shop: Settings) -> None:
    features = Layout(shop.home).features
    hidden = features.with_name("hidden")
    features.rename(hidden)
    features.write_text("in the way")
    with pytest.raises(StepFailed, match=r"'features'.*Run it again"):
        retrain(shop, as_of=shop.now())
    features.unlink()
    hidden.rename(features)
    assert retrain(shop, as_of=shop.now()).resumed


def test_an_import_while_another_runs_says_so(shop: Settings) -> None:
    (source,) = remembered_sources(shop)
    with hold(Layout(shop.home).run / "import.lock", what="an import"), pytest.raises(LockHeld, match="import"):
        import_source(shop, source.location, mapping=Path(source.mapping), now=shop.now())
