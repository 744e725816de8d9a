"""The other shop with everything running: built once, served by real processes, spoken to by HTTP alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pyarrow.dataset as ds
import pytest

from aap.cli.background_services import start_all, stop_all
from aap.cli.main import main
from aap.config import Settings, load_settings
from aap.infra.paths import Layout
from aap.security.api_keys import ApiKeys, Scope
from aap.serving.logging.prediction_log import SCHEMA
from aap.serving.server import listening
from tests.shop import small_shop
from tests.waiting import PATIENCE_S, until


@dataclass(frozen=True, slots=True)
class Running:
    """A running platform and a client with a key for all of it."""

    settings: Settings
    client: httpx.Client

    def ask(self, endpoint: str, *users: str, **body: object) -> list[dict[str, object]]:
        """The answers of one prediction call."""
        answer = self.client.post(f"/v1/{endpoint}", json={"user_ids": list(users), **body})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, object]] = answer.json()["answers"]
        return found

    def choose(self, user: str, purpose: str, choice: str) -> None:
        """Grant or withdraw by HTTP."""
        answer = self.client.post("/v1/consent", json={"user_id": user, "purpose": purpose, "choice": choice})
        assert answer.status_code == 200, answer.text

    def known(self) -> list[str]:
        """People whose churn is answered."""
        everybody = [f"client-{i}" for i in range(60)]
        return [who for who, a in zip(everybody, self.ask("churn", *everybody), strict=True) if a["result"]]

    def records(self, *columns: str) -> list[dict[str, Any]]:
        """The predictions on record by now: these columns, or all."""
        files = [str(file) for file in Layout(self.settings.home).predictions.rglob("day=*/*.parquet")]
        found: list[dict[str, Any]] = (
            ds.dataset(files, schema=SCHEMA, format="parquet").to_table(columns=list(columns) or None).to_pylist()
        )
        return found

    def wait_for(self, predictions: set[str]) -> list[dict[str, Any]]:
        """Everything on record, once these are."""
        until(lambda: predictions <= {row["prediction_id"] for row in self.records("prediction_id")}, every_s=0.2)
        return self.records()

    def workers(self) -> set[int]:
        """The processes that answer."""
        place, found = listening(self.settings), set()
        assert place is not None
        for process in psutil.Process(place.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too, is none any more
                if any(word.startswith("_bentoml_impl.worker") for word in process.cmdline()):
                    found.add(process.pid)
        return found


def connected_to(given: httpx.Response, workers: set[int]) -> set[int]:
    """Which of these processes the answer came from: the one that holds the other end of its connection."""
    _, port = given.extensions["network_stream"].get_extra_info("client_addr")
    found = set()
    for pid in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(end.raddr and end.raddr.port == port for end in psutil.Process(pid).net_connections("tcp")):
                found.add(pid)
    return found


Aap = Callable[..., tuple[int, str]]


@pytest.fixture
def aap(running: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Aap:
    """Run a command on the shop as the console script does, in this process; gives exit code and output."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setenv("AAP_HOME", str(running.settings.home))
        monkeypatch.setattr(sys, "argv", ["aap", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, " ".join(capsys.readouterr().out.split())

    return run


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The shop, trained and served."""
    left = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AAP_")}
    settings = small_shop(tmp_path_factory.mktemp("e2e") / "home")
    with (settings.home / "aap.env").open("a") as file:
        file.write("AAP_SERVED_SAMPLE_RATE=1\n")
    assert start_all(load_settings(settings.home)) == []
    settings = load_settings(settings.home)
    key = ApiKeys(Layout(settings.home).api_keys).create("e2e", scopes=list(Scope), now=settings.now())
    url = address(settings)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_S) as client:
        yield Running(settings, client)
    stop_all(settings)
    os.environ.update(left)


def address(settings: Settings) -> str:
    import json

    return str(json.loads((Layout(settings.home).run / "serve.json").read_text())["url"])
