from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aap.infra.errors import LockHeld
from aap.infra.locks import hold
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[3]
HOLD_FOR_EVER = (
    "import sys, time; from pathlib import Path; from aap.infra.locks import hold\n"
    "with hold(Path(sys.argv[1]), what='A retrain'):\n    print('held', flush=True); time.sleep(600)"
)


@contextmanager
def another_holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until it is killed, at the latest after the block."""
    process = subprocess.Popen([sys.executable, "-c", HOLD_FOR_EVER, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_second_is_told_who_holds_the_lock_and_since_when(tmp_path: Path) -> None:
    with (
        another_holder(tmp_path / "run" / "retrain.lock") as holder,
        pytest.raises(LockHeld, match=f"A retrain is running already, as process {holder.pid} since ") as caught,
        hold(tmp_path / "run" / "retrain.lock", what="A retrain"),
    ):
        pass
    assert caught.value.pid == holder.pid
    assert caught.value.since is not None
    assert datetime.now(UTC) - caught.value.since < timedelta(minutes=10)


def test_a_killed_holder_leaves_no_lock_behind(tmp_path: Path) -> None:
    with another_holder(tmp_path / "job.lock"):
        pass
    with hold(tmp_path / "job.lock", what="A retrain"):
        assert (tmp_path / "job.lock").read_text() == str(os.getpid())


def test_the_lock_is_free_after_the_block_even_if_it_raised(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold(tmp_path / "job.lock", what="A retrain"):
        raise KeyError
    with hold(tmp_path / "job.lock", what="A retrain"):
        pass


def test_waiting_for_a_lock_ends(tmp_path: Path) -> None:
    with hold(tmp_path / "job.lock", what="A retrain"):
        began = time.monotonic()
        with pytest.raises(LockHeld), hold(tmp_path / "job.lock", what="A retrain", wait_s=0.2):
            pass
        assert 0.2 <= time.monotonic() - began < PATIENCE_S


def test_a_child_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with hold(tmp_path / "job.lock", what="A retrain"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with child:
        try:
            with hold(tmp_path / "job.lock", what="A retrain"):
                pass
        finally:
            child.kill()
