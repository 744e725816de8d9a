"""A typed client of the service, for programs in Python: `Client`, and `AsyncClient` for asyncio.

    with Client("http://127.0.0.1:8080", key="aap_…") as service:
        for answer in service.churn(["1", "2"], explain=True):
            print(answer.outcome, answer.result and answer.result.probability)

Denied consent is an answer, not an error. A call that is refused raises `CallRefused` with the service's own sentence.
Where a method takes `gpc`, say there whether the person's browser sent `Sec-GPC: 1`.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

import httpx

from aap_client import calls
from aap_client.calls import Call, CallRefused
from aap_client.privacy import Receipts, SignalRecorded
from aap_client.requests import Context, Filters, Part
from aap_client.responses import (
    AnomalyResult,
    Answer,
    ChurnResult,
    ConsentRecorded,
    EventsCollected,
    Item,
    MixedPart,
    SegmentResult,
    SimilarItems,
)

__all__ = ["AsyncClient", "CallRefused", "Client"]

T = TypeVar("T")
_TIMEOUT_S = 30.0
_ALL, _NOTHING = Filters(), Context()


def _head(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


class Client:
    """Calls one service. `verify` is what its TLS certificate is checked by; the machine's own list by default."""

    def __init__(
        self, url: str, *, key: str, timeout_s: float = _TIMEOUT_S, verify: ssl.SSLContext | bool = True
    ) -> None:
        self._http = httpx.Client(base_url=url, headers=_head(key), timeout=timeout_s, verify=verify)

    def churn(self, user_ids: Sequence[str], *, explain: bool = False, gpc: bool = False) -> list[Answer[ChurnResult]]:
        """How likely each person is to stop buying."""
        return self._ask(calls.churn(user_ids, explain=explain, gpc=gpc)).answers

    def segments(self, user_ids: Sequence[str], *, gpc: bool = False) -> list[Answer[SegmentResult]]:
        """The group of customers each person is most like."""
        return self._ask(calls.segments(user_ids, gpc=gpc)).answers

    def anomalies(
        self, user_ids: Sequence[str], *, explain: bool = False, gpc: bool = False
    ) -> list[Answer[AnomalyResult]]:
        """How unusual each person's activity is."""
        return self._ask(calls.anomalies(user_ids, explain=explain, gpc=gpc)).answers

    def recommendations(
        self,
        user_ids: Sequence[str],
        *,
        n: int = 10,
        strategy: str | None = None,
        filters: Filters = _ALL,
        context: Context = _NOTHING,
        most_a_category: int | None = None,
        explain: bool = False,
        gpc: bool = False,
    ) -> list[Answer[tuple[Item, ...]]]:
        """What each person may buy next."""
        call = calls.recommendations(
            user_ids,
            n=n,
            strategy=strategy,
            filters=filters,
            context=context,
            most_a_category=most_a_category,
            explain=explain,
            gpc=gpc,
        )
        return self._ask(call).answers

    def similar_items(self, item_ids: Sequence[str], *, n: int = 10) -> list[SimilarItems]:
        """Items like each item."""
        return self._ask(calls.similar_items(item_ids, n=n)).answers

    def score(self, requests: Sequence[Part], *, gpc: bool = False) -> list[MixedPart]:
        """Several questions at once, each a `ChurnPart`, `SegmentsPart` and so on; one part each, in order."""
        return self._ask(calls.mixed(requests, gpc=gpc)).responses

    def choose(
        self,
        user_id: str,
        purpose: str,
        choice: Literal["grant", "withdraw"],
        *,
        notice_version: str = "1",
        age: int | None = None,
        by: Literal["person", "guardian"] = "person",
        gpc: bool = False,
    ) -> ConsentRecorded:
        """Grant or withdraw one purpose for one person; in force when this returns."""
        call = calls.choice(user_id, purpose, choice, notice_version=notice_version, age=age, by=by, gpc=gpc)
        return self._ask(call)

    def receipts(self, user_id: str) -> Receipts:
        """A receipt for each choice of one person, and the key they are checked with."""
        return self._ask(calls.receipts(user_id))

    def set_gpc(self, user_id: str, *, on: bool = True) -> SignalRecorded:
        """Set or lift the Global Privacy Control as one person's setting; in force when this returns."""
        return self._ask(calls.signal(user_id, on=on))

    def export(self, user_id: str) -> dict[str, Any]:
        """Everything held of one person."""
        return self._ask(calls.export(user_id))

    def erase(self, user_id: str, *, confirm: Literal["erase everything"]) -> dict[str, Any]:
        """Erase one person everywhere; takes some seconds and gives the signed certificate."""
        return self._ask(calls.erasure(user_id, confirm=confirm))

    def collect(self, events: Sequence[Mapping[str, Any]]) -> EventsCollected:
        """Take in what happened."""
        return self._ask(calls.events(events))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, call: Call[T]) -> T:
        return call.read(self._http.post(call.path, content=call.content(), headers=call.headers()))


class AsyncClient:
    """The same for asyncio."""

    def __init__(
        self, url: str, *, key: str, timeout_s: float = _TIMEOUT_S, verify: ssl.SSLContext | bool = True
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_head(key), timeout=timeout_s, verify=verify)

    async def churn(
        self, user_ids: Sequence[str], *, explain: bool = False, gpc: bool = False
    ) -> list[Answer[ChurnResult]]:
        """How likely each person is to stop buying."""
        return (await self._ask(calls.churn(user_ids, explain=explain, gpc=gpc))).answers

    async def segments(self, user_ids: Sequence[str], *, gpc: bool = False) -> list[Answer[SegmentResult]]:
        """The group of customers each person is most like."""
        return (await self._ask(calls.segments(user_ids, gpc=gpc))).answers

    async def anomalies(
        self, user_ids: Sequence[str], *, explain: bool = False, gpc: bool = False
    ) -> list[Answer[AnomalyResult]]:
        """How unusual each person's activity is."""
        return (await self._ask(calls.anomalies(user_ids, explain=explain, gpc=gpc))).answers

    async def recommendations(
        self,
        user_ids: Sequence[str],
        *,
        n: int = 10,
        strategy: str | None = None,
        filters: Filters = _ALL,
        context: Context = _NOTHING,
        most_a_category: int | None = None,
        explain: bool = False,
        gpc: bool = False,
    ) -> list[Answer[tuple[Item, ...]]]:
        """What each person may buy next."""
        call = calls.recommendations(
            user_ids,
            n=n,
            strategy=strategy,
            filters=filters,
            context=context,
            most_a_category=most_a_category,
            explain=explain,
            gpc=gpc,
        )
        return (await self._ask(call)).answers

    async def similar_items(self, item_ids: Sequence[str], *, n: int = 10) -> list[SimilarItems]:
        """Items like each item."""
        return (await self._ask(calls.similar_items(item_ids, n=n))).answers

    async def score(self, requests: Sequence[Part], *, gpc: bool = False) -> list[MixedPart]:
        """Several questions at once, each a `ChurnPart`, `SegmentsPart` and so on; one part each, in order."""
        return (await self._ask(calls.mixed(requests, gpc=gpc))).responses

    async def choose(
        self,
        user_id: str,
        purpose: str,
        choice: Literal["grant", "withdraw"],
        *,
        notice_version: str = "1",
        age: int | None = None,
        by: Literal["person", "guardian"] = "person",
        gpc: bool = False,
    ) -> ConsentRecorded:
        """Grant or withdraw one purpose for one person; in force when this returns."""
        call = calls.choice(user_id, purpose, choice, notice_version=notice_version, age=age, by=by, gpc=gpc)
        return await self._ask(call)

    async def receipts(self, user_id: str) -> Receipts:
        """A receipt for each choice of one person, and the key they are checked with."""
        return await self._ask(calls.receipts(user_id))

    async def set_gpc(self, user_id: str, *, on: bool = True) -> SignalRecorded:
        """Set or lift the Global Privacy Control as one person's setting; in force when this returns."""
        return await self._ask(calls.signal(user_id, on=on))

    async def export(self, user_id: str) -> dict[str, Any]:
        """Everything held of one person."""
        return await self._ask(calls.export(user_id))

    async def erase(self, user_id: str, *, confirm: Literal["erase everything"]) -> dict[str, Any]:
        """Erase one person everywhere; takes some seconds and gives the signed certificate."""
        return await self._ask(calls.erasure(user_id, confirm=confirm))

    async def collect(self, events: Sequence[Mapping[str, Any]]) -> EventsCollected:
        """Take in what happened."""
        return await self._ask(calls.events(events))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, call: Call[T]) -> T:
        return call.read(await self._http.post(call.path, content=call.content(), headers=call.headers()))
