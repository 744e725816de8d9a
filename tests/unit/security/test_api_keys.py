"""API keys: shown once, stored as a hash, and useless from the moment they are revoked or expire."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aap.security.api_keys import ApiKeys, Scope
from aap.security.errors import ApiKeyError

NOW = datetime(2017, 12, 1, 12, tzinfo=UTC)


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    return ApiKeys(tmp_path / "security" / "api_keys.db")


def test_a_key_opens_only_what_its_scopes_name(keys: ApiKeys) -> None:
    found = keys.verify(keys.create("shop", scopes=["predict"], now=NOW), now=NOW)
    assert found is not None
    assert found.name == "shop"
    assert found.allows(Scope.PREDICT)
    assert not found.allows(Scope.CONSENT)


def test_an_admin_key_opens_everything(keys: ApiKeys) -> None:
    found = keys.verify(keys.create("ops", scopes=[Scope.ADMIN], now=NOW), now=NOW)
    assert found is not None
    assert all(found.allows(scope) for scope in Scope)


def test_the_key_itself_is_nowhere_on_disk_and_the_file_is_the_owners_alone(keys: ApiKeys, tmp_path: Path) -> None:
    key = keys.create("shop", scopes=["predict"], now=NOW)
    assert key.startswith("aap_")
    assert len(key) >= 47
    for file in (tmp_path / "security").iterdir():
        assert key.encode() not in file.read_bytes()
        assert key.removeprefix("aap_").encode() not in file.read_bytes()
    assert (tmp_path / "security" / "api_keys.db").stat().st_mode & 0o077 == 0


def test_a_key_stops_working_when_it_expires(keys: ApiKeys) -> None:
    key = keys.create("shop", scopes=["predict"], now=NOW, expires_at=NOW + timedelta(days=1))
    assert keys.verify(key, now=NOW + timedelta(days=1, microseconds=-1)) is not None
    assert keys.verify(key, now=NOW + timedelta(days=1)) is None


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_revoked_key_is_refused_by_every_process_at_once(keys: ApiKeys, tmp_path: Path, by: str) -> None:
    key = keys.create("shop", scopes=["predict"], now=NOW)
    other_process = ApiKeys(tmp_path / "security" / "api_keys.db")
    assert other_process.verify(key, now=NOW) is not None
    keys.revoke("shop" if by == "name" else keys.list()[0].id[:6], now=NOW)
    assert other_process.verify(key, now=NOW) is None
    assert keys.list()[0].revoked_at == NOW


def test_unknown_keys_are_refused(keys: ApiKeys) -> None:
    key = keys.create("shop", scopes=["predict"], now=NOW)
    for wrong in ("", "aap_", key[:-1], key + "x", key.upper(), "näh", "aap_" + "0" * 43):
        assert keys.verify(wrong, now=NOW) is None


def test_mistakes_are_answered_with_one_sentence(keys: ApiKeys) -> None:
    keys.create("shop", scopes=["predict"], now=NOW)
    with pytest.raises(ApiKeyError, match="There is a key named 'shop' already"):
        keys.create("shop", scopes=["predict"], now=NOW)
    with pytest.raises(ApiKeyError, match="choose from predict, consent, collect, privacy, admin"):
        keys.create("other", scopes=["everything"], now=NOW)
    with pytest.raises(ApiKeyError, match="at least one scope"):
        keys.create("other", scopes=[], now=NOW)
    with pytest.raises(ApiKeyError, match="needs a name"):
        keys.create("  ", scopes=["predict"], now=NOW)
    with pytest.raises(ApiKeyError, match="which is past"):
        keys.create("other", scopes=["predict"], now=NOW, expires_at=NOW)
    with pytest.raises(ApiKeyError, match="No key has that name"):
        keys.revoke("nobody", now=NOW)


def test_what_decides_is_a_comparison_in_constant_time(keys: ApiKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    key, compared = keys.create("app", scopes=["predict"], now=NOW), list[tuple[bytes, bytes]]()

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr("aap.security.api_keys.hmac.compare_digest", spy)
    assert keys.verify(key, now=NOW) is None, "it said no, and the very hash was found"
    digest = hashlib.sha256(key.encode()).digest()
    assert compared == [(digest, digest)]


def test_what_cannot_be_a_key_is_not_looked_up(keys: ApiKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    monkeypatch.setattr("aap.security.api_keys._digest", looked_up.append)
    for given in ("", "aap_", "aap_short", "x" * 10_000):
        assert keys.verify(given, now=NOW) is None
    assert looked_up == []


def _journal(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_a_file_with_a_write_ahead_log_goes_on_without_one_once_nobody_else_has_it_open(tmp_path: Path) -> None:
    path = tmp_path / "security" / "api_keys.db"
    before = ApiKeys(path)
    first = before.create("first", scopes=["predict"], now=NOW)
    before.close()
    older = sqlite3.connect(path, isolation_level=None)
    older.execute("PRAGMA journal_mode=WAL")
    older.execute("SELECT * FROM api_keys").fetchall()
    while_open = ApiKeys(path)
    second = while_open.create("second", scopes=["predict"], now=NOW)
    assert _journal(path) == "wal"
    while_open.close()
    older.close()
    alone = ApiKeys(path)
    assert all(alone.verify(key, now=NOW) is not None for key in (first, second))
    assert _journal(path) == "delete"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    alone.close()


def test_a_new_file_has_no_write_ahead_log_for_replicas_on_other_machines_would_not_see_it(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path / "security" / "api_keys.db")
    key = keys.create("shop", scopes=["predict"], now=NOW)
    assert keys.verify(key, now=NOW) is not None
    assert [file.name for file in (tmp_path / "security").iterdir()] == ["api_keys.db"]
    keys.close()
