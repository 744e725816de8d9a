"""`aap live` as it is run: real worker processes, killed in mid-run."""

from __future__ import annotations

from benchmarks.live import _burst, _shop


def test_workers_killed_with_sigkill_in_mid_run_lose_nothing_and_count_nothing_twice() -> None:
    with _shop(300) as shop:
        found = _burst(shop, 6_000, workers=2, kill=True)
    assert found["killed"] > 0
    assert (found["lost"], found["double"]) == (0, 0)
