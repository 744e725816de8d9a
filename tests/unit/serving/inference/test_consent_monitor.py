"""What consent rests on breaks while the service runs: everybody is denied with a reason, health names it, and when it is
whole again answers come back, without a restart.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from aap.config import Settings
from aap.consent.ledger import database
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.redis_projection import consent_key
from aap.consent.service import open_desk
from aap.features.views import service
from aap.infra.paths import Layout
from aap.security.api_keys import Scope
from aap.serving import context as platform_module
from aap.serving.context import Platform
from aap.serving.inference import consent_monitor, deny_all
from aap.serving.inference.consent_monitor import ConsentWatch
from tests.unit.serving.shop_window import FEATURES, Street, calling
from tests.waiting import PATIENCE_S

RETENTION = Purpose.MARKETING_RETENTION
CHOICE = {"user_id": "ana", "purpose": RETENTION.value, "choice": "withdraw"}
Choose = Callable[..., None]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look ten times a second; and the shop window's shelves have other columns than the declared services."""
    monkeypatch.setattr(platform_module, "_EVERY_S", 0.1)
    lists = ("items_last_50", "baskets_last_50")
    told = {"features": FEATURES, "sequences": lists}
    monkeypatch.setattr(deny_all, "service_called", lambda name: replace(service(name), **told))


@pytest.fixture
def asked(client: httpx.Client, street: Street, choose: Choose) -> Callable[[], str]:
    """How a call about Ana, who allows it, is answered: the outcome, and consent's reason."""
    choose("ana", RETENTION)
    street.shelves.rows[street.key("ana")] = [50.0, 1.0]

    def ask() -> str:
        answer = client.post("/v1/churn", json={"user_ids": ["ana"]})
        if answer.status_code != 200:
            return str(answer.status_code)
        (one,) = answer.json()["answers"]
        assert (one["result"] is None) == (one["outcome"] != "answered")
        return f"{one['outcome']} {one['consent']['reason']}"

    return ask


def until(found: Callable[[], Any], expected: Any) -> None:
    """Wait for what `found` says to be what is expected, however busy the machine is."""
    deadline = time.monotonic() + PATIENCE_S
    while (told := found()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert told == expected


def health(client: httpx.Client) -> str:
    """What it says of consent; empty when the service is ready."""
    told = client.get("/readyz")
    assert told.status_code == (200 if told.json()["ready"] else 503)
    return str(told.json()["missing"].get("consent", ""))


@contextmanager
def moved(*files: Path) -> Iterator[None]:
    there = [f for f in files if f.exists()]
    for f in there:
        f.rename(f.with_name(f"away-{f.name}"))
    yield
    for f in there:
        f.with_name(f"away-{f.name}").rename(f)


@contextmanager
def overwritten(file: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else the newest records are beside the file, not in it
    held = file.read_bytes()
    with file.open("r+b") as opened:
        opened.write(os.urandom(len(held)))
    yield
    with file.open("r+b") as opened:
        opened.write(held)


@contextmanager
def altered(ledger: Path, *, first: bool = False) -> Iterator[None]:
    """Somebody with the file at hand, and no key, has the last record, or the first, say another thing."""
    with contextlib.closing(sqlite3.connect(ledger)) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.commit()
        which = f"WHERE seq = (SELECT {'min' if first else 'max'}(seq) FROM consent_records)"
        connection.execute(f"UPDATE consent_records SET said_by = 'somebody else' {which}")
        connection.commit()
        yield
        connection.execute(f"UPDATE consent_records SET said_by = 'the person' {which}")
        connection.commit()
        for _, text in triggers:
            connection.execute(text)
        connection.commit()


@contextmanager
def swapped(key: Path) -> Iterator[None]:
    held = key.read_bytes()
    key.write_bytes(os.urandom(len(held)))
    yield
    key.write_bytes(held)


@contextmanager
def locked(ledger: Path, platform: Platform) -> Iterator[None]:
    """Another process keeps the file for itself, as soon as the service has no connection open just then."""
    while True:
        platform.stores().desk.ledger._engine.dispose()
        gc.collect()  # desks that a test opened and let go of
        other = sqlite3.connect(ledger, timeout=0, isolation_level=None)
        try:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError:
            other.close()
            time.sleep(0.01)
    with contextlib.closing(other):
        yield


def copy(ledger: Path, to: Path) -> None:
    with contextlib.closing(sqlite3.connect(ledger)) as held, contextlib.closing(sqlite3.connect(to)) as made:
        held.backup(made)


def ledger_files(layout: Layout) -> list[Path]:
    return [layout.ledger, *(layout.ledger.with_name(f"{layout.ledger.name}-{tail}") for tail in ("wal", "shm"))]


FAULTS: dict[str, tuple[Callable[[Layout], Any], str]] = {
    "the ledger's file is moved away": (lambda at: moved(*ledger_files(at)), "unable to open database file"),
    "the ledger's file is overwritten": (lambda at: overwritten(at.ledger), "can't be used"),
    "the ledger's last record is altered": (lambda at: altered(at.ledger), "is not what was signed"),
    "the signing key is gone": (lambda at: moved(at.keys / "ledger.key"), "ledger.key is gone: restore it"),
    "the pseudonym key is gone": (lambda at: moved(at.keys / "pseudonyms.key"), "pseudonyms.key is gone: restore it"),
    "the pseudonym key is another": (lambda at: swapped(at.keys / "pseudonyms.key"), "holds another key than before"),
    "all keys are gone": (lambda at: moved(at.keys), "is gone: restore it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_while(
    fault: str, client: httpx.Client, street: Street, keys: dict[Scope, str], asked: Callable[[], str]
) -> None:
    """…everybody is denied, choices and events are refused, and health says why; after it everything is as it was."""
    made, says = FAULTS[fault]
    until(asked, "answered granted")
    assert health(client) == ""
    with made(Layout(street.settings.home)):
        until(asked, "denied consent_unavailable")
        until(lambda: says in health(client), True)  # a look may have begun before it broke, and say less
        recommended = client.post("/v1/recommendations", json={"user_ids": ["ana"]}).json()["answers"][0]
        assert recommended["outcome"] == "denied"
        assert recommended["model"]["name"] == "popularity"
        for path, body, scope in (
            ("/v1/consent", CHOICE, Scope.CONSENT),
            ("/v1/events", {"events": [{}]}, Scope.COLLECT),
        ):
            refused = client.post(path, json=body, headers={"Authorization": f"Bearer {keys[scope]}"})
            assert (refused.status_code, says in refused.json()["error"]) == (503, True), refused.text
    until(asked, "answered granted")
    assert health(client) == ""
    headers = {"Authorization": f"Bearer {keys[Scope.CONSENT]}"}
    assert client.post("/v1/consent", json=CHOICE, headers=headers).json()["ledger_seq"] == 2
    assert asked() == "denied withdrawn"


def test_an_older_record_that_is_altered_denies_everybody_as_soon_as_its_turn_comes(
    client: httpx.Client, street: Street, choose: Choose, asked: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consent_monitor, "_RECORDS", 2)
    for who in ("bob", "cyd", "dan", "eve", "fay"):
        choose(who, RETENTION)
    until(asked, "answered granted")
    with altered(Layout(street.settings.home).ledger, first=True):
        until(asked, "denied consent_unavailable")
        until(lambda: "Record 1 of the consent ledger is not what was recorded" in health(client), True)
    until(asked, "answered granted")
    assert health(client) == ""


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_jumps_denies_everybody_until_it_is_set_right(
    hours: int, client: httpx.Client, asked: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    until(asked, "answered granted")
    right = Settings.now
    monkeypatch.setattr(Settings, "now", lambda settings: right(settings) + timedelta(hours=hours))
    until(asked, "denied consent_unavailable")
    until(lambda: "The clock says" in health(client), True)
    monkeypatch.setattr(Settings, "now", right)
    until(asked, "answered granted")
    assert health(client) == ""


def test_a_service_started_with_a_clock_before_the_last_choice_answers_nobody(
    street: Street, keys: dict[Scope, str], choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a grant that ran out holds again."""
    choose("ana", RETENTION, at=street.settings.now() - timedelta(days=9))
    street.shelves.rows[street.key("ana")] = [50.0, 1.0]
    right = Settings.now
    made = Platform(street.settings, open_features=lambda _: street.shelves, open_registry=lambda _: street.shop)
    made.models.refresh()
    monkeypatch.setattr(Settings, "now", lambda settings: right(settings) - timedelta(days=2))
    with calling(made) as client:
        client.headers["Authorization"] = f"Bearer {keys[Scope.PREDICT]}"
        answer = client.post("/v1/churn", json={"user_ids": ["ana"]}).json()["answers"][0]
        assert (answer["outcome"], answer["consent"]["reason"]) == ("denied", "consent_unavailable")
        assert "but the consent ledger's last record is of" in health(client)


def test_a_ledger_that_does_not_answer_denies_everybody_until_it_does(
    client: httpx.Client, street: Street, platform: Platform, asked: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consent_monitor, "_SILENT_S", 1.0)
    monkeypatch.setattr(database, "_PATIENCE_S", 2.0)
    until(asked, "answered granted")
    with locked(Layout(street.settings.home).ledger, platform):
        until(asked, "denied consent_unavailable")
        until(lambda: any(why in health(client) for why in ("hasn't answered", "is locked")), True)
    until(asked, "answered granted")
    until(lambda: health(client), "")  # where a look takes longer than a second, it's silent again for a moment


def test_an_older_ledger_in_place_of_the_present_one_denies_everybody_until_the_newer_is_back(
    client: httpx.Client, street: Street, choose: Choose, asked: Callable[[], str], tmp_path: Path
) -> None:
    layout = Layout(street.settings.home)
    older, newer = tmp_path / "older.db", tmp_path / "newer.db"
    copy(layout.ledger, older)
    choose("bob", RETENTION, status=Status.REFUSED)
    copy(layout.ledger, newer)
    until(asked, "answered granted")
    open_desk(street.settings).catch_up(now=street.settings.now())
    for place, told in ((older, "denied consent_unavailable"), (newer, "answered granted")):
        shutil.copy(place, beside := layout.ledger.with_name("beside.db"))
        for file in ledger_files(layout):
            file.unlink(missing_ok=True)
        beside.rename(layout.ledger)  # at once: no look finds half of it
        until(asked, told)
        until(lambda: "but Redis obeys one that goes to" in health(client), place == older)


def test_a_projection_that_redis_lost_or_holds_from_before_is_written_anew_and_health_says_so(
    client: httpx.Client, street: Street, choose: Choose, asked: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    until(asked, "answered granted")
    granted, look = street.client.get(consent_key(street.key("ana"))), ConsentWatch.look
    ended, broken, read = [0], Event(), Event()

    def warnings() -> set[str]:
        return set(client.get("/readyz").json()["warnings"])

    def look_and_wait(self: ConsentWatch, *stores: Any, **at: Any) -> None:
        """What was mended is said for the time of a round, which with so few people is a look: it lasts until it is read."""
        look(self, *stores, **at)
        ended[0] += 1
        if broken.is_set() and self.mended:
            read.wait(PATIENCE_S)

    monkeypatch.setattr(ConsentWatch, "look", look_and_wait)
    street.client.delete(consent_key(street.key("ana")))
    until(asked, "answered granted")
    choose("ana", RETENTION, status=Status.WITHDRAWN, at=street.settings.now())
    assert asked() == "denied withdrawn"
    before = ended[0]
    until(lambda: ended[0] >= before + 2 and not warnings(), True)  # Redis is level with the ledger
    broken.set()
    street.client.set(consent_key(street.key("ana")), granted)  # type: ignore[arg-type]
    until(warnings, {"consent projection"})
    read.set()
    until(asked, "denied withdrawn")
    street.client.flushdb()
    until(asked, "denied withdrawn")
    until(warnings, set())
