"""Answers: what a prediction call gives back, one for each person asked about, in the order they were named."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

__all__ = [
    "AnomaliesAnswered",
    "AnomalyResult",
    "Answer",
    "ChurnAnswered",
    "ChurnResult",
    "ConsentAnswer",
    "ConsentRecorded",
    "EventsCollected",
    "Experiment",
    "Item",
    "Mixed",
    "MixedPart",
    "ModelUsed",
    "Outcome",
    "Problem",
    "RecommendationsAnswered",
    "Result",
    "SegmentResult",
    "SegmentsAnswered",
    "SimilarItems",
    "SimilarItemsAnswered",
]


class Outcome(StrEnum):
    """What an answer rests on."""

    ANSWERED = "answered"
    """On what we know of the person."""
    DENIED = "denied"
    """On nothing about them: consent says no, and `consent.reason` why."""
    NOT_FOUND = "not_found"
    """They said yes, but nothing is known of them yet."""
    EXPIRED = "expired"
    """They said yes, but what is known of them is too old to be used."""


@dataclass(frozen=True, slots=True)
class ModelUsed:
    """The model that made an answer, or would have."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """The variant the answer was made with, and why this one: `split` the first time, `sticky` after."""

    flag: str
    variant: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConsentAnswer:
    """Whether this use of the person's data is allowed, and why."""

    allowed: bool
    purpose: str
    reason: str


@dataclass(frozen=True, slots=True)
class Item:
    """One recommended item; higher scores come first and mean nothing across people."""

    item_id: str
    name: str | None
    score: float
    reason: str
    explanation: str | None = None
    """The reason as a sentence, if one was asked for."""


@dataclass(frozen=True, slots=True)
class ChurnResult:
    """The probability, 0 to 1, of no purchase in the next `horizon_days`; explained, what pushes it up, strongest first."""

    probability: float
    horizon_days: int
    reasons: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """The nearest segment, and the distance to its centre in scaled features."""

    segment: int
    name: str
    distance: float


@dataclass(frozen=True, slots=True)
class AnomalyResult:
    """How unusual a person's activity is (higher is more), the score above which it counts; explained, what drives it."""

    score: float
    threshold: float
    is_anomaly: bool
    drivers: tuple[str, ...] | None = None


Result = tuple[Item, ...] | ChurnResult | SegmentResult | AnomalyResult
R = TypeVar("R", bound=Result)


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    """One person's answer. `result` is null when there is none, and `outcome` says why."""

    prediction_id: str
    model: ModelUsed
    experiment: Experiment | None
    consent: ConsentAnswer
    outcome: Outcome
    result: R | None


@dataclass(frozen=True, slots=True)
class SimilarItems:
    """Items like one item, by what the same people buy; none for an item the model doesn't know."""

    item_id: str
    model: ModelUsed
    result: tuple[Item, ...]


class ChurnAnswered(msgspec.Struct, tag_field="endpoint", tag="churn", frozen=True):
    """What one question of a mixed batch got: `answers`, or the `error` that its endpoint would have refused it with."""

    status: int
    answers: list[Answer[ChurnResult]] | None = None
    error: str | None = None


class SegmentsAnswered(msgspec.Struct, tag_field="endpoint", tag="segments", frozen=True):
    """The same for segments."""

    status: int
    answers: list[Answer[SegmentResult]] | None = None
    error: str | None = None


class AnomaliesAnswered(msgspec.Struct, tag_field="endpoint", tag="anomalies", frozen=True):
    """The same for anomalies."""

    status: int
    answers: list[Answer[AnomalyResult]] | None = None
    error: str | None = None


class RecommendationsAnswered(msgspec.Struct, tag_field="endpoint", tag="recommendations", frozen=True):
    """The same for recommendations."""

    status: int
    answers: list[Answer[tuple[Item, ...]]] | None = None
    error: str | None = None


class SimilarItemsAnswered(msgspec.Struct, tag_field="endpoint", tag="similar-items", frozen=True):
    """The same for similar items."""

    status: int
    answers: list[SimilarItems] | None = None
    error: str | None = None


MixedPart = ChurnAnswered | SegmentsAnswered | AnomaliesAnswered | RecommendationsAnswered | SimilarItemsAnswered
"""Which one it is, `endpoint` says."""


class Mixed(msgspec.Struct, frozen=True):
    """One part a question, in their order."""

    responses: list[MixedPart]


class Problem(msgspec.Struct, frozen=True):
    """Why a call was refused, in one sentence."""

    error: str


@dataclass(frozen=True, slots=True)
class EventsCollected:
    """What became of a batch of events, counted; refused and rejected ones by reason."""

    accepted: int
    duplicates: int
    choices: int
    refused: dict[str, int]
    rejected: dict[str, int]


@dataclass(frozen=True, slots=True)
class ConsentRecorded:
    """A choice that is in force: every answer from now on obeys it."""

    purpose: str
    choice: str
    ledger_seq: int
