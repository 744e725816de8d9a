"""The main job, end to end: another shop's history becomes features, models and answers that obey consent, over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from aap.cli.background_services import start_all, stop_all
from aap.config import load_settings
from aap.features.retrieval import open_retrieval
from aap.infra.code_version import code_revision
from aap.infra.locks import hold
from aap.infra.object_store import archive_folder, features_folder
from aap.infra.paths import Layout
from aap.infra.process import detached
from aap.infra.redis import connection
from aap.infra.redis.embedded_server import read_state
from aap.jobs.reports.online_offline_skew import open_served
from aap.modeling.catalog import model_classes
from aap.modeling.registry.registry import open_registry
from aap.privacy.parquet_subjects import count_rows
from aap.security.pseudonyms import load_pseudonyms
from aap.serving.analysis.replay import find, replay
from aap.serving.errors import UnknownPrediction
from aap.serving.inference.catalog_filter import Shelves, catalogue_stamp
from aap.serving.server import listening
from benchmarks.support.model_variants import rivals
from tests.e2e.callers import asking
from tests.e2e.conftest import Aap, Running, connected_to
from tests.e2e.swapping import Loaded
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.full

PERSONAL = ("churn", "segments", "anomalies")


def test_every_model_of_another_shop_has_a_champion_made_by_one_mapping_file(running: Running) -> None:
    registry = open_registry(running.settings)
    names = tuple(model_classes())
    assert {name: registry.champion(name) is not None for name in names} == dict.fromkeys(names, True)


def test_a_person_who_agreed_to_everything_is_answered_by_every_endpoint(running: Running) -> None:
    for endpoint in ("recommendations", *PERSONAL):
        (answer,) = running.ask(endpoint, "client-0")
        assert answer["outcome"] == "answered", answer
        assert answer["consent"]["allowed"] is True
        assert answer["result"]


def test_a_person_who_agreed_to_part_is_answered_for_that_part_only(running: Running) -> None:
    (recommended,) = running.ask("recommendations", "client-1")
    assert recommended["outcome"] == "denied"
    assert recommended["consent"] == {"allowed": False, "purpose": "personalize.profiling", "reason": "refused"}
    assert {item["reason"] for item in recommended["result"]} == {"popular"}
    assert running.ask("churn", "client-1")[0]["outcome"] == "answered"


def test_a_person_who_refused_gets_no_answer_made_from_their_data(running: Running) -> None:
    for endpoint in PERSONAL:
        (answer,) = running.ask(endpoint, "client-2")
        assert (answer["result"], answer["outcome"]) == (None, "denied")
    (refused,) = running.ask("recommendations", "client-2", n=10)
    (unknown,) = running.ask("recommendations", "nobody-we-know", n=10)
    assert refused["result"] == unknown["result"], "the same as somebody we know nothing of"


def test_nothing_is_stored_of_a_person_who_refused(running: Running) -> None:
    key = load_pseudonyms(Layout(running.settings.home)).user_key("client-2")
    for folder in (archive_folder(running.settings), features_folder(running.settings)):
        assert folder.files()
        assert count_rows(folder, key) == 0
    client = connection.connect(running.settings)
    assert list(client.scan_iter(f"*{key}*")) == [f"{{u:{key}}}:c".encode()]


def test_an_unknown_user_is_denied_with_a_reason_and_not_an_error(running: Running) -> None:
    (answer,) = running.ask("churn", "nobody-we-know")
    assert answer["consent"]["reason"] == "no_record"
    assert answer["result"] is None


def test_a_withdrawal_is_obeyed_by_the_very_next_call_and_a_new_grant_starts_afresh(running: Running) -> None:
    assert running.ask("churn", "client-5")[0]["consent"]["allowed"] in (True, False)
    running.choose("client-0", "marketing.retention", "withdraw")
    (after,) = running.ask("churn", "client-0")
    assert (after["outcome"], after["result"]) == ("denied", None)
    assert after["consent"]["reason"] == "withdrawn"
    assert running.ask("segments", "client-0")[0]["outcome"] == "answered", "no other purpose is touched"
    running.choose("client-0", "marketing.retention", "grant")
    (again,) = running.ask("churn", "client-0")
    assert again["consent"]["allowed"] is True
    assert (again["outcome"], again["result"]) == ("not_found", None), "what was known before is gone"


def test_many_people_in_one_call_are_answered_in_order(running: Running) -> None:
    users = [f"client-{i}" for i in range(100)]
    together = running.ask("segments", *users)
    assert len(together) == 100
    alone = running.ask("segments", users[42])[0]
    named = [{k: a["result"][k] for k in ("segment", "name")} if a["result"] else None for a in (together[42], alone)]
    assert named[0] == named[1], "the distance moves with the clock, the person's place doesn't"


def test_the_experiment_variant_of_a_person_never_changes_and_is_logged_once(running: Running) -> None:
    key = load_pseudonyms(Layout(running.settings.home)).user_key("client-7")
    answers = [running.ask("recommendations", "client-7")[0] for _ in range(5)]
    assert len({a["experiment"]["variant"] for a in answers}) == 1

    def logged() -> list[str]:
        files = Layout(running.settings.home).exposures.rglob("*.parquet")
        rows = [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]
        return [row["variant"] for row in rows if row["user_key"] == key]

    until(logged, every_s=0.1)
    time.sleep(1.5)
    assert logged() == [answers[0]["experiment"]["variant"]]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\x80\x04K\x01.", "application/vnd.bentoml+pickle", 415),
        (b'{"user_ids": []}', "application/json", 422),
        (b'{"user_ids": ["a"], "limit": 3}', "application/json", 422),
    ],
)
def test_wrong_input_is_answered_by_one_sentence(running: Running, content: bytes, kind: str, status: int) -> None:
    answer = running.client.post("/v1/churn", content=content, headers={"Content-Type": kind})
    assert answer.status_code in (400, 413, 415, 422)
    assert answer.status_code == status or status in (400, 422)
    assert set(answer.json()) == {"error"}
    assert "Traceback" not in answer.text


def test_ten_thousand_users_in_one_call_are_refused(running: Running) -> None:
    answer = running.client.post("/v1/churn", json={"user_ids": [f"u{i}" for i in range(10_000)]})
    assert answer.status_code in (413, 422)
    assert "10000" in answer.json()["error"].replace(",", "")


def test_items_like_an_item_and_mixed_batches_are_answered(running: Running) -> None:
    (items,) = running.ask("recommendations", "client-0", n=1)
    item = items["result"][0]["item_id"]  # type: ignore[index]
    found = running.client.post("/v1/similar-items", json={"item_ids": [item], "n": 5}).json()["answers"]
    assert len(found[0]["result"]) == 5
    assert item not in {like["item_id"] for like in found[0]["result"]}
    asked = [{"endpoint": e, "user_ids": ["client-0"]} for e in (*PERSONAL, "recommendations")]
    parts = running.client.post("/v1/score", json={"requests": asked}).json()["responses"]
    assert [p["status"] for p in parts] == [200] * 4
    alone = [running.ask(e, "client-0")[0] for e in (*PERSONAL, "recommendations")]
    assert [p["answers"][0]["outcome"] for p in parts] == [a["outcome"] for a in alone]
    assert parts[-1]["answers"][0]["outcome"] == "answered"


def test_every_kind_of_answer_is_replayed_bit_for_bit_from_its_record(running: Running) -> None:
    asked = {
        "churn": {"explain": True},
        "anomalies": {"explain": True},
        "segments": {},
        "recommendations": {"n": 7, "explain": True},
    }
    ids = [
        str(answer["prediction_id"])
        for endpoint, options in asked.items()
        for answer in running.ask(endpoint, "client-0", "client-2", "client-5", **options)
    ]
    layout, door = Layout(running.settings.home), open_retrieval(running.settings)
    shelves = Shelves(door.catalogue, stamp=lambda: catalogue_stamp(layout))
    registry = open_registry(running.settings)
    deadline = time.monotonic() + PATIENCE_S
    for prediction in ids:
        while True:
            try:
                record = find(prediction, records=layout.predictions)
                break
            except UnknownPrediction:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        found = replay(record, registry=registry, consent=door, shelves=shelves, now=running.settings.now())
        assert (found.same, found.why_not) == (True, None), found
        if found.endpoint == "recommendations":
            assert all(item["explanation"] for item in found.computed)


def test_without_a_key_nothing_is_answered(running: Running) -> None:
    with httpx.Client(base_url=running.client.base_url) as stranger:
        assert stranger.post("/v1/churn", json={"user_ids": ["client-0"]}).status_code == 401
        assert stranger.get("/metrics").status_code == 401
        assert stranger.get("/livez").status_code == 200


def test_while_redis_is_down_the_service_says_so_and_once_it_died_live_brings_it_back(running: Running) -> None:
    layout = Layout(running.settings.home)
    state = read_state(layout)
    assert state is not None
    with hold(layout.redis / "start.lock", what="Starting Redis", wait_s=60.0):  # nobody brings it back meanwhile
        detached.terminate(state.identity, timeout_s=30.0)
        answer = running.client.post("/v1/segments", json={"user_ids": ["client-0"]})
        assert answer.status_code == 503
        assert "Redis" in answer.json()["error"]
        assert running.client.get("/readyz").status_code == 503
    until(lambda: running.client.get("/readyz").status_code == 200, every_s=0.2)
    assert running.ask("segments", "client-0")[0]["outcome"] == "answered"


def test_a_live_event_is_taken_in_only_of_people_who_allow_it(running: Running) -> None:
    def sent(user: str) -> dict[str, object]:
        event = {
            "source": "web",
            "id": f"{user}-1",
            "type": "product_viewed",
            "user_id": user,
            "occurred_at": running.settings.now().isoformat(),
            "properties": {"item_id": "ART-001"},
        }
        answer = running.client.post("/v1/events", json={"events": [event]})
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    assert sent("client-7")["accepted"] == 1
    assert sent("client-2") == {"accepted": 0, "duplicates": 0, "choices": 0, "refused": {"refused": 1}, "rejected": {}}


def test_feast_knows_the_views_and_services(running: Running) -> None:
    feast = Path(sys.executable).parent / "feast"
    folder = Layout(running.settings.home).feast_registry.parent
    listed = subprocess.run(
        [feast, "-c", folder, "feature-services", "list"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert {"recommendation", "churn", "segments", "anomaly"} <= set(listed.stdout.split())


def test_everything_the_service_handed_out_is_recomputed_without_a_mismatch(running: Running) -> None:
    users = [f"client-{i}" for i in range(60)]
    allowed = 0
    for endpoint in ("recommendations", *PERSONAL):
        allowed += sum(a["consent"]["allowed"] for a in running.ask(endpoint, *users))  # type: ignore[index,misc]
    served = open_served(running.settings)
    until(lambda: served.count() >= allowed, every_s=0.1)
    command = [
        sys.executable,
        "-m",
        "aap.cli.main",
        "--home",
        running.settings.home,
        "features",
        "consistency",
        "--json",
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert found.returncode == 0, found.stdout + found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
    assert told["mismatches"] == 0
    assert told["checked"] > 9 * allowed / 2
    page = Path(told["page"]).read_text()
    assert "0 of " in page
    assert not any(load_pseudonyms(Layout(running.settings.home)).user_key(user) in page for user in users)


def test_the_console_shows_what_the_whole_platform_has_done(running: Running) -> None:
    users = [f"client-{i}" for i in range(60)]
    for endpoint in ("recommendations", *PERSONAL):
        running.ask(endpoint, *users)
    answer = running.client.get("/console")
    assert answer.status_code == 200
    for name in model_classes():
        assert f'<th scope="row">{name}</th>' in answer.text
    for told in (
        "recommendation_strategy: running",
        "user__marketing_retention",
        "consistency-",  # the check of the test before
        "Calls of churn by duration",
        "withdrawn",
        "PSI",
    ):
        assert told in answer.text
    assert "be shown now" not in answer.text  # which a section says whose store is down
    key_of = load_pseudonyms(Layout(running.settings.home)).user_key
    assert not any(who in answer.text for user in users for who in (f">{user}<", key_of(user)))


def test_answers_and_models_say_which_code_made_them(running: Running) -> None:
    revision = code_revision(Path(__file__).resolve().parents[2])
    (answer,) = running.ask("churn", "client-0")
    made_by = {row["code_revision"] for row in running.wait_for({str(answer["prediction_id"])})}
    registry = open_registry(running.settings)
    tags = {version.tags["git_revision"] for name in model_classes() for version in registry.versions(name)}
    if revision is None:
        assert (made_by, tags) == ({None}, {"unknown"}), "there is neither git nor a build that would have said it"
        return
    # Each process asked for itself, and somebody may commit or change files while the tests run.
    for said in (*made_by, *tags):
        assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", str(said))


def test_an_answer_is_made_again_by_a_command_and_one_that_is_not_the_same_ends_it_with_1(
    running: Running, aap: Aap
) -> None:
    (answer,) = running.ask("segments", "client-0")
    wanted = str(answer["prediction_id"])
    running.wait_for({wanted})
    code, told = aap("replay", wanted)
    assert (code, "Made again, and every bit is the same." in told) == (0, True), told
    code, told = aap("replay", wanted, "--json")
    assert (code, json.loads(told)["same"]) == (0, True)
    assert aap("replay", "0" * 32)[0] != 0


def test_live_quality_waits_for_what_people_will_buy(running: Running, aap: Aap) -> None:
    asked = [running.ask(endpoint, *running.known()) for endpoint in ("churn", "recommendations")]
    running.wait_for({str(answer["prediction_id"]) for answers in asked for answer in answers})
    code, told = aap("models", "live-quality", "--json")
    assert code == 0, told
    found = json.loads(told)["live_quality"]
    assert {line["model"] for line in found} >= {"churn", "recommendation"}
    assert all(line["answers"] == 0 and line["waiting"] > 0 for line in found), (
        "the shop's clock stands at its last day"
    )


def test_champions_are_swapped_rolled_back_and_refused_while_every_call_is_answered(running: Running, aap: Aap) -> None:
    registry = open_registry(running.settings)
    champion = registry.champion("churn")
    assert champion is not None
    other, bad = (version.version for version in rivals(registry, champion))
    with asking(running.client, running.known()) as calls:
        calls.by(champion.version)
        assert aap("models", "promote", "churn", str(other))[0] == 0
        calls.by(other)
        code, told = aap("models", "rollback", "churn")
        assert (code, told) == (0, f"churn version {champion.version} is the champion again.")
        calls.by(champion.version)
        registry.promote("churn", bad)
        until(lambda: registry.version("churn", bad).refusal, every_s=0.1)
        code, told = aap("models", "why", "churn", str(bad))
        assert (code, "The service refuses to answer with it: File model.ubj" in told) == (0, True), told
        assert aap("models", "rollback", "churn")[0] == 0
        calls.by(champion.version)
    assert calls.failed == []
    assert {version for _, version, _ in calls.answered} == {champion.version, other}
    assert "Promoted by hand." in aap("models", "why", "churn", str(other))[1]
    _is_that_versions(running, {prediction: (by, said) for prediction, by, said in calls.answered})


def test_told_to_stop_it_answers_every_call_it_has_begun_and_leaves_the_record_of_each(running: Running) -> None:
    place, known = listening(running.settings), running.known()
    assert place is not None
    (last,) = running.ask("churn", known[0])
    before = {row["prediction_id"] for row in running.wait_for({str(last["prediction_id"])})}
    with asking(running.client, known) as calls:
        until(lambda: len(calls.answered) > 20)
        told_at = time.monotonic()
        os.kill(place.pid, signal.SIGTERM)
        until(lambda: not psutil.pid_exists(place.pid))
    assert not psutil.pid_exists(place.pid)
    assert len(calls.answered) > 20
    assert all(began > told_at for began, _ in calls.failed), "a call sent before was not answered"
    after = {row["prediction_id"] for row in running.records("prediction_id")}
    assert after - before == {prediction for prediction, _, _ in calls.answered}, "what was answered, and nothing else"


def test_a_killed_worker_is_replaced_and_both_answer_predictions_again(running: Running, tmp_path: Path) -> None:
    home = running.settings.home
    stop_all(running.settings)
    with (home / "aap.env").open("a") as file:
        file.write(f"AAP_WORKERS=2\nAAP_RUN_DIR={tmp_path / 'own'}\n")
    running = replace(running, settings=load_settings(home))
    assert start_all(running.settings) == []
    place = listening(running.settings)
    assert place is not None
    assert not (Layout(home).run / "serve.json").exists(), "that would be every replica's"
    workers = running.workers()
    assert len(workers) == 2
    killed = min(workers)
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    answering: set[int] = set()
    while len(answering) < 2:
        assert time.monotonic() < deadline, f"of {running.workers()} only {answering} answered"
        with contextlib.ExitStack() as callers:
            for _ in range(8):
                caller = callers.enter_context(
                    httpx.Client(base_url=place.url, headers=running.client.headers, timeout=PATIENCE_S)
                )
                # One worker lives, so that none may be refused a connection; the new one answers 503 while it loads.
                given = caller.post("/v1/churn", json={"user_ids": ["client-0"]})
                assert given.status_code in (200, 503), given.text
                if given.status_code == 200:
                    answering |= connected_to(given, running.workers() - {killed})
        time.sleep(0.2)


def _is_that_versions(running: Running, said: dict[str, tuple[int, float]]) -> None:
    """Each answer is on record, and the version it named says the very same to what is recorded."""
    records = {row["prediction_id"]: row for row in running.wait_for(set(said))}
    door, loaded = open_retrieval(running.settings), Loaded(open_registry(running.settings))
    for prediction, (version, probability) in said.items():
        again = replay(
            records[prediction],
            registry=loaded,
            consent=door,
            shelves=Shelves(door.catalogue),
            now=running.settings.now(),
        )
        assert (again.same, int(again.version), again.computed["probability"]) == (True, version, probability)
