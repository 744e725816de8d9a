"""What is counted and timed for Prometheus. No label ever holds a user id, a key, or anything else a caller sends.

BentoML starts every worker with a folder for shared counters; where there is one, all workers are added up.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

from aap.serving.model_cache import MODEL_OF
from aap_client.responses import Answer

__all__ = ["CONTENT_TYPE_LATEST", "count_answers", "count_call", "count_dropped", "count_swap", "page", "tell_age"]

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

_calls = Counter("aap_requests", "Calls, by endpoint and HTTP status.", ["endpoint", "status"])
_errors = Counter(
    "aap_errors",
    "Calls refused or failed; those that failed with the version that was in use.",
    ["endpoint", "status", "version", "variant"],
)
_seconds = Histogram(
    "aap_request_seconds",
    "Duration of a call; version and variant are 'mixed' when its answers had several.",
    ["endpoint", "version", "variant"],
    buckets=_BUCKETS,
)
_answers = Counter(
    "aap_answers",
    "Answers, one a person, by what they rest on.",
    ["endpoint", "model", "version", "variant", "outcome"],
)
_denials = Counter("aap_consent_denials", "Answers that consent denied, by reason.", ["endpoint", "purpose", "reason"])
_swaps = Counter("aap_model_swaps", "Champions that went live or were refused.", ["model", "outcome"])
_dropped = Counter("aap_records_dropped", "Records lost because the disk could not be written.", ["log"])
_age = Gauge(
    "aap_features_age_seconds",
    "Seconds since the features of a view were last computed in batch.",
    ["view"],
    multiprocess_mode="mostrecent",
)
_dropped_so_far: dict[str, int] = {}


def count_call(
    endpoint: str, *, status: int, seconds: float, answers: Sequence[Answer[Any]] = (), versions: Mapping[str, str] = {}
) -> None:
    """Count one call and its duration; `versions` are those in use, of each model, which a call without answers had."""
    _calls.labels(endpoint, str(status)).inc()
    version = _only({a.model.version for a in answers})
    variant = _only({a.experiment.variant if a.experiment else "none" for a in answers})
    if status >= 400:
        at_fault = versions.get(MODEL_OF.get(endpoint, ""), "none") if status >= 500 else version
        _errors.labels(endpoint, str(status), at_fault, variant).inc()
    _seconds.labels(endpoint, version, variant).observe(seconds)


def count_answers(endpoint: str, answers: Sequence[Answer[Any]]) -> None:
    """Count the answers of one call, and the denials among them."""
    kinds = Tally(
        (a.model.name, a.model.version, a.experiment.variant if a.experiment else "none", str(a.outcome))
        for a in answers
    )
    for kind, count in kinds.items():
        _answers.labels(endpoint, *kind).inc(count)
    denials = Tally((str(a.consent.purpose), a.consent.reason) for a in answers if not a.consent.allowed)
    for denial, count in denials.items():
        _denials.labels(endpoint, *denial).inc(count)


def count_swap(model: str, _version: str, live: bool) -> None:
    """Count one attempt to swap a model."""
    _swaps.labels(model, "live" if live else "refused").inc()


def count_dropped(log: str, total: int) -> None:
    """Bring the counter of `log` level with `total` records dropped since this process started."""
    before = _dropped_so_far.get(log, 0)
    _dropped.labels(log).inc(max(0, total - before))
    _dropped_so_far[log] = total


def tell_age(view: str, seconds: float) -> None:
    """Say how old the features of a view are."""
    _age.labels(view).set(seconds)


def page() -> bytes:
    """Everything counted, in Prometheus's text format."""
    if not values.ValueClass._multiprocess:  # decided when it was first imported, whatever the environment says by now
        return generate_latest(REGISTRY)
    shared = CollectorRegistry()
    MultiProcessCollector(shared)
    return generate_latest(shared)


def _only(found: set[str]) -> str:
    if not found:
        return "none"
    return found.pop() if len(found) == 1 else "mixed"
