"""`aap bench offline`: 100,000 label rows joined with 1,000,000 change points of nine features, as of each row's moment.

*Ours* is Feast's `get_historical_features` over our offline store: consent as it is now, input order, every row answered.
*Training frame* is the whole door: the same join, further purposes, reasons for each row left out, the Merkle root of the
rows used. *Bare* is DuckDB's ASOF join of the same rows from one file, in whatever order they come, obeying nothing.
*Feast's* are its own duckdb and dask stores on that file.

Ours and bare take turns in one process; Feast's go in a process of their own each, under limits of time and memory.
Memory is the peak of a process that does nothing but ours.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64

from aap.config import load_settings
from aap.features.feast.store import apply, open_store
from aap.features.purpose_context import purpose_in_force
from aap.features.retrieval import open_retrieval
from aap.infra.duckdb import open_duckdb
from benchmarks.support.child_process import Unfinished, measure_in_child
from benchmarks.support.environment import describe
from benchmarks.support.synthetic_history import PURPOSE, SERVICE, VIEW, History, make_history
from benchmarks.support.synthetic_users import a_server_of_its_own

__all__ = ["DEPTHS", "Depth", "OfflineReport", "run"]

DEPTHS = (100, 1_000)
"""Change points a person."""
_LIMIT_MB = 8_000
"""For each of Feast's stores."""
_REFS = [f"{VIEW.name}:{name}" for name in SERVICE.features]


@dataclass(frozen=True, slots=True)
class Depth:
    """Seconds of wall clock, medians for what took turns; None where a limit was reached, which `unfinished` names."""

    ours_s: float
    training_frame_s: float
    bare_s: float
    feast_duckdb_s: float | None
    feast_dask_s: float | None
    ours_cpu_s: float
    """Processor time of all threads, as the others: what a machine that others use too takes nothing away from."""
    training_frame_cpu_s: float
    bare_cpu_s: float
    feast_duckdb_cpu_s: float | None
    feast_dask_cpu_s: float | None
    ours_peak_mb: int
    unfinished: dict[str, str]

    @property
    def vs_bare(self) -> float:
        """How many times the bare join's time."""
        return round(self.ours_s / self.bare_s, 2)

    @property
    def vs_bare_cpu(self) -> float:
        """How many times the bare join's processor time."""
        return round(self.ours_cpu_s / self.bare_cpu_s, 2)


@dataclass(frozen=True, slots=True)
class OfflineReport:
    """What was measured, by depth."""

    machine: str
    labels: int
    rows: int
    limit_s: float
    depth: dict[int, Depth]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        lines = {
            str(depth): {**asdict(line), "vs_bare": line.vs_bare, "vs_bare_cpu": line.vs_bare_cpu}
            for depth, line in self.depth.items()
        }
        return {**asdict(self), "depth": lines}


def run(
    *,
    now: datetime,
    labels: int = 100_000,
    rows: int = 1_000_000,
    depths: Sequence[int] = DEPTHS,
    rounds: int = 5,
    limit_s: float = 120.0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> OfflineReport:
    """Measure; some minutes, most of them Feast's. `limit_s` is for each of its stores at each depth."""
    lines = {}
    for place, depth in enumerate(depths):
        with a_server_of_its_own() as (settings, client):
            history = make_history(settings, rows=rows, labels=labels, depth=depth, now=now)
            machine = describe(client)
            lines[depth] = _measure(settings.home, history, now=now, rounds=rounds, limit_s=limit_s)
        progress(place + 1, len(depths))
    return OfflineReport(machine, labels, rows, limit_s, lines)


def _measure(home: Path, history: History, *, now: datetime, rounds: int, limit_s: float) -> Depth:
    asked = home / "labels.parquet"
    history.labels.to_parquet(asked)
    with _quietly():
        apply(load_settings(home))
    contenders = {
        "ours": lambda: _ours(home, history.labels),
        "frame": lambda: _frame(home, history.labels, now),
        "bare": lambda: _bare(history),
    }
    answered = {name: contender() for name, contender in contenders.items()}  # and each is warm
    _agree(answered["ours"], answered["bare"])
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in contenders if turn % 2 else reversed(contenders):
            started, worked = time.perf_counter(), time.process_time()
            contenders[name]()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - worked)
    alone = measure_in_child(_ours_from_disk, home, asked, limit_s=600.0)
    seconds: dict[str, tuple[float | None, float | None]] = {}
    unfinished: dict[str, str] = {}
    for kind in ("duckdb", "dask"):
        try:
            found = measure_in_child(
                _feast, kind, history.file, asked, home / kind, limit_s=limit_s, limit_mb=_LIMIT_MB
            )
            seconds[kind] = found.result
        except Unfinished as limit:
            seconds[kind], unfinished[kind] = (None, None), str(limit)
    return Depth(
        ours_s=_median(wall["ours"]),
        training_frame_s=_median(wall["frame"]),
        bare_s=_median(wall["bare"]),
        feast_duckdb_s=seconds["duckdb"][0],
        feast_dask_s=seconds["dask"][0],
        ours_cpu_s=_median(cpu["ours"]),
        training_frame_cpu_s=_median(cpu["frame"]),
        bare_cpu_s=_median(cpu["bare"]),
        feast_duckdb_cpu_s=seconds["duckdb"][1],
        feast_dask_cpu_s=seconds["dask"][1],
        ours_peak_mb=alone.peak_mb,
        unfinished=unfinished,
    )


def _ours(home: Path, labels: pd.DataFrame) -> pd.DataFrame:
    with purpose_in_force(PURPOSE), _quietly():
        return open_store(load_settings(home)).get_historical_features(entity_df=labels, features=_REFS).to_df()


def _frame(home: Path, labels: pd.DataFrame, now: datetime) -> pd.DataFrame:
    asked = labels.rename(columns={"event_timestamp": "as_of"})
    return open_retrieval(load_settings(home)).training_frame(asked, service=SERVICE.name, as_of=now).data


def _bare(history: History) -> pd.DataFrame:
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("labels", history.labels)
        return connection.execute(
            f"SELECT l.*, {', '.join(f'v.{n}' for n in SERVICE.features)} FROM labels l "
            f"ASOF LEFT JOIN read_parquet('{history.file}') v "
            "ON l.user_key = v.user_key AND l.event_timestamp >= v.valid_from"
        ).df()


def _agree(ours: pd.DataFrame, bare: pd.DataFrame) -> None:
    """Where consent lets ours answer, it must be what the bare join says."""
    name = "amount_sum_90d"
    meant = bare.sort_values("label")[name].to_numpy()
    told = ours[name].to_numpy()
    known = ~pd.isna(told)
    if ours["label"].tolist() != list(range(len(ours))) or not known.mean() > 0.9 or (told != meant)[known].any():
        raise RuntimeError("Our join and the bare one disagree.")


def _ours_from_disk(home: Path, asked: Path) -> int:
    return len(_ours(home, pd.read_parquet(asked)))


def _feast(kind: str, file: Path, asked: Path, folder: Path) -> tuple[float, float]:
    """Seconds and processor seconds of one join by one of Feast's own stores."""
    folder.mkdir()
    store = FeatureStore(
        config=RepoConfig(
            project="peer",
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": kind},
            online_store=None,
            entity_key_serialization_version=3,
        )
    )
    user = Entity(name="user", join_keys=["user_key"], value_type=ValueType.STRING)
    view = FeatureView(
        name=VIEW.name,
        entities=[user],
        ttl=timedelta(days=400),
        schema=[Field(name=name, dtype=Float64) for name in SERVICE.features],
        source=FileSource(name="file", path=str(file), timestamp_field="valid_from"),
    )
    labels = pd.read_parquet(asked)
    with _quietly():
        store.apply([user, view])
        started, worked = time.perf_counter(), time.process_time()
        found = store.get_historical_features(entity_df=labels, features=_REFS).to_df()
        seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    # Its dask store answers label rows of one person and moment once: a few are missing, and fewer of a larger table.
    if not 0.95 < len(found) / len(labels) < 1.1:
        raise RuntimeError(f"Feast's {kind} store answered {len(found)} of {len(labels)} rows.")
    return round(seconds, 3), round(cpu, 3)


def _median(timings: Sequence[float]) -> float:
    return round(median(timings), 3)


@contextlib.contextmanager
def _quietly() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
