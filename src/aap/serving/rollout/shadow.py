"""Shadow traffic: a challenger answers a copy of real calls, its answers are dropped, and only how they differ is kept.

A call hands over what its model was asked, waits for nothing, and goes on; when the queue is full the copy is dropped and
counted. In a thread of its own both champion and challenger are asked the same, one after the other, so that their times
compare. What is kept are sums, so there is nobody in them. It is for people who were answered: those whose consent
covers this use, now.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from aap.infra.duckdb import open_duckdb
from aap.infra.parquet_writer import Batches
from aap.serving.errors import ServingError
from aap.serving.model_cache import InUse

__all__ = ["SCHEMA", "Challengers", "Compared", "Shadow", "read_shadow"]

_log = logging.getLogger("aap.shadow")
_ROOM = 256

SCHEMA = pa.schema(
    [
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("champion", pa.string(), nullable=False),
        pa.field("challenger", pa.string(), nullable=False),
        pa.field("calls", pa.int64(), nullable=False),
        pa.field("people", pa.int64(), nullable=False),
        pa.field("errors", pa.int64(), nullable=False),
        pa.field("dropped", pa.int64(), nullable=False),
        pa.field("difference", pa.float64(), nullable=False),
        pa.field("largest", pa.float64(), nullable=False),
        pa.field("champion_ms", pa.float64(), nullable=False),
        pa.field("challenger_ms", pa.float64(), nullable=False),
    ]
)
"""`difference` is the sum over people of: |score − score|; 1 where the segment is another; the share of items that the
challenger's list lacks."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One challenger beside its champion, over all copies so far; means are None before there is anything."""

    model: str
    champion: str
    challenger: str
    calls: int
    people: int
    errors: int
    dropped: int
    difference: float | None
    """Mean over people: of |score − score|, of another segment (0 or 1), or of the share of items that differ."""
    largest: float
    champion_ms: float | None
    """Mean of a call."""
    challenger_ms: float | None


class _Models(Protocol):
    def get(self, name: str) -> InUse: ...


class Challengers:
    """A `aap.modeling.registry.registry.Registry` whose champions are the challengers, for a second `ModelsInUse`."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry

    def champion(self, name: str) -> Any:
        """The challenger of `name`, or None."""
        return self._registry.challenger(name)

    def previous(self, name: str) -> Any:
        """Nobody challenged before."""
        return None

    def state(self) -> object | None:
        """What differs after every write to the registry."""
        state: object | None = self._registry.state()
        return state

    def note_serving(self, version: Any, /, *, refusal: str | None) -> None:
        """Keep in the registry why the version can't answer, or that it can."""
        self._registry.note_serving(version, refusal=refusal)

    def load(self, version: Any, /) -> Any:
        """Load it, its hash checked."""
        return self._registry.load(version)


@dataclass(slots=True)
class _Sums:
    calls: int = 0
    people: int = 0
    errors: int = 0
    dropped: int = 0
    difference: float = 0.0
    largest: float = 0.0
    champion_ms: float = 0.0
    challenger_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class _Copy:
    used: InUse
    ask: Callable[[Any], Sequence[Any] | np.ndarray]


class Shadow:
    """Takes copies of a `share` of calls, 0 to 1, and asks the `challengers`; sums are written under `folder`."""

    def __init__(self, challengers: _Models, *, folder: Path, share: float, room: int = _ROOM) -> None:
        self._challengers, self._share = challengers, share
        self._queue: queue.Queue[_Copy | None] = queue.Queue(room)
        self._batches = Batches(folder, SCHEMA, every_s=2.0)
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, str, str], _Sums] = {}
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, used: InUse, ask: Callable[[Any], Sequence[Any] | np.ndarray]) -> None:
        """Take a copy: `ask` puts the call's question to any model of this kind. Returns at once, and never raises."""
        if self._share <= 0 or random.random() >= self._share:
            return
        try:
            challenger = self._challengers.get(used.name)
        except ServingError:
            return  # there is no challenger
        try:
            self._queue.put_nowait(_Copy(used, ask))
        except queue.Full:
            self._add(used, challenger, dropped=1)

    def write(self, *, now: datetime) -> None:
        """Hand over what was summed since the last time."""
        with self._lock:
            sums, self._sums = self._sums, {}
        self._batches.add(
            {"time": now, "model": model, "champion": champion, "challenger": challenger}
            | {name: getattr(s, name) for name in _Sums.__slots__}
            for (model, champion, challenger), s in sums.items()
        )

    def close(self, *, now: datetime) -> None:
        """Answer what waits, for five seconds at most, write, and stop."""
        with contextlib.suppress(queue.Full):  # a challenger that hangs must not keep the service from stopping
            self._queue.put(None, timeout=5.0)
            self._thread.join(timeout=5.0)
        self.write(now=now)
        self._batches.close()

    def _run(self) -> None:
        while (copy := self._queue.get()) is not None:
            try:
                challenger = self._challengers.get(copy.used.name)
            except ServingError:
                continue
            try:
                self._compare(copy, challenger)
            except Exception as error:  # whatever a challenger does, it does to nobody
                self._add(copy.used, challenger, calls=1, errors=1)
                _log.warning("Challenger %s %s failed: %s.", challenger.name, challenger.version, type(error).__name__)

    def _compare(self, copy: _Copy, challenger: InUse) -> None:
        ours, champion_ms = _timed(copy.ask, copy.used.model)
        challenger.require(copy.used.model.features)
        theirs, challenger_ms = _timed(copy.ask, challenger.model)
        apart = [_apart(a, b) for a, b in zip(ours, theirs, strict=True)]
        self._add(
            copy.used,
            challenger,
            calls=1,
            people=len(apart),
            difference=sum(apart),
            largest=max(apart, default=0.0),
            champion_ms=champion_ms,
            challenger_ms=challenger_ms,
        )

    def _add(self, used: InUse, challenger: InUse, *, largest: float = 0.0, **more: float) -> None:
        with self._lock:
            held = self._sums.setdefault((used.name, used.version, challenger.version), _Sums())
            for name, value in more.items():
                setattr(held, name, getattr(held, name) + value)
            held.largest = max(held.largest, largest)


def read_shadow(folder: Path) -> list[Compared]:
    """What the files under `folder` add up to, one entry a pair of versions."""
    if not any(folder.glob("day=*/*.parquet")):
        return []
    files = str(folder / "day=*" / "*.parquet").replace("'", "''")
    with open_duckdb() as connection:
        rows = connection.execute(
            "SELECT model, champion, challenger, sum(calls)::BIGINT, sum(people)::BIGINT, sum(errors)::BIGINT, "
            "sum(dropped)::BIGINT, sum(difference) / nullif(sum(people), 0), max(largest), "
            "sum(champion_ms) / nullif(sum(calls) - sum(errors), 0), "
            "sum(challenger_ms) / nullif(sum(calls) - sum(errors), 0) "
            f"FROM read_parquet('{files}', hive_partitioning = false) GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    return [Compared(*row) for row in rows]


def _timed(ask: Callable[[Any], Any], model: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    found = ask(model)
    return found, (time.perf_counter() - started) * 1_000


def _apart(ours: Any, theirs: Any) -> float:
    """How far two answers to the same question are apart, from 0."""
    if isinstance(ours, int | float | np.floating):
        apart = abs(float(ours) - float(theirs))
        if not np.isfinite(apart):
            raise ValueError("a score is not a number")
        return apart
    if isinstance(ours, Sequence):
        items, others = {r.item_id for r in ours}, {r.item_id for r in theirs}
        return len(items - others) / max(1, len(items))
    return float(ours.name != theirs.name)
