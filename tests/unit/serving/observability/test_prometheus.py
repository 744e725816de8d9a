"""What /metrics says, read as Prometheus reads it, after what it is about has happened."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.serving.context import Platform
from tests.unit.serving.shop_window import Spend, Street


@pytest.fixture
def told(client: httpx.Client) -> Callable[..., float]:
    """The value of one sample on the page now, 0 where there is none."""

    def value(name: str, **labels: str) -> float:
        found = [
            sample.value
            for family in text_string_to_metric_families(client.get("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found)

    return value


@pytest.fixture
def added(told: Callable[..., float]) -> Callable[..., float]:
    """How much a counter grew by while something was done."""

    def grown(do: Callable[[], Any], name: str, **labels: str) -> float:
        before = told(name, **labels)
        do()
        return told(name, **labels) - before

    return grown


def test_a_failed_call_counts_against_the_version_that_was_in_use(
    client: httpx.Client, street: Street, platform: Platform, added: Callable[..., float]
) -> None:
    def ask(**body: Any) -> int:
        return client.post("/v1/churn", json=body).status_code

    def fail() -> None:
        street.shop.champions["churn"] = 7, Spend()
        platform.models.refresh()
        street.shelves.online_vectors = None  # type: ignore[method-assign, assignment]
        assert ask(user_ids=["a"]) == 500

    refused = {"endpoint": "churn", "status": "422", "version": "none", "variant": "none"}
    assert added(lambda: ask(user_ids=[]), "aap_errors_total", **refused) == 1
    failed = {"endpoint": "churn", "status": "500", "version": "7", "variant": "none"}
    assert added(fail, "aap_errors_total", **failed) == 1


def test_swaps_and_refusals_of_models_are_counted(
    street: Street, platform: Platform, added: Callable[..., float]
) -> None:
    def promote(model: Any) -> Callable[[], Any]:
        def do() -> None:
            street.shop.champions["churn"] = street.shop.champions["churn"][0] + 1, model
            platform.models.refresh()

        return do

    live, refused = {"model": "churn", "outcome": "live"}, {"model": "churn", "outcome": "refused"}
    assert added(promote(Spend()), "aap_model_swaps_total", **live) == 1
    assert added(promote(ValueError("a broken file")), "aap_model_swaps_total", **refused) == 1
    assert added(promote(ValueError("another")), "aap_model_swaps_total", **live) == 0


def test_the_age_of_a_views_features_is_told(
    platform: Platform, told: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = platform.settings.now() - timedelta(hours=2)
    monkeypatch.setattr("aap.serving.context.built_moments", lambda _folder: {"retention_test": built})
    platform._built = None
    platform._keep_up()
    assert 7_200 <= told("aap_features_age_seconds", view="retention_test") < 7_260


@pytest.mark.parametrize("log", ["predictions", "exposures", "served"])
def test_records_that_were_lost_are_counted_once(platform: Platform, added: Callable[..., float], log: str) -> None:
    kept = {"predictions": platform.records, "exposures": platform.exposures, "served": platform.served}[log]

    def lose(number: int) -> Callable[[], Any]:
        def do() -> None:
            kept._batches._dropped = number
            platform._keep_up()

        return do

    platform._keep_up()
    before = kept.dropped
    assert added(lose(before + 3), "aap_records_dropped_total", log=log) == 3
    assert added(lose(before + 3), "aap_records_dropped_total", log=log) == 0
    assert added(lose(before + 5), "aap_records_dropped_total", log=log) == 2


def test_denials_are_counted_by_purpose_and_reason(
    client: httpx.Client, choose: Callable[..., None], added: Callable[..., float]
) -> None:
    choose("withdrew", Purpose.MARKETING_RETENTION)
    choose("withdrew", Purpose.MARKETING_RETENTION, status=Status.WITHDRAWN)
    choose("agreed", Purpose.MARKETING_RETENTION)

    def ask() -> None:
        client.post("/v1/churn", json={"user_ids": ["withdrew", "withdrew", "nobody", "agreed"]})

    denied = {"endpoint": "churn", "purpose": "marketing.retention"}
    assert added(ask, "aap_consent_denials_total", **denied, reason="withdrawn") == 2
    assert added(ask, "aap_consent_denials_total", **denied, reason="no_record") == 1
    assert added(ask, "aap_consent_denials_total", **denied) == 3
