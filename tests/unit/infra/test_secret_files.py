from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aap.infra.errors import KeyFileError, StorageError
from aap.infra.secret_files import load, load_or_create

ROOT = Path(__file__).resolve().parents[3]


def test_a_key_is_made_once_and_then_the_same(tmp_path: Path) -> None:
    key = load_or_create(tmp_path / "keys" / "k")
    assert len(key) == 32
    assert load_or_create(tmp_path / "keys" / "k") == key
    assert load_or_create(tmp_path / "keys" / "other") != key


def test_file_and_folder_are_the_owner_s_alone(tmp_path: Path) -> None:
    load_or_create(tmp_path / "keys" / "k")
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / "k").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["k", "k.id"]


def test_a_key_that_is_lost_or_swapped_is_missed_and_no_new_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "k"
    key = load_or_create(path)
    kept = path.read_bytes()
    path.unlink()
    for ask in (load_or_create, load):
        with pytest.raises(KeyFileError, match="k is gone: restore it from a backup"):
            ask(path)
    assert not path.exists()
    path.write_bytes(bytes(32))
    path.chmod(0o600)
    for ask in (load_or_create, load):
        with pytest.raises(KeyFileError, match="k holds another key than before"):
            ask(path)
    path.write_bytes(kept)
    assert load_or_create(path) == load(path) == key


def test_processes_that_make_it_at_once_agree(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from aap.infra.secret_files import load_or_create\n"
        "print(load_or_create(Path(sys.argv[1])).hex())"
    )
    racing = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path / "k"], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(6)
    ]
    assert {process.communicate()[0].strip() for process in racing} == {(tmp_path / "k").read_bytes().hex().encode()}


def test_a_key_open_to_others_is_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path / "k")
    (tmp_path / "k").chmod(0o644)
    with pytest.raises(KeyFileError, match=r"is open to other users \(mode 0644\): run chmod 600"):
        load_or_create(tmp_path / "k")


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_key_of_another_length_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k").write_bytes(content)
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(KeyFileError, match=f"holds {len(content)} bytes instead of 32"):
        load_or_create(tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == content


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    with pytest.raises(KeyFileError, match="is a folder"):
        load_or_create(tmp_path / "k")


def test_a_key_that_cannot_be_made_or_read_is_named(unprivileged: Path) -> None:
    with pytest.raises(StorageError, match=f"{unprivileged} .*another user"):
        load_or_create(unprivileged / "k")


def test_a_key_of_another_user_is_refused(unprivileged: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make another user's file")
    os.seteuid(0)
    load_or_create(unprivileged / "keys" / "k")
    os.seteuid(65534)
    with pytest.raises(KeyFileError, match="run as the user who owns it"):
        load_or_create(unprivileged / "keys" / "k")
