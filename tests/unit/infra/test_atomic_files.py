from __future__ import annotations

import errno
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from aap.infra.atomic_files import explain_full_disk, make_folder, private_folder, write_atomically
from aap.infra.errors import DiskFull, PlaceUnusable

pytestmark = pytest.mark.fast


@contextmanager
def no_room_beyond_a_kilobyte() -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond 1,024 bytes, as a full disk would.

    Not a fixture: while one is in force pytest writes its own report, which may go to a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


def test_bytes_and_writers_land_whole_in_folders_made_for_them(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "one", b"1")
    write_atomically(tmp_path / "a" / "two", lambda file: file.write(b"2"))
    assert ((tmp_path / "a" / "b" / "one").read_bytes(), (tmp_path / "a" / "two").read_bytes()) == (b"1", b"2")


def test_no_room_is_said_in_a_sentence_and_the_old_file_stays(tmp_path: Path) -> None:
    place = tmp_path / "report.json"
    write_atomically(place, b"old")
    said = r"^No space left for .*report.json: free some disk space and run"
    with no_room_beyond_a_kilobyte(), pytest.raises(DiskFull, match=said):
        write_atomically(place, b"x" * 5000)
    assert place.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_writer_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise ZeroDivisionError

    write_atomically(tmp_path / "f", b"old")
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "f", fail)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("f", b"old")]


def test_a_reader_never_sees_a_half_written_file(tmp_path: Path) -> None:
    place, sizes, done = tmp_path / "f", set[int](), threading.Event()
    write_atomically(place, b"")

    def read() -> None:
        while not done.is_set():
            sizes.add(len(place.read_bytes()))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        write_atomically(place, b"x" * 300_000, durable=False)
        write_atomically(place, b"", durable=False)
    done.set()
    reader.join()
    assert sizes <= {0, 300_000}


def test_a_private_file_is_readable_by_the_owner_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "f", b"secret", private=True)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("IO Error: Could not write file: No space left on device"),
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
    ],
)
def test_every_library_says_disk_full_in_the_same_sentence(error: Exception) -> None:
    with pytest.raises(DiskFull, match="No space left for archive"), explain_full_disk("archive"):
        raise error


def test_other_errors_are_not_taken_for_a_full_disk() -> None:
    with pytest.raises(ValueError, match="bad"), explain_full_disk("archive"):
        raise ValueError("bad")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(PlaceUnusable, match="can't be a folder because a file is in the way"):
        make_folder(tmp_path / "f")
    with pytest.raises(PlaceUnusable, match="can't be a folder because a file is in the way"):
        write_atomically(tmp_path / "f" / "g", b"")


def test_a_folder_that_is_too_open_is_tightened(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o755)
    assert private_folder(tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_a_place_that_may_not_be_written_is_named(unprivileged: Path) -> None:
    with pytest.raises(PlaceUnusable, match=r"home can't be made \(Permission denied\): choose another AAP_HOME"):
        make_folder(unprivileged / "home")
    with pytest.raises(PlaceUnusable, match=r"can't be written .* check who owns"):
        write_atomically(unprivileged / "f", b"")
