"""A whole home, moved to another path while nothing ran: everything goes on as if it had always been there."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from aap.cli.background_services import start_all, stop_all
from aap.config import load_settings
from aap.features.feast.store import open_store
from aap.infra.paths import Layout
from aap.security.api_keys import ApiKeys, Scope
from tests.e2e.conftest import address
from tests.shop import small_shop
from tests.waiting import PATIENCE_S


@pytest.mark.full
def test_a_moved_home_answers_and_shows_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AAP_")]:
        monkeypatch.delenv(name)
    settings = small_shop(tmp_path / "first")
    stop_all(settings)
    settings.home.rename(tmp_path / "second")
    settings = load_settings(tmp_path / "second")
    try:
        assert start_all(settings) == []
        key = ApiKeys(Layout(settings.home).api_keys).create("e2e", scopes=list(Scope), now=settings.now())
        with httpx.Client(base_url=address(settings), headers={"Authorization": f"Bearer {key}"}) as client:
            answer = client.post("/v1/churn", json={"user_ids": ["client-0"]}, timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text
        assert answer.json()["answers"][0]["outcome"] == "answered"
        places = [view.batch_source.path for view in open_store(settings).list_feature_views()]
        assert places
        assert all(place.startswith(str(settings.home)) for place in places)
        assert not (tmp_path / "first").exists()
    finally:
        stop_all(settings)
