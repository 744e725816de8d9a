"""The audit log: who did or tried what at the guarded doors, as JSON lines, one file a day.

An entry names a key, never a person. The same thing done many times within seconds is one entry with a count, so neither
a flood of refused calls nor a busy day of answers can fill the disk. About whom it is stands there as tags that mean
something only to who has the person's own secret (`aap.security.audit_subjects`): `reads_of` lists what was done with one
person's data, and nobody can after their erasure.

Each entry carries the SHA-256 of itself and of the one before, over all files and processes: what is altered, removed
or moved later shows (`verify_audit`). Entries cut off at the end show only to who kept the newest hash.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from aap.infra.atomic_files import private_folder
from aap.infra.errors import StorageError
from aap.security.audit_subjects import Subjects

__all__ = ["Audit", "Verified", "note_once", "note_read", "read_audit", "reads_of", "verify_audit"]

_log = logging.getLogger("aap.audit")
_MOST_KINDS = 1_000
_FIRST = "0" * 64
_TAIL = 65_536
"""Bytes that the last entries are looked for in; an entry has a few hundred."""
_NOBODY = {"tags": ""}
_ALL_DAYS = 100_000
_Kind = tuple[str, str, str]
_Entry = dict[str, Any]


class Audit:
    """The log under `folder`. `note` takes an entry at once; `flush` writes, and is called every few seconds.

    People are named to it by user key; or, with `user_keys`, by what that makes user keys of, when they are written. Who then
    knows people by user key alone hands them over as `keys`.
    """

    def __init__(self, folder: Path, *, user_keys: Callable[[Sequence[str]], list[str]] | None = None) -> None:
        self._folder, self._user_keys = folder, user_keys or list
        self._subjects = Subjects(folder)
        self._lock = threading.Lock()
        self._waiting: Counter[_Kind] = Counter()
        self._since: dict[_Kind, datetime] = {}
        self._about: dict[_Kind, set[str]] = {}
        self._keys: dict[_Kind, set[str]] = {}

    def note(
        self,
        action: str,
        *,
        by: str,
        outcome: str,
        at: datetime,
        times: int = 1,
        about: Iterable[str] = (),
        keys: Iterable[str] = (),
    ) -> None:
        """Take one entry: what was done or tried, by which key, what came of it, how many times, and about whom."""
        kind = (action, by, outcome)
        with self._lock:
            if kind not in self._waiting and len(self._waiting) >= _MOST_KINDS:
                kind = ("other", "several", "several")
            self._waiting[kind] += times
            self._since.setdefault(kind, at)
            if about:
                self._about.setdefault(kind, set()).update(about)
            if keys:
                self._keys.setdefault(kind, set()).update(keys)

    def flush(self) -> None:
        """Write what is waiting. A disk that can't be written keeps it waiting, and says so in the service's log."""
        with self._lock:
            waiting, self._waiting = self._waiting, Counter()
            since, self._since = self._since, {}
            about, self._about = self._about, {}
            keys, self._keys = self._keys, {}
        if not waiting:
            return
        days: dict[str, list[_Entry]] = {}
        try:
            for kind, count in waiting.items():
                at, (action, by, outcome) = since[kind], kind
                entry = {"time": at.isoformat(), "action": action, "by": by, "outcome": outcome, "count": count}
                if kind in about or kind in keys:
                    named = self._user_keys(list(about[kind])) if kind in about else []
                    entry["about"] = self._subjects.tell({*named, *keys.get(kind, ())}, on=at.date())
                days.setdefault(f"{at:%Y-%m-%d}", []).append(entry)
            for day in sorted(days):
                self._append(day, days[day])
                for entry in days[day]:  # what is written already waits no more
                    del waiting[entry["action"], entry["by"], entry["outcome"]]
        except (OSError, StorageError) as error:
            _log.warning("The audit log in %s can't be written (%s); its entries wait.", self._folder, error)
            with self._lock:
                self._waiting.update(waiting)
                self._since = since | self._since
                for kind in waiting:
                    for kept, whom in ((self._about, about), (self._keys, keys)):
                        if kind in whom:
                            kept.setdefault(kind, set()).update(whom[kind])

    def _append(self, day: str, entries: list[_Entry]) -> None:
        private_folder(self._folder)
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes one at a time goes on with the chain
            before, lines = _newest(self._folder), []
            for entry in entries:
                before = _hash(before, entry)
                lines.append(json.dumps({**entry, "hash": before}) + "\n")
            # Never into a file before the newest: files, and lines within, are in the order of the chain.
            path = self._folder / max([f"{day}.jsonl", *(f.name for f in self._folder.glob("*.jsonl"))])
            place = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(place).st_size
                torn = size > 0 and os.pread(place, 1, size - 1) != b"\n"
                os.write(place, ("\n" * torn + "".join(lines)).encode())
            finally:
                os.close(place)


def note_once(folder: Path, action: str, *, by: str, at: datetime, about: Iterable[str] = ()) -> None:
    """One entry, written at once, about the people with these user keys: for a command that does one thing."""
    log = Audit(folder)
    log.note(action, by=by, outcome="done", at=at, about=about)
    log.flush()


def note_read(folder: Path, what: str, *, about: Collection[str], at: datetime) -> None:
    """One entry, written at once, of a read of these people's data by a program on this machine, such as a notebook.

    It is named by the account it runs under. A read of nobody's data leaves none.
    """
    if about:
        log = Audit(folder)
        who = f"account {getpass.getuser()}"
        log.note(f"read {what}", by=who, outcome="answered", at=at, times=len(about), about=about)
        log.flush()


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify_audit` found."""

    entries: int
    newest: str
    """The hash of the last entry: kept elsewhere, it shows whether entries were cut off at the end."""
    problems: tuple[str, ...]
    """Each names a file and a line."""


def verify_audit(folder: Path) -> Verified:
    """Follow the chain through all files."""
    before, count, problems = _FIRST, 0, []
    for file in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if not line:
                continue
            count += 1
            try:
                entry = json.loads(line)
                told = entry.pop("hash")
            except (ValueError, KeyError, AttributeError, TypeError):
                problems.append(f"{file.name}, line {number}: not a whole entry; a crash may have cut it short.")
                continue
            if _hash(before, entry) != told:
                problems.append(
                    f"{file.name}, line {number}: altered, or entries before it were removed, added or moved."
                )
            before = told
            try:
                Subjects(folder).tags(entry.get("about", _NOBODY))
            except (ValueError, KeyError, TypeError, AttributeError):
                problems.append(f"{file.name}, line {number}: the list of whom it is about is gone or altered.")
    return Verified(count, before, tuple(problems))


def read_audit(folder: Path, *, days: int) -> Iterator[dict[str, Any]]:
    """The entries of the newest `days` files, oldest first; a line cut short by a crash is left out."""
    for file in sorted(folder.glob("*.jsonl"))[-days:]:
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def reads_of(folder: Path, user_key: str) -> list[dict[str, Any]]:
    """The entries about one person, oldest first: `time`, `action`, `by`, `outcome`. None once they are erased."""
    is_about = Subjects(folder).about(user_key)
    return [
        {name: entry[name] for name in ("time", "action", "by", "outcome")}
        for entry in read_audit(folder, days=_ALL_DAYS)
        if "about" in entry and is_about(entry["about"])
    ]


def _newest(folder: Path) -> str:
    """The hash of the last whole entry."""
    for file in sorted(folder.glob("*.jsonl"), reverse=True):
        with file.open("rb") as lines:
            lines.seek(max(0, file.stat().st_size - _TAIL))
            last = lines.read().splitlines()
        for line in reversed(last):
            try:
                return str(json.loads(line)["hash"])
            except (ValueError, KeyError, TypeError):
                continue
    return _FIRST


def _hash(before: str, entry: _Entry) -> str:
    return sha256(f"{before}\n{json.dumps(entry, sort_keys=True)}".encode()).hexdigest()
