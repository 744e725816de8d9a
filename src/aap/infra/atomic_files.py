"""Files that appear whole or not at all, and folders only their owner can enter.

A file is written beside its place under a temporary name, flushed to the disk and renamed. A reader sees the old file
or the new one, never a half; a crash leaves the old one.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aap.infra.errors import DiskFull, PlaceUnusable

__all__ = ["explain_full_disk", "make_folder", "private_folder", "write_atomically"]

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# DuckDB, SQLite and Arrow raise errors of their own, some without an errno.
_NO_ROOM_TEXT = ("no space left on device", "database or disk is full", "disk quota exceeded", "file too large")


def write_atomically(
    path: Path, content: bytes | Callable[[BinaryIO], object], *, private: bool = False, durable: bool = True
) -> None:
    """Put `content` at `path`, whole or not at all; missing folders are made.

    `content` is bytes, or a function that writes to the open binary file it is given. `private` files are 0600.
    `durable=False` leaves out the flush to disk: atomic for readers, but a power cut may lose it.

    Raises `DiskFull` without touching the old file, `PlaceUnusable` when the place can't be written.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with explain_full_disk(path):
        try:
            _write_new(temporary, content, mode=0o600 if private else 0o666, durable=durable)
            temporary.replace(path)
        except PermissionError as error:
            raise PlaceUnusable(f"{path} can't be written ({error.strerror}): check who owns {path.parent}.") from None
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            _flush_folder(path.parent)


@contextmanager
def explain_full_disk(path: Path | str) -> Iterator[None]:
    """Turn any library's way of saying that the disk is full into `DiskFull(path)`; other errors pass unchanged."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in _NO_ROOM or any(text in str(error).lower() for text in _NO_ROOM_TEXT):
            raise DiskFull(path) from error
        raise


def make_folder(path: Path, *, mode: int = 0o777) -> Path:
    """Make `path` and its parents if missing (`mode` is for the last one) and return it.

    Raises `PlaceUnusable` when something else is in the way or the parent can't be written, `DiskFull` without room.
    """
    try:
        with explain_full_disk(path):
            path.mkdir(mode=mode, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise PlaceUnusable(f"{path} can't be a folder because a file is in the way: move the file.") from None
    except OSError as error:
        raise PlaceUnusable(f"Folder {path} can't be made ({error.strerror}): choose another AAP_HOME.") from None
    return path


def private_folder(path: Path) -> Path:
    """Make `path` a folder that only its owner can enter (0700), tightening one that is too open, and return it."""
    make_folder(path, mode=0o700)
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except PermissionError:
        raise PlaceUnusable(f"Folder {path} is open to others and belongs to another user: fix its owner.") from None
    return path


def _write_new(path: Path, content: bytes | Callable[[BinaryIO], object], *, mode: int, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems can't flush a folder; the rename itself is still atomic
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
