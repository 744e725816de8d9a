"""A measurement in a process of its own: its memory is seen, its failure told, its time limited."""

from __future__ import annotations

import time

import pytest

from benchmarks.support.child_process import Unfinished, measure_in_child
from tests.waiting import PATIENCE_S


def _fill(mb: int) -> int:
    held = bytearray(mb * 1_000_000)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(2.0)  # its memory is looked at every twentieth of a second
    return len(held)


def test_a_child_s_memory_is_seen_and_limited() -> None:
    found = measure_in_child(_fill, 300, limit_s=PATIENCE_S)
    assert found.result == 300_000_000
    assert 300 < found.peak_mb < 600
    with pytest.raises(Unfinished, match="more than 200 MB"):
        measure_in_child(_fill, 300, limit_s=PATIENCE_S, limit_mb=200)


def test_a_child_s_failure_is_told() -> None:
    with pytest.raises(RuntimeError, match="ValueError: invalid literal"):
        measure_in_child(int, "three", limit_s=PATIENCE_S)


def test_a_child_that_takes_too_long_is_ended() -> None:
    with pytest.raises(Unfinished, match=r"more than 0\.2 s"):
        measure_in_child(time.sleep, 3_600, limit_s=0.2)
