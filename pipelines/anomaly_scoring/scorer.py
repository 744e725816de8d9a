"""The watch: it reads the event log behind the live workers and scores what happens, so that it never holds them up.

Each purchase line, each session and each person touched is scored by the champion of its model, with the consent the
person has at that moment: who objects is not looked at, and when consent can't be read nobody is. A place in the log is
kept a partition, so that a restart goes on where it was; what was scored twice has the same `alert_id`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import redis

from aap.consent.policy import Decision
from aap.events.streaming.columns import EventColumns
from aap.events.streaming.event_log import PARTITIONS, RedisStreamLog, key_of
from aap.features.datasets import Status, Vectors
from aap.jobs.streaming.alerts import Alert
from aap.modeling.errors import ModelError
from models.anomaly.customers import Anomaly
from models.anomaly.transaction_features import Doings

if TYPE_CHECKING:
    from aap.modeling.registry.registry import ModelVersion

__all__ = ["KINDS", "Champions", "Watch"]

KINDS: Mapping[str, str] = {"event": "event_anomaly", "session": "session_anomaly", "user": "anomaly"}
"""The model of each kind of alert."""
_BOUGHT = "product_purchased"
_ENTRIES = 200
_log = logging.getLogger("aap.watch")


class Source(Protocol):
    """What is needed of `aap.modeling.registry.registry.Registry`."""

    def champion(self, name: str) -> ModelVersion | None: ...
    def load(self, version: ModelVersion) -> Any: ...


class Features(Protocol):
    """What is needed of `aap.features.retrieval.Retrieval`."""

    def online_vectors(self, user_keys: Sequence[str], *, service: str, now: datetime) -> Vectors: ...


@dataclass(slots=True)
class Champions:
    """The champion of each kind, taken up anew by `refresh`. A version that can't be read is passed over, and said."""

    source: Source
    held: dict[str, tuple[str, Anomaly]] = field(default_factory=dict)
    """By kind: version and model."""

    def refresh(self) -> None:
        """Ask the registry once; a registry that is down changes nothing."""
        for kind, name in KINDS.items():
            try:
                version = self.source.champion(name)
                if version is None:
                    self.held.pop(kind, None)
                elif self.held.get(kind, ("",))[0] != str(version.version):
                    self.held[kind] = str(version.version), self.source.load(version)
            except ModelError as error:
                _log.warning("The champion of %s is not taken up (%s).", name, error)


@dataclass(slots=True)
class Watch:
    """`keep` takes rows of `aap.jobs.streaming.alerts.SCHEMA`; `clock` gives the platform's time."""

    client: redis.Redis
    features: Features
    champions: Champions
    keep: Callable[[Sequence[dict[str, Any]]], None]
    write: Callable[[], bool]
    """Writes what was kept; False when it can't be written yet."""
    clock: Callable[[], datetime]

    def step(self) -> int:
        """Score what is new in each partition; returns how many entries of the log were read.

        A place is moved on only once the alerts before it are written. Raises what the log and the feature door raise.
        """
        if not self.champions.held:
            return 0
        log, seen = RedisStreamLog(self.client), 0
        for partition in range(PARTITIONS):
            place: Any = self.client.get(key_of(partition, "watched"))
            if place is None:  # the first time: what happens from now on
                self.client.set(key_of(partition, "watched"), log.end(partition))
                continue
            batch = log.read(partition, after=place, most=_ENTRIES)
            if not batch.entries:
                continue
            self.keep([alert.to_row() for alert in self.look(batch.events)])
            if not self.write():
                break
            self.client.set(key_of(partition, "watched"), batch.last)
            seen += batch.entries
        return seen

    def look(self, events: Mapping[str, EventColumns]) -> list[Alert]:
        """The alerts that `events` give rise to now."""
        now, people = self.clock(), sorted({key for columns in events.values() for key in columns.user_keys})
        if not people:
            return []
        vectors = self.features.online_vectors(people, service="anomaly", now=now)
        allowed = {key: d for key, d in zip(people, vectors.decisions, strict=True) if d.allowed}
        found = list(self._people(people, vectors, now=now))
        bought = events.get(_BOUGHT)
        if bought is None:
            return found
        ours = bought.chosen(np.array([key in allowed for key in bought.user_keys], dtype=bool))
        return [
            *found,
            *self._doings("event", ours, allowed, now=now),
            *self._doings("session", ours, allowed, now=now),
        ]

    def _people(self, people: Sequence[str], vectors: Vectors, *, now: datetime) -> Iterator[Alert]:
        """People of whom every value is there, once a day each."""
        if "user" not in self.champions.held:
            return
        version, model = self.champions.held["user"]
        there = np.asarray(np.isin(vectors.status, (Status.PRESENT, Status.NULL)).all(axis=1))
        rows = [i for i, decision in enumerate(vectors.decisions) if decision.allowed and there[i]]
        with contextlib.suppress(ModelError):  # a champion of other features can't score; `aap models` says so
            model.require(vectors.features)
            values = vectors.values[rows]
            for row, score, why in _unusual(model, values):
                key, decision = people[rows[row]], vectors.decisions[rows[row]]
                yield self._alert("user", key, f"{now:%Y-%m-%d}", now, score, why, version, model, decision, now)

    def _doings(
        self, kind: str, bought: EventColumns, allowed: Mapping[str, Decision], *, now: datetime
    ) -> Iterator[Alert]:
        if kind not in self.champions.held or not len(bought):
            return
        version, model = self.champions.held[kind]
        columns = {name: bought.column(name) for name in ("basket_id", "item_id", "category", "quantity", "amount")}
        occurred = bought.occurred
        if kind == "event":
            found = Doings.lines(columns, occurred)
        else:
            found = Doings.sessions(columns, occurred, people=bought.user_keys)
        for row, score, why in _unusual(model, found.values):
            place = int(found.first[row])
            key = bought.user_keys[place]
            about = (
                str(columns["basket_id"][place])
                if kind == "session"
                else f"{bought.sources[place]} {bought.ids[place]}"
            )
            when = datetime.fromtimestamp(int(occurred[place]) / 1e6, tz=UTC)
            yield self._alert(kind, key, about, when, score, why, version, model, allowed[key], now)

    @staticmethod
    def _alert(
        kind: str, key: str, about: str, when: datetime, score: float, why: list[str], version: str, model: Anomaly,
        decision: Decision, now: datetime,
    ) -> Alert:  # fmt: skip
        return Alert(
            now, kind, key, about, when, score, model.threshold, tuple(why), model.name, version, decision.ledger_seq
        )


def _unusual(model: Anomaly, values: np.ndarray) -> Iterator[tuple[int, float, list[str]]]:
    """Row, score and drivers of the rows above the threshold."""
    scores = model.score(values)
    rows = np.flatnonzero(scores > model.threshold)
    if len(rows):
        for row, why in zip(rows.tolist(), model.drivers(values[rows]), strict=True):
            yield row, float(scores[row]), why
