"""Peak memory: of all processes at once, and of what is gone again too."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from aap.infra.memory import PeakMemory
from aap.infra.paths import Layout
from tests.waiting import until

_MB = 1 << 20
_TAKES = "import time; held = bytearray(b'x') * (200 << 20); print('held', flush=True); time.sleep(600)"


def test_it_is_the_sum_of_a_process_and_its_children_and_stays_when_they_are_gone(tmp_path: Path) -> None:
    with PeakMemory(Layout(tmp_path)) as alone:  # with what else this test's process has started
        time.sleep(0.3)
    before = alone.bytes
    assert before >= psutil.Process().memory_info().rss / 2
    with PeakMemory(Layout(tmp_path)) as memory:
        children = [subprocess.Popen([sys.executable, "-c", _TAKES], stdout=subprocess.PIPE) for _ in range(2)]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"held\n"
        until(lambda: memory.bytes >= before + 350 * _MB)
        for child in children:
            child.kill()
            child.communicate()
    assert before + 350 * _MB < memory.bytes < before + 900 * _MB
