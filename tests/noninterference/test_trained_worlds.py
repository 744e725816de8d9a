"""Noninterference of what is learned: two worlds that differ only in forbidden data train the same models, byte for byte,
and say the same in MLflow, reports, logs, metrics, answers and exports.

The quick test fits every model; the long ones live through a week: import, withdrawals, the whole retrain with its pages,
an hour of service, the check of what was served, an export.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.noninterference.left_behind import sinks
from tests.noninterference.mixed_shop import FORBIDDEN, Kind
from tests.noninterference.test_two_worlds import redis_url  # noqa: F401 - the fixture
from tests.noninterference.trained_world import a_clock, fitted, lived
from tests.noninterference.world import World, told_apart


def test_models_fitted_in_two_worlds_that_differ_in_forbidden_data_alone_are_the_same_bytes(
    tmp_path: Path,
    redis_url: str,  # noqa: F811 - the fixture
) -> None:
    with a_clock() as clock:
        one = fitted(tmp_path / "one", redis_url, clock)
        left = sinks(one)
        stored = World(one.settings).archived(set())
        other = fitted(tmp_path / "other", redis_url, clock, keys_of=one.settings.home, changed=FORBIDDEN)
        assert told_apart(left, sinks(other)) == []
        assert len([name for name in left if name.startswith("fitted ")]) > 10
        assert stored != World(other.settings).archived(set()), "they did differ in what is stored for other purposes"


@dataclass(frozen=True)
class Left:
    """What three worlds left: one, one that differs in forbidden data, and one that differs in what is allowed."""

    one: dict[str, Any]
    forbidden: dict[str, Any]
    allowed: dict[str, Any]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Left:  # noqa: F811 - the fixture
    folder = tmp_path_factory.mktemp("lived")
    with a_clock() as clock:
        one = lived(folder / "one", redis_url, clock)
        told = [sinks(one)]
        for name, changed in (("forbidden", FORBIDDEN), ("allowed", frozenset({Kind.OPEN}))):
            told.append(sinks(lived(folder / name, redis_url, clock, keys_of=one.settings.home, changed=changed)))
    return Left(*told)


@pytest.mark.full
def test_a_week_in_two_worlds_that_differ_in_forbidden_data_alone_leaves_the_same_everywhere(left: Left) -> None:
    assert told_apart(left.one, left.forbidden) == []


@pytest.mark.full
def test_what_is_allowed_tells_them_apart_in_every_kind_of_sink_that_tells_of_people(left: Left) -> None:
    """Else the comparison would prove nothing."""
    apart = told_apart(left.one, left.allowed)
    kinds = {name.partition(" ")[0] for name in apart}
    assert kinds >= {"answer", "archive", "features", "redis", "predictions", "served", "mlflow", "report", "export"}
    mlflow = [name for name in apart if name.startswith("mlflow ")]
    for part in ("table metrics", "table tags", "table model_version_tags", "/manifest.json", "/evaluation.json", "/plots/",
                 "/model/", "/drift/", "/summary/"):  # fmt: skip
        assert [name for name in mlflow if part in name], part
    for page in ("retrain-", "drift-churn.html", "drift-segments.json", "consistency-"):
        assert [name for name in left.one if name.startswith("report ") and page in name], page


@pytest.mark.full
def test_every_kind_of_sink_was_written_to(left: Left) -> None:
    kinds = {name.partition(" ")[0] for name in left.one}
    assert kinds >= {"answer", "metric", "log", "audit", "ledger", "ids", "rejected", "exposures", "vitals"}
    assert [name for name in left.one if name.startswith("metric aap_consent_denials")]
    assert left.one["log"] != []
