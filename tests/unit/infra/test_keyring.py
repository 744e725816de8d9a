"""The keyring: a new key every 90 days, the old ones for reading, and a lost one told by its name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aap.infra.errors import KeyFileError
from aap.infra.keyring import LIFETIME, Keyring

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return opened(tmp_path)


def opened(folder: Path) -> Keyring:
    return Keyring(folder / "keys" / "ring", root=folder / "keys" / "root.key")


def test_a_key_seals_for_ninety_days_and_then_another_does(keyring: Keyring) -> None:
    first = keyring.current(now=NOW)
    assert timedelta(days=90) == LIFETIME
    assert keyring.current(now=NOW + LIFETIME) == first
    second = keyring.current(now=NOW + LIFETIME + MOMENT)
    assert keyring.masters() == [first, second]
    assert [m.made_at for m in keyring.masters()] == [NOW, NOW + LIFETIME + MOMENT]


def test_what_an_older_key_sealed_still_opens_in_another_process(keyring: Keyring, tmp_path: Path) -> None:
    old = keyring.current(now=NOW)
    wrapped = keyring.wrap(b"secret", under=old.name, bound_to=b"ana")
    new = keyring.rotate(now=NOW)
    assert opened(tmp_path).unwrap(wrapped, under=old.name, bound_to=b"ana") == b"secret"
    for name, bound_to in ((new.name, b"ana"), (old.name, b"bob")):
        with pytest.raises(KeyFileError, match="can't be opened by it"):
            keyring.unwrap(wrapped, under=name, bound_to=bound_to)


def test_keys_lie_wrapped_in_files_that_only_their_owner_can_read(keyring: Keyring, tmp_path: Path) -> None:
    keyring.rotate(now=NOW)
    files = sorted(f for f in (tmp_path / "keys").rglob("*") if f.is_file())
    assert [f.name for f in files] == [f"{keyring.masters()[0].name}.key", "root.key", "root.key.id"]
    assert {f.stat().st_mode & 0o777 for f in files} == {0o600}
    assert len(files[0].read_bytes()) == 12 + 32 + 16  # nonce, key, tag


def test_a_lost_key_is_named_and_none_is_made_in_its_place(keyring: Keyring, tmp_path: Path) -> None:
    name = keyring.rotate(now=NOW).name
    wrapped = keyring.wrap(b"secret", under=name)
    file = keyring.folder / f"{name}.key"
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(KeyFileError, match=rf"^The key file {file} is missing, .*: restore it from a backup of .*\.$"):
        opened(tmp_path).unwrap(wrapped, under=name)
    file.write_bytes(content)
    with pytest.raises(KeyFileError, match=rf"^The key file {file} is open to other users: run chmod 600"):
        opened(tmp_path).unwrap(wrapped, under=name)
    file.chmod(0o600)
    assert opened(tmp_path).unwrap(wrapped, under=name) == b"secret"


@pytest.mark.parametrize("gone", [True, False])
def test_without_its_root_key_nothing_opens_and_nothing_new_is_sealed(
    keyring: Keyring, tmp_path: Path, gone: bool
) -> None:
    name = keyring.rotate(now=NOW).name
    wrapped, root = keyring.wrap(b"secret", under=name), tmp_path / "keys" / "root.key"
    if gone:
        root.unlink()
    else:
        root.write_bytes(b"another".ljust(32))
    told = rf"^The key file {root} {'is missing' if gone else 'holds another key than before: restore it'}"
    with pytest.raises(KeyFileError, match=told):
        opened(tmp_path).unwrap(wrapped, under=name)
    with pytest.raises(KeyFileError, match=told):
        opened(tmp_path).wrap(b"more", under=opened(tmp_path).current(now=NOW).name)


@pytest.mark.parametrize("name", ["../root", "nothing"])
def test_no_file_but_a_key_of_the_ring_is_ever_opened(keyring: Keyring, name: str) -> None:
    keyring.rotate(now=NOW)
    with pytest.raises(KeyFileError, match="is missing"):
        keyring.unwrap(b"x" * 60, under=name)
