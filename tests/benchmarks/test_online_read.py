"""The benchmarks run, and say what they measured in the promised shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import consent_check, materialize, online_read
from benchmarks.cli import app
from benchmarks.support.report_keys import check_keys


def test_reading_is_measured_beside_feast_and_a_bare_mget(home: Path) -> None:
    report = online_read.run(people=1_000, sizes=(1, 10)).to_dict()
    check_keys("online", report)
    assert list(report["rows"]) == ["1", "10"]
    told = {"ours_p50_ms", "ours_p99_ms", "feast_p50_ms", "bare_p50_ms", "vs_feast", "vs_bare"}
    assert all(told <= set(line) and all(v > 0 for v in line.values()) for line in report["rows"].values())


def test_the_cost_of_checking_consent_is_measured_on_the_same_rows(home: Path) -> None:
    report = consent_check.run(people=1_000, sizes=(1, 10)).to_dict()
    check_keys("consent", report)
    assert list(report["rows"]) == ["1", "10"]
    for line in report["rows"].values():
        assert set(line) == {"with_p50_ms", "without_p50_ms", "added_percent"}
        assert line["added_percent"] == pytest.approx(
            100 * (line["with_p50_ms"] / line["without_p50_ms"] - 1), abs=0.06
        )


def test_materializing_is_measured_beside_feast(home: Path) -> None:
    report = materialize.run(people=1_000, feast_people=100)
    assert min(report.ours_rows_per_s, report.with_changes_rows_per_s, report.feast_rows_per_s) > 0


def test_as_json_the_last_line_is_one_object(home: Path) -> None:
    done = CliRunner().invoke(app, ["materialize", "--people", "1000", "--json"])
    assert done.exception is None, done.exception
    assert json.loads(done.stdout.strip().splitlines()[-1])["people"] == 1_000
