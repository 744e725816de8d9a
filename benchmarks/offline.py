"""`aap bench offline`: the point-in-time join, beside a bare DuckDB ASOF join and Feast's own duckdb and dask stores.

One view of ten features, a million change points of it, 100,000 label rows at random moments; the same rows once as 10,000
people with 100 change points each and once as 1,000 people with 1,000. All read one Parquet file. Feast's stores get the
same file as their source, and a data frame as ours does. Each is run `repeats` times and the median counts; Feast's dask
store runs in a process of its own, because a join of it can only be ended by ending the process.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from consent.purposes import Purpose
from feature_repo.declare import DAY_US, Aggregate, Op
from feature_repo.point_in_time import point_in_time_join
from feature_repo.views import View, make_views

__all__ = ["Depth", "run"]

_ORIGIN = 1_700_000_000_000_000
_YEAR = 365 * DAY_US
_FEATURES = 10


@dataclass(frozen=True, slots=True)
class Depth:
    """Seconds (medians) and peak memory at one number of change points a person; None where it didn't end in time."""

    ours_s: float
    bare_s: float
    feast_duckdb_s: float | None
    feast_dask_s: float | None
    ours_peak_mb: float


def run(
    *,
    depths: tuple[int, ...] = (100, 1_000),
    feature_rows: int = 1_000_000,
    label_rows: int = 100_000,
    repeats: int = 5,
    peer_limit_s: float = 60.0,
    seed: int = 0,
) -> dict[int, Depth]:
    """Measure every depth; peers that don't end within `peer_limit_s` are None."""
    found: dict[int, Depth] = {}
    with tempfile.TemporaryDirectory() as folder:
        for depth in depths:
            random = np.random.default_rng(seed)
            file = Path(folder) / f"{depth}.parquet"
            users = _write_features(file, depth=depth, rows=feature_rows, random=random)
            labels = _labels(users, label_rows, random)
            _agree(file, labels)
            with _PeakMemory() as peak:
                ours = _median(partial(_ours, file, labels), repeats)
            found[depth] = Depth(
                ours_s=ours,
                bare_s=_median(partial(_bare, file, labels), repeats),
                feast_duckdb_s=_limited("duckdb", file, labels, peer_limit_s),
                feast_dask_s=_limited("dask", file, labels, peer_limit_s),
                ours_peak_mb=round(peak.megabytes, 1),
            )
    return found


def _view() -> View:
    features = [
        Aggregate(
            event="product_purchased", op=Op.SUM, column="amount", window=f"{i + 1}d", name=f"f{i}",
            purposes=frozenset({Purpose.MARKETING_RETENTION}), description="Measured.", unit="currency",
        )
        for i in range(_FEATURES)
    ]  # fmt: skip
    return make_views(features)[0]


def _write_features(file: Path, *, depth: int, rows: int, random: np.random.Generator) -> list[str]:
    users = [f"{i:032x}" for i in range(rows // depth)]
    moments = np.sort(_ORIGIN + random.integers(0, _YEAR, size=(len(users), depth)), axis=1)
    moments += np.arange(depth)  # no person has two rows of one moment
    when = pa.array(moments.ravel(), pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    columns: dict[str, Any] = {
        "user_key": np.repeat(users, depth),
        "valid_from": when,
        "grant_start": pa.array(np.full(len(when), _ORIGIN), pa.int64()).cast(pa.timestamp("us", tz="UTC")),
    }
    columns |= {f"f{i}": random.normal(size=len(when)) for i in range(_FEATURES)}
    pq.write_table(pa.table(columns), file, compression="zstd", row_group_size=100_000)
    return users


def _labels(users: list[str], rows: int, random: np.random.Generator) -> pd.DataFrame:
    moments = _ORIGIN + random.integers(0, _YEAR, size=rows)
    when = pd.to_datetime(moments, unit="us", utc=True)
    return pd.DataFrame({"user_key": random.choice(users, size=rows), "event_timestamp": when})


def _ours(file: Path, labels: pd.DataFrame) -> np.ndarray:
    view = _view()
    moments = labels["event_timestamp"].dt.as_unit("us").astype("int64").to_numpy()
    keys = pa.array(labels["user_key"], pa.string())
    names = [f.name for f in view.numbers]
    return point_in_time_join(view, file, keys=keys, moments=moments, features=names)[0]


def _bare(file: Path, labels: pd.DataFrame) -> pa.Table:
    names = ", ".join(f"v.f{i}" for i in range(_FEATURES))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("r", pa.Table.from_pandas(labels, preserve_index=False))
        return connection.execute(
            f"SELECT r.*, {names} FROM r ASOF LEFT JOIN read_parquet('{file}') v "
            "ON r.user_key = v.user_key AND r.event_timestamp >= v.valid_from"
        ).to_arrow_table()


def _agree(file: Path, labels: pd.DataFrame) -> None:
    """What is timed answers the same: the bare join's rows, put back into order, are ours."""
    few = labels.drop_duplicates().head(1_000)
    bare = _bare(file, few).to_pandas().sort_values(["user_key", "event_timestamp"])
    ours = _ours(file, few.sort_values(["user_key", "event_timestamp"]))
    np.testing.assert_array_equal(bare[[f"f{i}" for i in range(_FEATURES)]].to_numpy(), ours)


def _limited(kind: str, file: Path, labels: pd.DataFrame, limit_s: float) -> float | None:
    """Seconds of one join by Feast's store of that kind, in a process of its own; None past the limit."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_feast, args=(kind, file, labels, sender), daemon=True)
    process.start()
    try:
        # Starting the process and Feast takes some seconds of its own, which don't count.
        return float(receiver.recv()) if receiver.poll(limit_s + 30.0) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def _feast(kind: str, file: Path, labels: pd.DataFrame, sender: Any) -> None:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64

    with tempfile.TemporaryDirectory() as folder:
        config = RepoConfig(
            project="bench", provider="local", registry=f"{folder}/registry.db", entity_key_serialization_version=3,
            online_store={"type": "sqlite", "path": f"{folder}/online.db"}, offline_store={"type": kind},
        )  # fmt: skip
        store = FeatureStore(config=config)
        user = Entity(name="user", join_keys=["user_key"], value_type=ValueType.STRING)
        view = FeatureView(
            name="bench", entities=[user], ttl=timedelta(0), online=False,
            source=FileSource(name="bench_file", path=str(file), timestamp_field="valid_from"),
            schema=[Field(name=f"f{i}", dtype=Float64) for i in range(_FEATURES)],
        )  # fmt: skip
        store.apply([user, view])
        asked = [f"bench:f{i}" for i in range(_FEATURES)]
        began = time.perf_counter()
        store.get_historical_features(entity_df=labels, features=asked).to_df()
        sender.send(time.perf_counter() - began)


def _median(action: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


class _PeakMemory:
    """The most resident memory this process has while inside, sampled every 5 ms; megabytes."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.005):
            self.megabytes = max(self.megabytes, process.memory_info().rss / 1e6)
