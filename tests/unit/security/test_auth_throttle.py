"""Wrong keys: those who have none are counted by address, within bounds."""

from __future__ import annotations

import pytest

from aap.security.auth_throttle import WrongKeys

pytestmark = pytest.mark.fast


def test_an_address_is_told_to_stay_away_after_its_calls_and_the_others_are_not() -> None:
    wrong = WrongKeys(per_minute=3)
    assert [wrong.another("10.0.0.1") for _ in range(5)] == [None, None, None, 60, 60]
    assert wrong.another("10.0.0.2") is None


def test_after_a_minute_it_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr("aap.security.auth_throttle.time.monotonic", lambda: now[0])
    wrong = WrongKeys(per_minute=1)
    assert [wrong.another("a"), wrong.another("a")] == [None, 60]
    now[0] += 30.5
    assert wrong.another("a") == 30, "what is refused doesn't prolong it"
    now[0] += 30
    assert wrong.another("a") is None


def test_addresses_without_end_take_bounded_memory_and_the_oldest_is_forgotten() -> None:
    wrong = WrongKeys(per_minute=1, addresses=100)
    for number in range(1_000):
        wrong.another(f"10.0.{number // 250}.{number % 250}")
    assert len(wrong._seen) == 100
    assert wrong.another("10.0.3.249") is not None
    assert wrong.another("10.0.0.0") is None


def test_the_addresses_of_one_network_of_ipv6_count_as_one() -> None:
    wrong = WrongKeys(per_minute=1)
    assert wrong.another("2001:db8:0:1::1") is None
    assert wrong.another("2001:db8:0:1:ffff::2%eth0") is not None
    assert wrong.another("2001:db8:0:2::1") is None
    assert wrong.another("::nonsense::") is None
