"""The offline benchmarks measure what they say, and report it in the form that is promised."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aap.config import Settings
from benchmarks import feature_build, point_in_time_join
from benchmarks.support.report_keys import check_keys


def test_a_small_join_is_measured_beside_the_bare_one_and_what_does_not_end_is_null(settings: Settings) -> None:
    report = point_in_time_join.run(
        now=datetime.now(UTC), labels=1_000, rows=20_000, depths=(100,), rounds=1, limit_s=0.0
    )
    check_keys("offline", report.to_dict())
    told = report.to_dict()["depth"]["100"]
    assert set(told) >= {"ours_s", "bare_s", "feast_duckdb_s", "feast_dask_s", "ours_peak_mb"}
    assert min(told["ours_s"], told["training_frame_s"], told["bare_s"]) > 0
    assert (told["feast_duckdb_s"], told["feast_dask_s"]) == (None, None)
    assert told["ours_peak_mb"] > 50


@pytest.mark.full
def test_feast_s_own_stores_answer_the_same_labels(settings: Settings) -> None:
    report = point_in_time_join.run(
        now=datetime.now(UTC), labels=1_000, rows=20_000, depths=(100,), rounds=1, limit_s=120.0
    )
    line = report.depth[100]
    assert line.feast_duckdb_s is not None
    assert line.feast_dask_s is not None


@pytest.mark.full
@pytest.mark.spark
def test_a_year_is_built_by_both_engines_and_twice_the_people_make_twice_the_events(settings: Settings) -> None:
    before = set(Path(tempfile.gettempdir()).glob("aap-bench-*"))
    told = feature_build.run(copies=2, one_in=10).to_dict()
    check_keys("build", told)
    assert set(told) >= {"duckdb", "spark", "duckdb_x10", "growth"}
    assert told["duckdb"]["events"] == told["spark"]["events"] > 100_000
    assert told["duckdb"]["change_points"] == told["spark"]["change_points"] > 100_000
    assert told["duckdb_x10"]["events"] == 2 * told["duckdb"]["events"]
    assert told["duckdb_x10"]["change_points"] > 1.3 * told["duckdb"]["change_points"]
    assert set(Path(tempfile.gettempdir()).glob("aap-bench-*")) == before
