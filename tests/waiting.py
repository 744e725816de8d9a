"""Waiting: until something holds, and not for a time, so that no test depends on how busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["PATIENCE_S", "until"]

PATIENCE_S = 300.0
"""Longer than anything takes on a machine that is busy with other work: what takes longer doesn't come at all."""


def until(holds: Callable[[], object], *, within_s: float = PATIENCE_S, every_s: float = 0.02) -> None:
    """Wait for what another thread or process brings about; fails if it doesn't come."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"it did not come about within {within_s:g} s"
        time.sleep(every_s)
