"""Subjects: about whom an entry of the audit log is, so that only who has a person's own secret can tell.

Each person that is read gets a random secret once, in a small SQLite file beside the log. An entry carries, for everyone it
is about, a *tag*: the first 8 bytes of HMAC-SHA256(the person's secret, the entry's random name). Tags of one person in two
entries have nothing in common; a person is looked up by computing theirs. Whoever is erased loses the secret, and then no
entry tells any more that it was about them, though not one of its bytes changed and the chain of hashes holds.

A tag is found by chance in one of 2^64 / n entries about n people.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

from aap.infra.atomic_files import private_folder, write_atomically
from aap.infra.errors import PlaceUnusable

__all__ = ["About", "Subjects"]

_TAG = 8
_MOST_INLINE = 50
"""People whose tags stand in the entry itself; of more the entry names a file of tags by its SHA-256."""
_SECRET = 16


class Subjects:
    """The secrets and long lists of tags of the audit log in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "subjects.db"

    def tell(self, user_keys: Collection[str], *, on: date) -> dict[str, Any]:
        """What an entry of that day about these people says of them, JSON-ready. Makes the secrets that lack."""
        name = secrets.token_hex(16)
        tags = sorted(_tag(secret, name) for secret in self._secrets(user_keys, on=on))
        told: dict[str, Any] = {"name": name, "people": len(tags)}
        if len(tags) <= _MOST_INLINE:
            return told | {"tags": b"".join(tags).hex()}
        content = b"".join(tags)
        digest = sha256(content).hexdigest()
        private_folder(self._folder / "people")
        write_atomically(self._list(digest), content, private=True)
        return told | {"list": digest}

    def about(self, user_key: str) -> About:
        """What tells whether an entry is about this person; nobody for whoever has no secret."""
        found = self._read("SELECT secret FROM subjects WHERE user_key = ?", (user_key,))
        return About(self, found[0][0] if found else None)

    def tags(self, told: dict[str, Any]) -> bytes:
        """The tags of an entry, one after the other. Raises `ValueError` where its list is gone or altered."""
        if "tags" in told:
            return bytes.fromhex(told["tags"])
        digest = str(told["list"])
        try:
            content = self._list(digest).read_bytes()
        except OSError:
            content = b""
        if sha256(content).hexdigest() != digest:
            raise ValueError("the list of whom it is about is gone or altered")
        return content

    def knows(self, user_key: str) -> bool:
        """Whether this person has a secret."""
        return bool(self._read("SELECT 1 FROM subjects WHERE user_key = ?", (user_key,)))

    def forget(self, user_key: str) -> None:
        """Delete a person's secret, and overwrite where it lay: from then on no entry can be told to be about them."""
        if self._file.exists():
            with self._open() as connection, connection:
                connection.execute("DELETE FROM subjects WHERE user_key = ?", (user_key,))

    def last_entries(self) -> dict[str, date]:
        """The day of the last entry about each person who has a secret."""
        found = self._read("SELECT user_key, last_entry FROM subjects ORDER BY user_key", ())
        return {key: date.fromisoformat(day) for key, day in found}

    def _secrets(self, user_keys: Collection[str], *, on: date) -> list[bytes]:
        asked, day = json.dumps(list(user_keys)), on.isoformat()
        with self._open() as connection, connection:
            found = connection.execute(_THEIRS, (asked,)).fetchall()
            if missing := set(user_keys) - {key for key, _, _ in found}:
                new = [(key, secrets.token_bytes(_SECRET), day) for key in missing]
                connection.executemany("INSERT OR IGNORE INTO subjects VALUES (?, ?, ?)", new)
                found = connection.execute(_THEIRS, (asked,)).fetchall()  # another process may have been first
            older = [(day, key) for key, _, last in found if last < day]
            connection.executemany("UPDATE subjects SET last_entry = ? WHERE user_key = ?", older)
        return [secret for _, secret, _ in found]

    def _read(self, query: str, values: tuple[str, ...]) -> list[Any]:
        if not self._file.exists():
            return []
        with self._open() as connection:
            return connection.execute(query, values).fetchall()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        private_folder(self._folder)
        try:
            with closing(sqlite3.connect(self._file, timeout=10.0)) as connection:
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute(_TABLE)
                yield connection
        except sqlite3.Error as error:
            raise PlaceUnusable(f"{self._file} can't be used ({error}): restore it, or give it room.") from None

    def _list(self, digest: str) -> Path:
        return self._folder / "people" / f"{digest}.bin"


class About:
    """Tells of an entry whether it is about one person."""

    def __init__(self, subjects: Subjects, secret: bytes | None) -> None:
        self._subjects, self._secret = subjects, secret

    def __call__(self, told: dict[str, Any]) -> bool:
        """Whether what an entry says of its people (`Subjects.tell`) is about this person; no for a list that is gone."""
        if self._secret is None:
            return False
        try:
            tags = self._subjects.tags(told)
        except ValueError:
            return False
        wanted = _tag(self._secret, told["name"])
        place = tags.find(wanted)
        while place >= 0 and place % _TAG:
            place = tags.find(wanted, place + 1)
        return place >= 0


_TABLE = (
    "CREATE TABLE IF NOT EXISTS subjects (user_key TEXT PRIMARY KEY, secret BLOB NOT NULL, last_entry TEXT NOT NULL)"
)
_THEIRS = "SELECT user_key, secret, last_entry FROM subjects WHERE user_key IN (SELECT value FROM json_each(?))"


def _tag(secret: bytes, name: str) -> bytes:
    return hmac.digest(secret, name.encode(), "sha256")[:_TAG]
