"""`aap live` as it is run: real worker processes, killed in mid-run."""

from __future__ import annotations

from benchmarks.live import burst_of, shop_of


def test_workers_killed_with_sigkill_in_mid_run_lose_nothing_and_count_nothing_twice() -> None:
    with shop_of(300) as shop:
        found, killed = burst_of(shop, 30_000, workers=2, kills=2)
    assert killed > 0
    assert (found.lost, found.double) == (0, 0)
