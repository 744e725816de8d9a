"""The other shop with everything running: built once, served by real processes, spoken to by HTTP alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from cli.up import start_all, stop_all
from security.api_keys import ApiKeys, Scope
from settings.config import Settings, load_settings
from storage.layout import Layout
from tests.shop import small_shop


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
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        yield Running(settings, client)
    stop_all(settings)
    os.environ.update(left)


def address(settings: Settings) -> str:
    import json

    return str(json.loads((Layout(settings.home).run / "serve.json").read_text())["url"])
