"""Batches: every row once, in whole files, and never in the way of whoever adds it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aap.infra.parquet_writer import Batches

SCHEMA = pa.schema([pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False), pa.field("n", pa.int64())])
NOON = datetime(2017, 12, 1, 12, tzinfo=UTC)


def rows(path: Path) -> list[int]:
    return sorted(n for file in path.rglob("*.parquet") for n in pq.read_table(file)["n"].to_pylist())


def test_rows_are_written_once_one_file_a_day(tmp_path: Path) -> None:
    batches = Batches(tmp_path / "log", SCHEMA, every_s=60)
    batches.add({"time": NOON + timedelta(days=i % 2), "n": i} for i in range(10))
    batches.close()
    assert rows(tmp_path) == list(range(10))
    assert sorted(p.name for p in (tmp_path / "log").iterdir()) == ["day=2017-12-01", "day=2017-12-02"]


def test_rows_are_written_in_the_background(tmp_path: Path) -> None:
    batches = Batches(tmp_path / "log", SCHEMA, every_s=0.02)
    batches.add([{"time": NOON, "n": 1}])
    deadline = datetime.now(UTC) + timedelta(seconds=10)
    while not rows(tmp_path) and datetime.now(UTC) < deadline:
        pass
    assert rows(tmp_path) == [1]
    batches.close()


def test_rows_wait_while_the_disk_cant_be_written_and_are_dropped_and_counted_beyond_their_room(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file in the way")
    batches = Batches(tmp_path / "log", SCHEMA, every_s=60, room=3)
    batches.add({"time": NOON, "n": i} for i in range(2))
    assert not batches.flush()
    assert batches.waiting == 2
    batches.add({"time": NOON, "n": i} for i in range(2, 5))
    assert batches.dropped == 2
    (tmp_path / "log").unlink()
    batches.close()
    assert rows(tmp_path) == [0, 1, 2]


WHO = pa.schema([*SCHEMA, pa.field("who", pa.string())])


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"n": "a secret of ann's"}, "n"),
        ({"n": 1, "who": ["ann", "a secret"]}, "who"),
        ({"who": "secret \ud800"}, "who"),
    ],
)
def test_a_row_that_does_not_fit_is_dropped_does_not_block_the_rest_and_no_value_of_it_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, row: dict[str, object], column: str
) -> None:
    batches = Batches(tmp_path / "log", WHO, every_s=60)
    batches.add([{"time": NOON, **row}])
    batches.flush()
    batches.add([{"time": NOON, "n": 7}])
    batches.close()
    assert rows(tmp_path) == [7]
    assert batches.dropped == 1
    assert f"1 rows for {tmp_path / 'log'} don't fit and are dropped" in caplog.text
    assert f" in {column}." in caplog.text
    assert "secret" not in caplog.text


def test_rows_that_cant_be_written_at_the_end_are_counted_as_dropped_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").write_text("a file in the way")
    batches = Batches(tmp_path / "log", SCHEMA, every_s=60)
    batches.add({"time": NOON + timedelta(days=i % 2), "n": i} for i in range(5))
    batches.close()
    assert (batches.dropped, batches.waiting) == (5, 0)
    assert "5 rows for" in caplog.text
    assert "are lost" in caplog.text
