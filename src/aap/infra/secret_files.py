"""Secret keys on disk: random bytes in a file only its owner can read, made once and the same for every process.

Beside each lies what it is known by, a hash that tells nothing of it (`NAME.id`): a key that is lost or swapped is missed,
and never replaced by a new one under which nothing made before can be found.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from aap.infra.atomic_files import explain_full_disk, private_folder, write_atomically
from aap.infra.errors import KeyFileError

__all__ = ["load", "load_or_create"]


def load_or_create(path: Path, *, size: int = 32) -> bytes:
    """The secret key at `path`: `size` random bytes, made on first use (0600, in a 0700 folder).

    Processes that ask at the same time get the same key. Raises `KeyFileError` when the file can't be read or written,
    is open to other users, doesn't hold exactly `size` bytes, or isn't the one that was here before.
    """
    with _explained(path):
        private_folder(path.parent)
        known = _known_by(path)
        if not path.exists() and not known.exists():
            _create(path, size=size)
        key = load(path, size=size)
        if not known.exists():
            write_atomically(known, _id(key).encode(), private=True)
        return key


def load(path: Path, *, size: int = 32) -> bytes:
    """The secret key at `path`, which is there already; raises `KeyFileError` as `load_or_create`, and where it is gone."""
    with _explained(path):
        key = _load(path, size=size)
        known = _known_by(path)
        if known.exists() and known.read_text(encoding="ascii") != _id(key):
            raise KeyFileError(f"The key file {path} holds another key than before: restore it from a backup.")
        return key


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise KeyFileError(
            f"The key file {path} is gone: restore it from a backup; a new key can't read what the old one made."
        ) from None
    except PermissionError as error:
        raise KeyFileError(
            f"The key file {path} can't be used ({error.strerror}): run as the user who owns it."
        ) from None
    except IsADirectoryError:
        raise KeyFileError(f"The key file {path} is a folder: move it away.") from None


def _known_by(path: Path) -> Path:
    return path.with_name(f"{path.name}.id")


def _id(key: bytes) -> str:
    return sha256(b"aap key id\n" + key).hexdigest()[:32]


def _create(path: Path, *, size: int) -> None:
    """Link a finished file into place: unlike a rename, a link never replaces a key another process just made."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with explain_full_disk(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(size))
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)


def _load(path: Path, *, size: int) -> bytes:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        key = file.read()
    if mode & 0o077:
        raise KeyFileError(f"The key file {path} is open to other users (mode {mode:04o}): run chmod 600 {path}.")
    if len(key) != size:
        raise KeyFileError(
            f"The key file {path} holds {len(key)} bytes instead of {size}: restore it from a backup; "
            "a new key can't read what the old one made."
        )
    return key
