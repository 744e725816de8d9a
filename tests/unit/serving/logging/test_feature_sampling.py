"""Of what is served a share is kept: every vector with the same probability, never in the way of an answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from aap.config import Settings
from aap.consent.policy import Decision, Reason
from aap.consent.purposes import Purpose
from aap.features.datasets import Status, Vectors
from aap.features.quality.served_vectors import SCHEMA, Served
from aap.features.views import service
from aap.serving.logging.feature_sampling import SampledFeatures, ServedSample

NOW = datetime(2024, 7, 1, tzinfo=UTC)
FEATURES = service("segments").features


def vectors(count: int, *, allowed: bool = True) -> Vectors:
    status = Status.PRESENT if allowed else Status.DENIED
    decision = Decision(allowed, Purpose.ANALYTICS_REPORTING, Reason.GRANTED if allowed else Reason.REFUSED, 7)
    shape = (count, len(FEATURES))
    return Vectors(
        FEATURES, np.ones(shape), np.full(shape, status, dtype=np.uint8), [decision] * count,
        as_of=np.full(count, 5), grant_start=np.full(count, 3),
    )  # fmt: skip


def kept(folder: Path) -> int:
    return Served(folder, timedelta(days=30)).count()


def offered(sample: ServedSample, folder: Path, *, calls: int, people: int) -> int:
    keys = [f"{i:032x}" for i in range(people)]
    for _ in range(calls):
        sample.offer(keys, vectors(people), service="segments", now=NOW)
    sample.flush()
    return kept(folder)


@pytest.mark.parametrize(("calls", "people"), [(40, 500), (10_000, 2)])
def test_about_the_share_that_was_set_is_kept_whether_calls_are_large_or_small(
    tmp_path: Path, calls: int, people: int
) -> None:
    sample = ServedSample(tmp_path, rate=0.02, every_s=60)
    found = offered(sample, tmp_path, calls=calls, people=people)
    sample.close()
    assert abs(found - 400) < 6 * 20, "within six standard deviations of 2 % of 20,000"


def test_everything_or_nothing_can_be_kept(tmp_path: Path) -> None:
    for rate, count in ((1.0, 30), (0.0, 0)):
        sample = ServedSample(tmp_path / str(rate), rate=rate, every_s=60)
        assert offered(sample, tmp_path / str(rate), calls=3, people=10) == count
        sample.close()


def test_what_is_kept_says_who_was_served_what_when_and_under_which_declarations_and_consent(tmp_path: Path) -> None:
    sample = ServedSample(tmp_path, rate=1.0, every_s=60)
    offered(sample, tmp_path, calls=1, people=1)
    sample.close()
    (file,) = tmp_path.rglob("*.parquet")
    (row,) = pq.read_table(file, schema=SCHEMA, partitioning=None).to_pylist()
    assert (row["user_key"], row["service"], row["purpose"]) == ("0" * 32, "segments", "analytics.reporting")
    assert (row["time"], row["ledger_seq"], row["features"]) == (NOW, 7, list(FEATURES))
    assert (row["values"], row["statuses"], row["sequences"]) == ([1.0] * 9, [Status.PRESENT] * 9, [])
    assert (row["as_of"].microsecond, row["grant_start"].microsecond) == (5, 3)
    assert row["fingerprint"] > 0
    assert file.stat().st_mode & 0o077 == 0


def test_nobody_who_was_denied_is_in_it(tmp_path: Path) -> None:
    sample = ServedSample(tmp_path, rate=1.0, every_s=60)
    sample.offer(["a" * 32], vectors(1, allowed=False), service="segments", now=NOW)
    sample.close()
    assert kept(tmp_path) == 0


def test_while_the_disk_cant_be_written_answers_go_on_and_what_finds_no_room_is_counted(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")

    class Store:
        def online_vectors(self, user_keys: list[str], *, service: str, now: datetime) -> Vectors:
            return vectors(len(user_keys))

    sample = ServedSample(tmp_path / "in-the-way", rate=1.0, every_s=60)
    features = SampledFeatures(Store(), sample)  # type: ignore[arg-type]
    for _ in range(21):
        answer = features.online_vectors([f"{i:032x}" for i in range(1_000)], service="segments", now=NOW)
        assert len(answer.values) == 1_000
    assert sample.dropped == 1_000
    (tmp_path / "in-the-way").unlink()
    sample.close()
    assert kept(tmp_path / "in-the-way") == 20_000


def test_a_rate_that_is_no_share_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Settings(served_sample_rate=2)
