"""`aap export`, `erase`, `retention`, `rectify` as a person types them, on a home with one live event."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from aap.cli.main import main
from aap.config import Settings
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_desk
from aap.events.streaming.event_log import LoggedEvent, RedisStreamLog
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect
from aap.security.id_map import open_id_map
from aap.security.pseudonyms import load_pseudonyms


def aap(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["aap", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def ana(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("aap.privacy.erasure.SETTLE_S", 0.0)
    layout, now = Layout(settings.home), settings.now()
    key = load_pseudonyms(layout).user_key("ana")
    desk = open_desk(settings)
    desk.record(
        key, Purpose.ANALYTICS_REPORTING, Status.GIVEN, said_by="her", method="form", indicated_at=now, received_at=now
    )
    open_id_map(settings).remember({key: "ana"})
    RedisStreamLog(connect(settings)).append([LoggedEvent("web", "1", "product_viewed", key, 1, 1, {"item_id": "tea"})])
    return key


def test_handed_over_then_erased_with_a_certificate_that_holds(
    ana: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, out, _ = aap(capsys, monkeypatch, "export", "ana")
    assert (code, json.loads(out)["live_events"][0]["item_id"]) == (0, "tea")
    assert aap(capsys, monkeypatch, "export", "ana", "--into", str(tmp_path / "mine"))[0] == 0
    assert (tmp_path / "mine" / "report.html").is_file()
    code, _, err = aap(capsys, monkeypatch, "export", "ana", "--into", str(tmp_path / "mine"))
    assert code == 2
    assert "not empty" in " ".join(err.replace("│", " ").split())
    kept = tmp_path / "certificate.json"
    code, out, _ = aap(capsys, monkeypatch, "erase", "ana", "--yes", "--json", "--into", str(kept))
    assert code == 0
    assert {p["place"]: p["after"] for p in json.loads(out)["places"]}["live event log"] == 0
    code, out, _ = aap(capsys, monkeypatch, "consent", "check-receipt", str(kept))
    assert (code, "holds: nothing is left" in out) == (0, True)
    kept.write_text(kept.read_text().replace('"before": 1', '"before": 0'))
    assert aap(capsys, monkeypatch, "consent", "check-receipt", str(kept))[0] == 1


def test_nothing_is_erased_without_a_yes(
    ana: str, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert aap(capsys, monkeypatch, "erase", "ana")[0] == 1
    assert len(RedisStreamLog(connect(settings)).of(ana)) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("rectify", "ana", "9", "--source", "web", "--set", "item_id"), "is not field=value"),
        (("rectify", "ana", "9", "--source", "web"), "Nothing is to be corrected"),
        (("rectify", "ana", "9", "--source", "web", "--set", "item_id=x"), "has no archived event '9' of 'web'"),
        (("import-person", "nowhere"), "nowhere holds no export of a person"),
        (("erase", " ", "--yes"), "id is empty"),
    ],
)
def test_wrong_input_is_one_sentence(
    settings: Settings,
    words: tuple[str, ...],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, _, err = aap(capsys, monkeypatch, *words)
    assert code == 2
    assert told in " ".join(err.replace("│", " ").split())


def test_retention_of_an_empty_home_finds_nothing(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = aap(capsys, monkeypatch, "retention", "--dry-run", "--json")
    assert (code, sum(json.loads(out)["deleted"].values())) == (0, 0)
