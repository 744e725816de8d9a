"""The keyring: the keys under which things lie sealed on disk, a new one every 90 days, all wrapped by one root key.

A master key wraps the data keys of files and people (envelope encryption), so a new master is for what is sealed from
now on; what is sealed already keeps the name of its own and is not written again. Each master is a file of its own below
`keys/ring`, sealed with AES-256-GCM under `keys/root.key`: who has one without the other has nothing. A key that is lost
is never made anew in silence: whatever it sealed is refused with its name.
"""

from __future__ import annotations

import os
import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aap.infra.atomic_files import private_folder, write_atomically
from aap.infra.errors import KeyFileError
from aap.infra.paths import Layout
from aap.infra.secret_files import load_or_create

__all__ = ["LIFETIME", "Keyring", "Master", "decrypt", "encrypt", "open_keyring"]

LIFETIME = timedelta(days=90)
"""How old the newest master may be when something is sealed; an older one is replaced first."""

_MADE = "%Y%m%dT%H%M%S.%fZ"
_NONCE = 12
"""Bytes, as NIST SP 800-38D recommends for GCM."""


def encrypt(cipher: AESGCM, secret: bytes, bound_to: bytes) -> bytes:
    """A fresh nonce and `secret` under it; only who names the same `bound_to` can open it."""
    nonce = os.urandom(_NONCE)
    return nonce + cipher.encrypt(nonce, secret, bound_to)


def decrypt(cipher: AESGCM, sealed: bytes, bound_to: bytes) -> bytes:
    """What `encrypt` sealed; raises `InvalidTag` when it was altered, bound to something else, or under another key."""
    if len(sealed) <= _NONCE:
        raise InvalidTag
    return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound_to)


@dataclass(frozen=True, slots=True)
class Master:
    """One master key: its name, which what it sealed carries, and when it was made."""

    name: str
    made_at: datetime


class Keyring:
    """The master keys in one folder, and the root key that wraps them. Processes may share them."""

    def __init__(self, folder: Path, *, root: Path) -> None:
        self.folder, self._root_file = folder, root
        self._opened: dict[str, AESGCM] = {}
        self._lock = threading.Lock()

    def masters(self) -> list[Master]:
        """All there are, oldest first."""
        found = self.folder.glob("*.key") if self.folder.is_dir() else ()
        return sorted((_named(path) for path in found), key=lambda m: (m.made_at, m.name))

    def current(self, *, now: datetime) -> Master:
        """The master to seal under at `now`: the newest, or a new one if that is older than `LIFETIME`."""
        known = self.masters()
        if known and now - known[-1].made_at <= LIFETIME:
            return known[-1]
        return self.rotate(now=now)

    def rotate(self, *, now: datetime) -> Master:
        """Make a new master, under which things are sealed from now on; the others stay, for reading."""
        made_at = now.astimezone(UTC)
        name = f"{made_at:{_MADE}}-{secrets.token_hex(4)}"
        sealed = encrypt(self._root(), AESGCM.generate_key(bit_length=256), name.encode())
        private_folder(self.folder)
        write_atomically(self._file(name), sealed, private=True)
        return Master(name, made_at)

    def check(self) -> None:
        """Raise `KeyFileError` naming the first key that can't be opened."""
        for master in self.masters():
            self._open(self._file(master.name))

    def wrap(self, secret: bytes, *, under: str, bound_to: bytes = b"") -> bytes:
        """`secret` sealed under a master; only who names the same `bound_to` gets it back."""
        return encrypt(self._master(under), secret, bound_to)

    def unwrap(self, wrapped: bytes, *, under: str, bound_to: bytes = b"") -> bytes:
        """The secret again. Raises `KeyFileError` when the master is missing or damaged or isn't the one it was."""
        try:
            return decrypt(self._master(under), wrapped, bound_to)
        except InvalidTag:
            raise KeyFileError(
                f"Something sealed under the key {self._file(under)} can't be opened by it: it was altered, or the key is "
                "another of the same name; restore both from backups of the same time."
            ) from None

    def _master(self, name: str) -> AESGCM:
        with self._lock:
            if name not in self._opened:
                self._opened[name] = AESGCM(self._open(self._file(name)))
            return self._opened[name]

    def _open(self, path: Path) -> bytes:
        if path.parent != self.folder or not path.is_file():
            raise KeyFileError(
                f"The key file {path} is missing, and what is sealed under it can't be read: restore it from a backup of "
                f"{self._root_file.parent}."
            )
        if path.stat().st_mode & 0o077:
            raise KeyFileError(f"The key file {path} is open to other users: run chmod 600 {path}.")
        try:
            return decrypt(self._root(), path.read_bytes(), path.stem.encode())
        except InvalidTag:
            raise KeyFileError(
                f"The key file {path} can't be opened by {self._root_file}: restore both from one backup."
            ) from None

    def _root(self) -> AESGCM:
        if not self._root_file.exists() and self.masters():
            raise KeyFileError(
                f"The key file {self._root_file} is missing, and nothing that is sealed can be read: restore it from a "
                "backup; a new one can't open the keys that the old one wrapped."
            )
        return AESGCM(load_or_create(self._root_file))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.key"


def open_keyring(layout: Layout) -> Keyring:
    """The keyring of this home."""
    return Keyring(layout.keys / "ring", root=layout.keys / "root.key")


def _named(path: Path) -> Master:
    try:
        made_at = datetime.strptime(path.stem.rpartition("-")[0], _MADE).replace(tzinfo=UTC)
    except ValueError:
        raise KeyFileError(f"The key file {path} has no name of a key: move it away.") from None
    return Master(path.stem, made_at)
