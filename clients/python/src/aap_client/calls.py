"""Every call of the client: where it goes, what it sends, and how what comes back is read.

`Client` and `AsyncClient` send the very same calls; only how they wait differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import httpx
import msgspec

from aap_client.privacy import ErasureRequest, PersonRequest, Receipts, SignalRecorded, SignalRequest
from aap_client.requests import (
    ChoiceRequest,
    Context,
    Filters,
    MixedRequest,
    Part,
    RecommendationRequest,
    ScoreRequest,
    SimilarRequest,
)
from aap_client.responses import (
    AnomalyResult,
    Answer,
    ChurnResult,
    ConsentRecorded,
    EventsCollected,
    Item,
    Mixed,
    Problem,
    SegmentResult,
    SimilarItems,
)

__all__ = [
    "Answers",
    "Call",
    "CallRefused",
    "anomalies",
    "choice",
    "churn",
    "erasure",
    "events",
    "export",
    "mixed",
    "receipts",
    "recommendations",
    "segments",
    "signal",
    "similar_items",
]

T = TypeVar("T")


class CallRefused(Exception):
    """The service refused a call: its HTTP status, its sentence, and when to ask again if it says so."""

    def __init__(self, status: int, sentence: str, *, retry_after_s: int | None) -> None:
        super().__init__(sentence)
        self.status, self.retry_after_s = status, retry_after_s


class Answers(msgspec.Struct, Generic[T], frozen=True):
    """What prediction endpoints give: one answer for each that was asked about, in order."""

    answers: list[T]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call ready to be sent, and how to read what comes back; `gpc` sends the Global Privacy Control with it."""

    path: str
    body: Any
    gives: type[T]
    gpc: bool = False

    def content(self) -> bytes:
        """The body as JSON."""
        return msgspec.json.encode(self.body)

    def headers(self) -> dict[str, str]:
        """What this call says beside what every call of the client does."""
        return {"Sec-GPC": "1"} if self.gpc else {}

    def read(self, response: httpx.Response) -> T:
        """What the service gave. Raises `CallRefused`."""
        if response.status_code == 200:
            return msgspec.json.decode(response.content, type=self.gives)
        try:
            sentence = msgspec.json.decode(response.content, type=Problem).error
        except msgspec.DecodeError:
            sentence = f"The service answered with HTTP {response.status_code}."
        after = response.headers.get("retry-after", "")
        raise CallRefused(response.status_code, sentence, retry_after_s=int(after) if after.isdigit() else None)


def churn(user_ids: Sequence[str], *, explain: bool, gpc: bool) -> Call[Answers[Answer[ChurnResult]]]:
    """How likely each person is to stop buying."""
    return Call("/v1/churn", ScoreRequest(list(user_ids), explain), Answers[Answer[ChurnResult]], gpc)


def segments(user_ids: Sequence[str], *, gpc: bool) -> Call[Answers[Answer[SegmentResult]]]:
    """The group of customers each person is most like."""
    return Call("/v1/segments", ScoreRequest(list(user_ids)), Answers[Answer[SegmentResult]], gpc)


def anomalies(user_ids: Sequence[str], *, explain: bool, gpc: bool) -> Call[Answers[Answer[AnomalyResult]]]:
    """How unusual each person's activity is."""
    return Call("/v1/anomalies", ScoreRequest(list(user_ids), explain), Answers[Answer[AnomalyResult]], gpc)


def recommendations(
    user_ids: Sequence[str],
    *,
    n: int,
    strategy: str | None,
    filters: Filters,
    context: Context,
    most_a_category: int | None,
    explain: bool,
    gpc: bool,
) -> Call[Answers[Answer[tuple[Item, ...]]]]:
    """What each person may buy next."""
    body = RecommendationRequest(list(user_ids), n, strategy, filters, context, most_a_category, explain)
    return Call("/v1/recommendations", body, Answers[Answer[tuple[Item, ...]]], gpc)


def similar_items(item_ids: Sequence[str], *, n: int) -> Call[Answers[SimilarItems]]:
    """Items like each item."""
    return Call("/v1/similar-items", SimilarRequest(list(item_ids), n), Answers[SimilarItems])


def mixed(requests: Sequence[Part], *, gpc: bool) -> Call[Mixed]:
    """Several questions at once."""
    return Call("/v1/score", MixedRequest(list(requests)), Mixed, gpc)


def choice(
    user_id: str,
    purpose: str,
    choice: Literal["grant", "withdraw"],
    *,
    notice_version: str,
    age: int | None,
    by: Literal["person", "guardian"],
    gpc: bool,
) -> Call[ConsentRecorded]:
    """One choice of one person about one purpose."""
    return Call("/v1/consent", ChoiceRequest(user_id, purpose, choice, notice_version, age, by), ConsentRecorded, gpc)


def receipts(user_id: str) -> Call[Receipts]:
    """A receipt for each choice of one person."""
    return Call("/v1/consent/receipts", PersonRequest(user_id), Receipts)


def signal(user_id: str, *, on: bool) -> Call[SignalRecorded]:
    """The Global Privacy Control as one person's setting."""
    return Call("/v1/consent/signals", SignalRequest(user_id, "gpc", on), SignalRecorded)


def export(user_id: str) -> Call[dict[str, Any]]:
    """Everything held of one person."""
    return Call("/v1/privacy/exports", PersonRequest(user_id), dict[str, Any])


def erasure(user_id: str, *, confirm: Literal["erase everything"]) -> Call[dict[str, Any]]:
    """The erasure of one person."""
    return Call("/v1/privacy/erasures", ErasureRequest(user_id, confirm), dict[str, Any])


def events(happened: Sequence[Mapping[str, Any]]) -> Call[EventsCollected]:
    """What happened."""
    return Call("/v1/events", {"events": list(happened)}, EventsCollected)
