"""Targeting: a segment is told only where both purposes behind it are granted, and whoever is read is noted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aap.consent.purposes import Purpose
from aap.security.audit_log import reads_of, verify_audit
from aap.serving.context import Platform
from aap.serving.inference.predictor import FLAG
from aap.serving.rollout.segment_targeting import SegmentsOf
from tests.unit.serving.shop_window import Street

IMPROVE, REPORT, CHOOSE = (
    Purpose.FUNCTIONAL_SERVICE_IMPROVE,
    Purpose.ANALYTICS_REPORTING,
    Purpose.PERSONALIZE_PROFILED,
)


@pytest.mark.parametrize(
    ("granted", "segment"), [((REPORT, CHOOSE), "big"), ((REPORT,), None), ((CHOOSE,), None), ((), None)]
)
def test_the_segment_of_a_person_needs_reporting_and_profiled_and_only_who_allows_reporting_is_read(
    street: Street,
    platform: Platform,
    choose: Callable[..., None],
    granted: tuple[Purpose, ...],
    segment: str | None,
) -> None:
    choose("who", *granted)
    key, now = street.key("who"), street.settings.now()
    street.shelves.rows[key] = [80.0, 3.0]
    noted: list[Any] = []
    segments_of = SegmentsOf(street.shelves, platform.models, note=lambda *read: noted.append(read))
    assert segments_of([key, street.key("stranger")], now) == [segment, None]
    assert noted == ([(REPORT, [key], now)] if REPORT in granted else [])


def test_without_data_or_without_a_model_there_is_no_segment(
    street: Street, platform: Platform, choose: Callable[..., None]
) -> None:
    choose("who", REPORT, CHOOSE)
    key, now = street.key("who"), street.settings.now()
    segments_of = SegmentsOf(street.shelves, platform.models, note=lambda *_: None)
    assert segments_of([key], now) == [None]
    street.shelves.rows[key] = [80.0, 3.0]
    street.shelves.features = ("another",)
    street.shelves.rows[key] = [80.0]
    assert segments_of([key], now) == [None], "features differ from the model's"


def test_a_flag_for_a_segment_takes_in_who_is_known_to_be_in_it_and_the_audit_log_says_whose_values_that_took(
    street: Street, choose: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "settings").mkdir()
    rule = {"if": [{"in": [{"var": "segment"}, ["big"]]}, {"fractional": [["buy_again", 0], ["discover", 1]]}]}
    variants = {v: v for v in ("buy_again", "discover")}
    flag = {"state": "ENABLED", "variants": variants, "defaultVariant": "buy_again", "targeting": rule}
    (tmp_path / "settings" / "flags.json").write_text(json.dumps({"flags": {FLAG: flag}}))
    settings = street.settings.model_copy(update={"settings_dir": tmp_path / "settings"})
    platform = Platform(settings, open_features=lambda _: street.shelves, open_registry=lambda _: street.shop)
    platform.models.refresh()
    allowed = {
        "in it": (IMPROVE, CHOOSE, REPORT),
        "small": (IMPROVE, CHOOSE, REPORT),
        "no reporting": (IMPROVE, CHOOSE),
        "no experiments": (CHOOSE, REPORT),
    }
    for who, purposes in allowed.items():
        choose(who, *purposes)
        street.shelves.rows[street.key(who)] = [10.0 if who == "small" else 80.0, 3.0]
        street.shelves.purchases[street.key(who)] = ["tea"]
    keys, now = {who: street.key(who) for who in allowed}, settings.now()
    answers = platform.stores().predictor.recommendations(list(keys.values()), now=now)
    told = {
        who: a.experiment and (a.experiment.variant, a.experiment.reason) for who, a in zip(keys, answers, strict=True)
    }
    platform.stop()
    assert told["in it"] == ("discover", "split")
    assert told["small"] == told["no reporting"] == ("buy_again", "other_segment")
    assert told["no experiments"] == ("buy_again", "consent_not_granted")
    read = {who for who, key in keys.items() if reads_of(platform.layout.audit, key)}
    assert read == {"in it", "small"}
    (entry,) = reads_of(platform.layout.audit, keys["in it"])
    assert entry["action"] == "read to target an experiment, analytics.reporting"
    assert entry["by"] == "the service"
    assert verify_audit(platform.layout.audit).problems == ()
