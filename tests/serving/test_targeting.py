"""Targeting: a segment is told only where both purposes behind it are granted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consent.purposes import Purpose
from serving.platform import Platform
from serving.targeting import SegmentsOf
from tests.serving.shop_window import Street

REPORT, CHOOSE = Purpose.ANALYTICS_REPORTING, Purpose.PERSONALIZE_PROFILED


@pytest.mark.parametrize(
    ("granted", "segment"), [((REPORT, CHOOSE), "big"), ((REPORT,), None), ((CHOOSE,), None), ((), None)]
)
def test_the_segment_of_a_person_needs_reporting_and_profiled(
    street: Street,
    platform: Platform,
    choose: Callable[..., None],
    granted: tuple[Purpose, ...],
    segment: str | None,
) -> None:
    choose("who", *granted)
    key = street.key("who")
    street.shelves.rows[key] = [80.0, 3.0]
    segments_of = SegmentsOf(street.shelves, platform.models)
    assert segments_of([key, street.key("stranger")], street.settings.now()) == [segment, None]


def test_without_data_or_without_a_model_there_is_no_segment(
    street: Street, platform: Platform, choose: Callable[..., None]
) -> None:
    choose("who", REPORT, CHOOSE)
    key, now = street.key("who"), street.settings.now()
    assert SegmentsOf(street.shelves, platform.models)([key], now) == [None]
    street.shelves.rows[key] = [80.0, 3.0]
    street.shelves.features = ("another",)
    street.shelves.rows[key] = [80.0]
    assert SegmentsOf(street.shelves, platform.models)([key], now) == [None], "features differ from the model's"
