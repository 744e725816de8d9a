"""What the console shows: the state of the platform, gathered from every store that has a part of it.

A section whose store can't be read carries the sentence that says so, and the others are gathered all the same. There is
no personal value in it, and a count of fewer than ten people (or of all but fewer than ten) is not told.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from aap.config import Settings
from aap.consent.ledger.ledger import Ledger
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.experiments.analysis.report import sentence
from aap.experiments.service import Line, open_experiments
from aap.features.offline.build import built_moments
from aap.infra.object_store import features_folder
from aap.infra.paths import Layout
from aap.modeling.catalog import model_classes
from aap.modeling.registry.registry import open_registry
from aap.serving.errors import status_and_sentence

__all__ = [
    "FEWEST_PEOPLE",
    "Consistent",
    "Console",
    "Curve",
    "Denied",
    "Drift",
    "Freshness",
    "Latency",
    "Permission",
    "Running",
    "Section",
    "Version",
    "gather",
    "hidden",
]

FEWEST_PEOPLE = 10
"""Groups of fewer people are not told, for a small group can be somebody."""

_NEWEST = 3
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Section(Generic[_T]):
    """What one store had to say; `problem` is the sentence when it can't be read, and `rows` is empty then."""

    rows: tuple[_T, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model, and what the gate said of it."""

    model: str
    version: int
    aliases: tuple[str, ...]
    as_of: str
    reasons: tuple[str, ...]
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Curve:
    """A variant's lift over control: shares (0.1 is 10 %) at each look, in days since the first exposure."""

    variant: str
    says: str
    days: tuple[float, ...]
    lift: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """One experiment."""

    name: str
    state: str
    people: dict[str, int]
    metric: str
    why_stopped: str | None
    split: str
    """What is wrong with the split, or nothing."""
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True)
class Freshness:
    """When a view's features were last built, and how long ago in hours."""

    view: str
    as_of: datetime
    hours: float


@dataclass(frozen=True, slots=True)
class Consistent:
    """The newest consistency check of served values."""

    report: str
    checked: int
    mismatches: int
    missing: int


@dataclass(frozen=True, slots=True)
class Permission:
    """How many of the people who are known permit a purpose now; both None where that would tell of few people."""

    purpose: str
    permit: int | None
    known: int | None


@dataclass(frozen=True, slots=True)
class Denied:
    """Answers that consent denied since the service started."""

    endpoint: str
    purpose: str
    reason: str
    answers: int


@dataclass(frozen=True, slots=True)
class Drift:
    """One service's drift in the newest retrain."""

    service: str
    compared: int
    drifted: dict[str, float]
    """Feature → population stability index."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Calls of one endpoint since the service started. A quantile is the upper end of its bucket in seconds."""

    endpoint: str
    calls: int
    median: float
    p99: float
    buckets: tuple[tuple[float, int], ...]
    """Upper end in seconds, calls in the bucket."""


@dataclass(frozen=True, slots=True)
class Console:
    """Everything on the page, at the moment `now`."""

    now: datetime
    models: Section[Version]
    experiments: Section[Running]
    freshness: Section[Freshness]
    consistency: Section[Consistent]
    consent: Section[Permission]
    denials: Section[Denied]
    drift: Section[Drift]
    latency: Section[Latency]


def gather(settings: Settings, *, now: datetime, counted: str = "") -> Console:
    """Ask every store. `counted` is the service's metrics page, or nothing where no service runs. Never raises."""
    reports = Layout(settings.home).reports
    return Console(
        now,
        _section(lambda: _models(settings)),
        _section(lambda: _experiments(settings, now=now)),
        _section(lambda: _freshness(settings, now=now)),
        _section(lambda: _consistency(reports)),
        _section(lambda: _consent(open_ledger(settings), now=now)),
        _section(lambda: _denials(counted)),
        _section(lambda: _drift(reports)),
        _section(lambda: _latency(counted)),
    )


def hidden(count: int, *, of: int | None = None) -> bool:
    """Whether `count` people, or the rest of the people it is a part of, are too few to be told."""
    few = 0 < count < FEWEST_PEOPLE
    return few if of is None else few or 0 < of - count < FEWEST_PEOPLE or 0 < of < FEWEST_PEOPLE


def _section(ask: Callable[[], Iterable[_T]]) -> Section[_T]:
    try:
        return Section(tuple(ask()))
    except Exception as error:  # one store that is down must not hide the others
        return Section((), status_and_sentence(error)[1])


def _models(settings: Settings) -> list[Version]:
    registry = open_registry(settings)
    return [
        Version(
            v.name,
            v.version,
            v.aliases,
            v.tags.get("as_of", "")[:16].replace("T", " "),
            tuple(json.loads(v.tags.get("promotion_reasons", "[]"))),
            v.refusal,
        )
        for name in model_classes()
        for rank, v in enumerate(registry.versions(name))
        if rank < _NEWEST or v.aliases
    ]


def _experiments(settings: Settings, *, now: datetime) -> list[Running]:
    opened = open_experiments(settings)
    return [_running(line, opened, now=now) for line in opened.all(as_of=now, now=now) if line.flag.split]


def _running(line: Line, opened: Any, *, now: datetime) -> Running:
    found = opened.readout(line.flag.name, as_of=now, now=now, act=False)
    first = found.first_exposure or now
    days = tuple((at - first).total_seconds() / 86_400 for at in found.times)
    curves = tuple(
        Curve(
            c.variant,
            sentence(found, c),
            days,
            *(tuple(float(x) for x in part) for part in (c.curve.lift, c.curve.lift_low, c.curve.lift_high)),
        )
        for c in found.comparisons
        if c.curve.people[-1] >= FEWEST_PEOPLE
    )
    why = line.stop.reason if line.stop else None
    few = any(hidden(n) for n in line.people.values())  # the sentence repeats the counts
    return Running(
        line.flag.name, line.state, line.people, line.plan.metric, why, "" if few else found.split.why, curves
    )


def _freshness(settings: Settings, *, now: datetime) -> list[Freshness]:
    built = built_moments(features_folder(settings))
    return [Freshness(view, at, (now - at).total_seconds() / 3_600) for view, at in sorted(built.items())]


def _consistency(reports: Path) -> list[Consistent]:
    newest = max(reports.glob("consistency-*.json"), default=None)
    if newest is None:
        return []
    found = json.loads(newest.read_text())
    features = found["features"]
    checked, mismatches, missing = (sum(f[n] for f in features) for n in ("compared", "mismatches", "missing"))
    return [Consistent(newest.stem, checked, mismatches, missing)]


def _consent(ledger: Ledger, *, now: datetime) -> list[Permission]:
    standing = ledger.standing(in_force_at=now)
    known = len(standing)
    if not known:
        return []
    counts = {p: sum(bool(by_purpose[p][0]) for by_purpose in standing.values()) for p in Purpose}
    return [
        Permission(str(p), None, None) if hidden(n, of=known) else Permission(str(p), n, known)
        for p, n in counts.items()
    ]


def _denials(counted: str) -> list[Denied]:
    samples = _samples(counted, "aap_consent_denials_total")
    found = [Denied(labels["endpoint"], labels["purpose"], labels["reason"], int(n)) for labels, n in samples if n]
    return sorted(found, key=lambda d: (-d.answers, d.endpoint, d.purpose, d.reason))


def _drift(reports: Path) -> list[Drift]:
    found = None
    for file in sorted(reports.glob("retrain-*.json"), reverse=True):
        found = json.loads(file.read_text())["steps"].get("drift")
        if found:
            break
    if not found:
        return []
    told = found["result"]
    return [Drift(name, int(n), told["drifted"].get(name, {})) for name, n in told["compared"].items()]


def _latency(counted: str) -> list[Latency]:
    upto: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for labels, n in _samples(counted, "aap_request_seconds_bucket"):
        upto[labels["endpoint"]][float(labels["le"])] += n
    return [_one_latency(name, sorted(ends.items())) for name, ends in sorted(upto.items()) if max(ends.values())]


def _one_latency(endpoint: str, upto: list[tuple[float, float]]) -> Latency:
    calls = upto[-1][1]
    median, p99 = (next(end for end, n in upto if n >= share * calls) for share in (0.5, 0.99))
    before = [0.0, *(n for _, n in upto)]
    buckets = tuple((end, int(n - b)) for (end, n), b in zip(upto, before, strict=False))
    return Latency(endpoint, int(calls), median, p99, buckets)


def _samples(counted: str, name: str) -> list[tuple[dict[str, str], float]]:
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(counted)
        for sample in family.samples
        if sample.name == name
    ]
