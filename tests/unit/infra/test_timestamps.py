"""Moments survive being stored, to the microsecond and in any time zone."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from aap.infra.timestamps import EPOCH, from_micros, to_micros

pytestmark = pytest.mark.fast


@given(st.datetimes(timezones=st.sampled_from([UTC, ZoneInfo("Europe/Paris"), ZoneInfo("America/New_York")])))
def test_a_moment_stored_and_read_is_the_same_moment(at: datetime) -> None:
    assert from_micros(to_micros(at)) == at.astimezone(UTC)


def test_counting_begins_in_1970_and_goes_back_before_it() -> None:
    assert to_micros(EPOCH) == 0
    assert to_micros(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1
    assert to_micros(datetime(2024, 1, 1, tzinfo=UTC)) == 1_704_067_200_000_000
