"""A home made by the release before library and project were apart opens: same answers, nobody's choice lost, jobs go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import httpx
import pytest

from aap.cli.commands.services import start_all, stop_all
from aap.config import load_settings
from aap.features.feast.store import open_store
from tests.e2e.conftest import address

ROOT = Path(__file__).parents[2]
BEFORE = "0a6163d6589518fadab70e3cfc8a08a5d72bb0c3"

_MAKE = """
import json, sys, time
from pathlib import Path
import httpx
from cli.up import start_all, stop_all
from consent.choices import open_ledger
from feature_repo.retrieval import open_retrieval
from models.registry import open_registry
from pipelines.promotion import train_and_decide, training_settings
from pipelines.publish import bring_online, build_features
from security.api_keys import ApiKeys, Scope
from settings.config import load_settings
from storage.layout import Layout
from tests.shop import imported_shop

home = Path(sys.argv[1])
settings = imported_shop(home)
now = settings.now()
build_features(settings, as_of=now)
bring_online(settings, as_of=now)
for name in ("popularity", "churn"):
    train_and_decide(
        name, retrieval=open_retrieval(settings), registry=open_registry(settings), ledger=open_ledger(settings),
        settings=training_settings(settings), as_of=now,
    )
    if open_registry(settings).champion(name) is None:
        open_registry(settings).promote(name, open_registry(settings).versions(name)[0].version, reasons=("By the test.",))
start_all(settings)
key = ApiKeys(Layout(home).api_keys).create("app", scopes=list(Scope), now=settings.now())
url = json.loads((Layout(home).run / "serve.json").read_text())["url"]
with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
    answers = client.post("/v1/churn", json={"user_ids": sys.argv[2].split(",")}).json()["answers"]
    choice = {"user_id": "client-5", "purpose": "marketing.retention", "choice": "withdraw"}
    client.post("/v1/consent", json=choice).raise_for_status()
stop_all(settings)
print(json.dumps({"key": key, "answers": answers}))
"""
_PEOPLE = ("client-0", "client-1", "client-2", "client-3", "client-6")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A home made by the very code of that commit, in this environment, and what it answered."""
    tree, home = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("earlier") / "home"
    known = subprocess.run(
        ["git", "-C", str(ROOT), "cat-file", "-e", f"{BEFORE}^{{commit}}"], check=False, capture_output=True
    )
    if known.returncode:
        pytest.skip(f"the history of this clone doesn't reach back to {BEFORE[:7]}")
    archive = tree.with_suffix(".tar")
    subprocess.run(["git", "-C", str(ROOT), "archive", "-o", str(archive), BEFORE], check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(tree, filter="data")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AAP_")}
    done = subprocess.run(
        [sys.executable, "-c", _MAKE, str(home), ",".join(_PEOPLE)],
        cwd=tree, env=environment | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return home, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.full
def test_a_home_of_before_answers_as_before_and_goes_on(
    earlier: tuple[Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, said = earlier
    for name in [name for name in os.environ if name.startswith("AAP_")]:
        monkeypatch.delenv(name)
    settings = load_settings(home)
    try:
        problems = [p for p in start_all(settings) if "champion" not in p]  # only two models were trained
        assert problems == []
        with httpx.Client(
            base_url=address(settings), headers={"Authorization": f"Bearer {said['key']}"}, timeout=30
        ) as client:
            answers = client.post("/v1/churn", json={"user_ids": list(_PEOPLE)}).json()["answers"]
            gone = client.post("/v1/churn", json={"user_ids": ["client-5"]}).json()["answers"]
        told = [{k: a[k] for k in ("model", "consent", "outcome", "result")} for a in answers]
        assert told == [{k: a[k] for k in ("model", "consent", "outcome", "result")} for a in said["answers"]]  # type: ignore[attr-defined]
        assert gone[0]["consent"]["reason"] == "withdrawn"
        assert open_store(settings).list_feature_views()
    finally:
        stop_all(settings)
    for words in (("consent", "verify"), ("features", "build"), ("job", "daily"), ("models", "list")):
        done = subprocess.run(
            [sys.executable, "-m", "aap.cli.main", "--home", str(home), *words],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
