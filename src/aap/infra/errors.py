"""What can go wrong below the platform: with Redis, locks, key files, the disk and background processes.

StorageError
├── RedisUnavailable     the Redis in use doesn't answer
├── RedisStartFailed     the embedded Redis can't be started
├── LockHeld             another process is doing this already
├── KeyFileError         a secret key file can't be read, made or trusted
├── DiskFull             the disk (or a quota) has no room for a file
├── PlaceUnusable        a folder or file can't be made or written, for another reason than room
└── ProcessFailed        a background process can't be started or stopped

Every message is one sentence: what was wrong, with which value, and what to do.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

__all__ = [
    "DiskFull",
    "KeyFileError",
    "LockHeld",
    "PlaceUnusable",
    "ProcessFailed",
    "RedisStartFailed",
    "RedisUnavailable",
    "StorageError",
]


class StorageError(Exception):
    """Base of every error of this package."""


class RedisUnavailable(StorageError):
    """The Redis in use doesn't answer; the message names its address without its password."""


class RedisStartFailed(StorageError):
    """The embedded Redis can't be started; the message ends with the reason from its log."""


class LockHeld(StorageError):
    """Another process holds the lock: `pid` since `since` (UTC); both are None if it left no trace."""

    def __init__(self, message: str, *, pid: int | None = None, since: datetime | None = None) -> None:
        super().__init__(message)
        self.pid = pid
        self.since = since


class KeyFileError(StorageError):
    """A secret key file can't be read, made or trusted."""


class DiskFull(StorageError):
    """There is no room for `path`; the file that was there before is untouched."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(f"No space left for {path}: free some disk space and run the command again.")
        self.path = Path(path)


class PlaceUnusable(StorageError):
    """A folder or file can't be made or written."""


class ProcessFailed(StorageError):
    """A background process can't be started or stopped; the message names its log."""
