"""Verifying: the values of a sample of people at random moments, computed anew by every engine and compared.

Nothing built is read: each engine starts from the archive and the ledger. Counts must be equal, other numbers to 1e-9
relative, and an engine that knows nothing of a person at a moment must not be alone with that.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from aap.config import Settings
from aap.events.archive import Archive
from aap.features.declarations import Aggregate, Entity
from aap.features.engines.base import DuckDBBatch, Engine, duckdb_engine
from aap.features.engines.spark import spark_engine, spark_session, why_unavailable
from aap.features.errors import EngineUnavailable, NothingToVerify
from aap.features.offline.build import Standing, admit_events, build_one, current_spans
from aap.features.offline.change_points import event_table
from aap.features.offline.point_in_time_join import point_in_time_join
from aap.features.offline.store import built_view
from aap.features.quality.sample import Sample
from aap.features.quality.stream_engine import LiveMemoryValues
from aap.features.quality.tolerance import differ
from aap.features.views import View, all_views
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import Folder
from aap.infra.timestamps import to_micros

__all__ = ["BatchValues", "Comparison", "FeatureCount", "Sample", "ValuesAt", "engines", "verify"]


class ValuesAt(Protocol):
    """An engine, as verification sees it: values for (person, moment)."""

    @property
    def name(self) -> str:
        """How the report calls it."""

    def values(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Values float64 `[n, n_numbers]` in the order of `view.numbers` (times since a moment in days, NaN for null),
        and `found` bool `[n]`.
        """


@dataclass(frozen=True, slots=True)
class BatchValues:
    """A batch engine: its change points, joined."""

    name: str
    engine: Engine
    scratch: Path | None = None
    """Where it may write; a folder that its executors see too."""

    def values(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """See `ValuesAt`."""
        if self.scratch is not None:
            self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            view = sample.view
            build_one(
                view, archive=sample.archive, folder=Path(folder), standing=sample.standing, as_of=sample.as_of,
                engine=self.engine,
            )  # fmt: skip
            values, found, _ = point_in_time_join(
                built_view(Folder.at(folder), view), keys=pa.array(sample.keys, pa.string()), moments=sample.moments,
                features=[f.name for f in view.numbers],
            )  # fmt: skip
        return values, found


@dataclass(frozen=True, slots=True)
class FeatureCount:
    """How one feature of one view compared."""

    view: str
    feature: str
    checked: int
    mismatches: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What verification found. A value checked is one answer of one engine, held against the first engine's."""

    engines: tuple[str, ...]
    features: tuple[FeatureCount, ...] = ()
    examples: tuple[str, ...] = ()
    """The first mismatches, one sentence each, without naming the person."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Engines that could not be asked, and why."""

    @property
    def checked(self) -> int:
        """Values compared."""
        return sum(f.checked for f in self.features)

    @property
    def mismatches(self) -> int:
        """Values that differ."""
        return sum(f.mismatches for f in self.features)


def engines(settings: Settings, *, asked: Sequence[str] = ()) -> tuple[list[ValuesAt], dict[str, str]]:
    """The engines called `asked`, or all that this machine can run; and of the others, why not.

    Raises `EngineUnavailable` for one that was asked for and is not there. To plug in an engine, add its name here.
    """
    scratch = settings.home / "run" / "verify"
    found: list[ValuesAt] = []
    skipped: dict[str, str] = {}
    for name in asked or ("duckdb", "stream", "spark"):
        if name == "duckdb":
            found.append(BatchValues("duckdb", duckdb_engine, scratch))
        elif name == "stream":
            found.append(LiveMemoryValues())
        elif name == "spark":
            if not asked and (missing := why_unavailable(settings.spark_master)):
                skipped["spark"] = missing
                continue
            found.append(BatchValues("spark", spark_engine(spark_session(settings.spark_master)), scratch))
        else:
            raise EngineUnavailable(f"{name!r} is not an engine; choose from duckdb, stream and spark.")
    return found, skipped


def verify(
    asked: Sequence[ValuesAt],
    *,
    archive: Archive,
    standing: Standing,
    as_of: datetime,
    people: int,
    moments: int,
    random: np.random.Generator,
    skipped: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare the engines on every view of people: for each, `people` of those who allow it at `moments` moments each.

    Raises `NothingToVerify` with fewer than two engines or nobody who allows anything.
    """
    if len(asked) < 2:
        why = " ".join(skipped.values()) if skipped else "Ask for two engines or more."
        raise NothingToVerify(f"There is no second engine to compare with. {why}")
    counts: list[FeatureCount] = []
    examples: list[str] = []
    for view in (v for v in all_views() if v.entity is Entity.USER):
        sample = _sample(view, archive, standing, as_of=as_of, people=people, moments=moments, random=random)
        if not sample.keys:
            continue
        answers = [engine.values(sample) for engine in asked]
        for engine, answer in zip(asked[1:], answers[1:], strict=True):
            (one, one_found), (other, other_found) = answers[0], answer
            both, neither = (one_found & other_found)[:, None], (~one_found & ~other_found)[:, None]
            wrong = ~((both & ~differ(view.numbers, one, other)) | neither)
            counts += [
                FeatureCount(view.name, f.name, len(wrong), int(wrong[:, i].sum())) for i, f in enumerate(view.numbers)
            ]
            examples += _told(view, sample, (asked[0].name, answers[0]), (engine.name, answer), wrong)
    if not counts:
        raise NothingToVerify("Nobody allows any purpose a feature is computed for, so there is nothing to compare.")
    return Comparison(tuple(e.name for e in asked), _together(counts), tuple(examples[:10]), dict(skipped or {}))


def _sample(
    view: View, archive: Archive, standing: Standing, *, as_of: datetime, people: int, moments: int,
    random: np.random.Generator,
) -> Sample:  # fmt: skip
    """Half of the moments are anywhere since the person's grant, half where an event of theirs comes to count, ± 1 µs."""
    spans = current_spans(standing, view.purpose, as_of=as_of).sort_by("k")
    chosen = np.sort(random.choice(len(spans), size=min(people, len(spans)), replace=False))
    keys = [k for k in spans["k"].take(pa.array(chosen)).to_pylist() if k is not None]
    starts = spans["start"].take(pa.array(chosen)).to_pylist()
    few = {k: standing[k] for k in keys}
    events = _event_moments(view, archive, few, as_of=as_of)
    end = to_micros(as_of)
    questions: list[tuple[str, int]] = []
    for key, start in zip(keys, starts, strict=True):
        anywhere = random.integers(start, end, size=moments, endpoint=True)
        theirs = events.get(key, anywhere)
        near = random.choice(theirs, size=moments) + random.integers(-1, 2, size=moments)
        questions += [(key, int(t)) for t in np.where(np.arange(moments) % 2 == 0, anywhere, near)]
    asked = np.array([t for _, t in questions], dtype=np.int64)
    return Sample(view, tuple(k for k, _ in questions), asked, archive, few, as_of)


def _event_moments(view: View, archive: Archive, standing: Standing, *, as_of: datetime) -> dict[str, np.ndarray]:
    found: dict[str, list[int]] = {}
    with open_duckdb() as connection:
        admit_events(DuckDBBatch(connection), view, archive=archive, standing=standing, as_of=as_of)
        for event in sorted({f.event for f in view.features if isinstance(f, Aggregate)}):
            for key, when in connection.execute(f"SELECT k, a FROM {event_table(event)} ORDER BY k, a").fetchall():
                found.setdefault(key, []).append(when)
    return {key: np.array(when, dtype=np.int64) for key, when in found.items()}


def _told(
    view: View,
    sample: Sample,
    one: tuple[str, tuple[np.ndarray, np.ndarray]],
    other: tuple[str, tuple[np.ndarray, np.ndarray]],
    wrong: np.ndarray,
) -> Iterator[str]:
    for row, column in np.argwhere(wrong)[:10]:
        said = [f"{v[row, column]:.12g}" if found[row] else "nothing" for _, (v, found) in (one, other)]
        yield (
            f"{view.name}.{view.numbers[column].name} at {sample.moments[row]} µs is {said[0]} by {one[0]} "
            f"and {said[1]} by {other[0]}."
        )


def _together(counts: Sequence[FeatureCount]) -> tuple[FeatureCount, ...]:
    """One count a feature, over all pairs of engines."""
    checked: Counter[tuple[str, str]] = Counter()
    mismatches: Counter[tuple[str, str]] = Counter()
    for c in counts:
        checked[c.view, c.feature] += c.checked
        mismatches[c.view, c.feature] += c.mismatches
    return tuple(FeatureCount(view, name, n, mismatches[view, name]) for (view, name), n in checked.items())
