"""A typed client of the service, for programs in Python: `Client`, and `AsyncClient` for asyncio.

    with Client("http://127.0.0.1:8080", key="aap_…") as service:
        for answer in service.churn(["1", "2"], explain=True):
            print(answer.outcome, answer.result and answer.result.probability)

Denied consent is an answer, not an error. A call that is refused raises `CallRefused` with the service's own sentence.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Self, TypeVar

import httpx
import msgspec

from serving.answers import (
    AnomalyResult,
    Answer,
    ChurnResult,
    ConsentRecorded,
    EventsCollected,
    Item,
    SegmentResult,
    SimilarItems,
)
from serving.openapi import Mixed, Problem
from serving.requests import Context, Filters

__all__ = ["AsyncClient", "CallRefused", "Client"]

T = TypeVar("T")
_TIMEOUT_S = 30.0


class CallRefused(Exception):
    """The service refused a call: its HTTP status, its sentence, and when to ask again if it says so."""

    def __init__(self, status: int, sentence: str, *, retry_after_s: int | None) -> None:
        super().__init__(sentence)
        self.status, self.retry_after_s = status, retry_after_s


class _Answers(msgspec.Struct, Generic[T], frozen=True):
    answers: list[T]


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """One call ready to be sent, and how to read what comes back."""

    path: str
    body: dict[str, Any]
    gives: type[T]

    def content(self) -> bytes:
        return msgspec.json.encode(self.body)

    def read(self, response: httpx.Response) -> T:
        if response.status_code == 200:
            return msgspec.json.decode(response.content, type=self.gives)
        try:
            sentence = msgspec.json.decode(response.content, type=Problem).error
        except msgspec.DecodeError:
            sentence = f"The service answered with HTTP {response.status_code}."
        after = response.headers.get("retry-after", "")
        raise CallRefused(response.status_code, sentence, retry_after_s=int(after) if after.isdigit() else None)


def _scores(name: str, kind: type[T], user_ids: Sequence[str], explain: bool) -> _Call[_Answers[Answer[Any]]]:
    body = {"user_ids": list(user_ids), **({"explain": True} if explain else {})}
    return _Call(f"/v1/{name}", body, _Answers[Answer[kind]])  # type: ignore[valid-type]


def _recommendations(
    user_ids: Sequence[str], n: int, strategy: str | None, filters: Filters, context: Context
) -> _Call[_Answers[Answer[tuple[Item, ...]]]]:
    body: dict[str, Any] = {"user_ids": list(user_ids), "n": n, "filters": filters, "context": context}
    if strategy is not None:
        body["strategy"] = strategy
    return _Call("/v1/recommendations", body, _Answers[Answer[tuple[Item, ...]]])


def _similar(item_ids: Sequence[str], n: int) -> _Call[_Answers[SimilarItems]]:
    return _Call("/v1/similar-items", {"item_ids": list(item_ids), "n": n}, _Answers[SimilarItems])


def _choice(user_id: str, purpose: str, choice: str, notice_version: str) -> _Call[ConsentRecorded]:
    body = {"user_id": user_id, "purpose": purpose, "choice": choice, "notice_version": notice_version}
    return _Call("/v1/consent", body, ConsentRecorded)


def _head(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


class Client:
    """Calls one service. `verify` is what its TLS certificate is checked by; the machine's own list by default."""

    def __init__(
        self, url: str, *, key: str, timeout_s: float = _TIMEOUT_S, verify: ssl.SSLContext | bool = True
    ) -> None:
        self._http = httpx.Client(base_url=url, headers=_head(key), timeout=timeout_s, verify=verify)

    def churn(self, user_ids: Sequence[str], *, explain: bool = False) -> list[Answer[ChurnResult]]:
        """How likely each person is to stop buying."""
        return self._ask(_scores("churn", ChurnResult, user_ids, explain)).answers

    def segments(self, user_ids: Sequence[str]) -> list[Answer[SegmentResult]]:
        """The group of customers each person is most like."""
        return self._ask(_scores("segments", SegmentResult, user_ids, False)).answers

    def anomalies(self, user_ids: Sequence[str], *, explain: bool = False) -> list[Answer[AnomalyResult]]:
        """How unusual each person's activity is."""
        return self._ask(_scores("anomalies", AnomalyResult, user_ids, explain)).answers

    def recommendations(
        self,
        user_ids: Sequence[str],
        *,
        n: int = 10,
        strategy: str | None = None,
        filters: Filters = Filters(),  # noqa: B008
        context: Context = Context(),  # noqa: B008
    ) -> list[Answer[tuple[Item, ...]]]:
        """What each person may buy next."""
        return self._ask(_recommendations(user_ids, n, strategy, filters, context)).answers

    def similar_items(self, item_ids: Sequence[str], *, n: int = 10) -> list[SimilarItems]:
        """Items like each item."""
        return self._ask(_similar(item_ids, n)).answers

    def score(self, requests: Sequence[Mapping[str, Any]]) -> Mixed:
        """Several questions at once, each with its `endpoint`."""
        return self._ask(_Call("/v1/score", {"requests": list(requests)}, Mixed))

    def choose(
        self, user_id: str, purpose: str, choice: Literal["grant", "withdraw"], *, notice_version: str = "1"
    ) -> ConsentRecorded:
        """Grant or withdraw one purpose for one person; in force when this returns."""
        return self._ask(_choice(user_id, purpose, choice, notice_version))

    def collect(self, events: Sequence[Mapping[str, Any]]) -> EventsCollected:
        """Take in what happened."""
        return self._ask(_Call("/v1/events", {"events": list(events)}, EventsCollected))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, call: _Call[T]) -> T:
        return call.read(self._http.post(call.path, content=call.content()))


class AsyncClient:
    """The same for asyncio."""

    def __init__(
        self, url: str, *, key: str, timeout_s: float = _TIMEOUT_S, verify: ssl.SSLContext | bool = True
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_head(key), timeout=timeout_s, verify=verify)

    async def churn(self, user_ids: Sequence[str], *, explain: bool = False) -> list[Answer[ChurnResult]]:
        """How likely each person is to stop buying."""
        return (await self._ask(_scores("churn", ChurnResult, user_ids, explain))).answers

    async def segments(self, user_ids: Sequence[str]) -> list[Answer[SegmentResult]]:
        """The group of customers each person is most like."""
        return (await self._ask(_scores("segments", SegmentResult, user_ids, False))).answers

    async def anomalies(self, user_ids: Sequence[str], *, explain: bool = False) -> list[Answer[AnomalyResult]]:
        """How unusual each person's activity is."""
        return (await self._ask(_scores("anomalies", AnomalyResult, user_ids, explain))).answers

    async def recommendations(
        self,
        user_ids: Sequence[str],
        *,
        n: int = 10,
        strategy: str | None = None,
        filters: Filters = Filters(),  # noqa: B008
        context: Context = Context(),  # noqa: B008
    ) -> list[Answer[tuple[Item, ...]]]:
        """What each person may buy next."""
        return (await self._ask(_recommendations(user_ids, n, strategy, filters, context))).answers

    async def similar_items(self, item_ids: Sequence[str], *, n: int = 10) -> list[SimilarItems]:
        """Items like each item."""
        return (await self._ask(_similar(item_ids, n))).answers

    async def score(self, requests: Sequence[Mapping[str, Any]]) -> Mixed:
        """Several questions at once, each with its `endpoint`."""
        return await self._ask(_Call("/v1/score", {"requests": list(requests)}, Mixed))

    async def choose(
        self, user_id: str, purpose: str, choice: Literal["grant", "withdraw"], *, notice_version: str = "1"
    ) -> ConsentRecorded:
        """Grant or withdraw one purpose for one person; in force when this returns."""
        return await self._ask(_choice(user_id, purpose, choice, notice_version))

    async def collect(self, events: Sequence[Mapping[str, Any]]) -> EventsCollected:
        """Take in what happened."""
        return await self._ask(_Call("/v1/events", {"events": list(events)}, EventsCollected))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, call: _Call[T]) -> T:
        return call.read(await self._http.post(call.path, content=call.content()))
