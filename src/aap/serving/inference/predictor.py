"""The predictor: from people to answers, with consent, features, experiment and model brought together.

It knows nothing of HTTP and keeps no state: everything it needs is handed in, and the same inputs give the same
answers (but for `prediction_id`). A person's answer never depends on who else is in the call. The model is taken once a
call, so a champion that changes meanwhile never mixes two versions in one call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol

import numpy as np

from aap.consent.policy import Decision
from aap.experiments.assignment.assigner import Assignment
from aap.features.datasets import Status, Vectors
from aap.serving.inference import result_builders
from aap.serving.inference.catalog_filter import Shelves
from aap.serving.inference.item_names import ItemNames
from aap.serving.inference.result_builders import History
from aap.serving.logging.prediction_log import Evidence, record
from aap.serving.model_cache import MODEL_OF, InUse
from aap.serving.rollout.canary import NoCanary, Part, Split
from aap_client.requests import Explained, Ranked
from aap_client.responses import (
    AnomalyResult,
    Answer,
    ChurnResult,
    ConsentAnswer,
    Experiment,
    Item,
    ModelUsed,
    Outcome,
    SegmentResult,
    SimilarItems,
)

__all__ = ["FLAG", "Predictor"]

FLAG = "recommendation_strategy"
_PLAIN, _TEN = Explained(), Ranked()
_NOBODY = NoCanary()
_NULL = int(Status.NULL)
"""The highest status that is a value."""


class Features(Protocol):
    """What is needed of `aap.features.retrieval.Retrieval`."""

    def online_vectors(self, user_keys: Sequence[str], *, service: str, now: datetime) -> Vectors:
        """Values, statuses, sequences and one consent decision a person."""


class Models(Protocol):
    """What is needed of `aap.serving.model_cache.ModelsInUse`."""

    def get(self, name: str) -> InUse: ...


class Assignments(Protocol):
    """What is needed of `aap.experiments.assignment.assigner.Assigner`."""

    def assign(self, user_keys: Sequence[str], *, flag: str, now: datetime) -> list[Assignment]: ...


class Versions(Protocol):
    """What is needed of `aap.serving.rollout.canary.Canary`."""

    def split(self, champion: InUse, user_keys: Sequence[str], *, now: datetime) -> Split: ...
    def reads(self, champion: InUse, user_keys: Sequence[str]) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Predictor:
    """Answers for many people at once; `keep` takes the prediction records, `measured` times what a variant does,
    `shadow` takes what a model was asked, for a challenger, and `canary` says whom the challenger answers.

    Every method gives one answer a person, in order. They raise `NoModel`, `FeaturesDiffer`, and what the stores raise
    when they are down.
    """

    features: Features
    models: Models
    assignments: Assignments
    names: ItemNames
    shelves: Shelves
    keep: Callable[[Sequence[dict[str, Any]]], None]
    measured: Callable[[str, str, int], AbstractContextManager[None]] = lambda *_: nullcontext()
    shadow: Callable[[InUse, Callable[[Any], Any]], None] = lambda *_: None
    canary: Versions = _NOBODY

    def churn(self, user_keys: Sequence[str], *, now: datetime, asked: Explained = _PLAIN) -> list[Answer[ChurnResult]]:
        """How likely each person is to stop buying."""
        return self._from_values("churn", user_keys, asked=asked, now=now)

    def segments(
        self, user_keys: Sequence[str], *, now: datetime, asked: Explained = _PLAIN
    ) -> list[Answer[SegmentResult]]:
        """The group of customers each person is most like."""
        return self._from_values("segments", user_keys, asked=asked, now=now)

    def anomalies(
        self, user_keys: Sequence[str], *, now: datetime, asked: Explained = _PLAIN
    ) -> list[Answer[AnomalyResult]]:
        """How unusual each person's activity is."""
        return self._from_values("anomalies", user_keys, asked=asked, now=now)

    def similar(self, item_ids: Sequence[str], *, n: int) -> list[SimilarItems]:
        """The `n` items most like each item. Nobody's data is asked for, so neither is consent."""
        used = self.models.get("recommendation")
        lists = [result_builders.similar(used.model, item, n=n) for item in item_ids]
        names = self.names.of(r.item_id for found in lists for r in found)
        maker = ModelUsed(used.name, used.version)
        return [SimilarItems(i, maker, result_builders.items(r, names)) for i, r in zip(item_ids, lists, strict=True)]

    def recommendations(
        self, user_keys: Sequence[str], *, now: datetime, asked: Ranked = _TEN
    ) -> list[Answer[tuple[Item, ...]]]:
        """The best items for each person: their own for those who allow it, the popular ones for everyone else."""
        used = self.models.get("recommendation")
        vectors = self.features.online_vectors(user_keys, service="recommendation", now=now)
        used.require(tuple(vectors.sequences))
        read = used.model.features
        histories = list(zip(*(vectors.sequences[name] for name in read), strict=True))
        outcomes = [_outcome_of_history(d, h) for d, h in zip(vectors.decisions, histories, strict=True)]
        among = self.shelves.among(asked.filters)
        lists, assigned = self._lists(user_keys, histories, outcomes, used=used, asked=asked, among=among, now=now)
        popular = self.models.get("popularity") if Outcome.DENIED in outcomes else None
        kinds = self.shelves.categories() if popular and asked.most_a_category else None
        everyones = (
            result_builders.popular(popular.model, asked=asked, among=among, categories=kinds) if popular else []
        )
        names = self.names.of(result_builders.mentioned([*(found.ranked for found in lists.values()), everyones]))
        stamp = None if among is None and kinds is None else self.shelves.stamp()
        ids = _new_ids(len(user_keys))
        answers, rows = [], []
        for i, decision in enumerate(vectors.decisions):
            given = lists.get(i) or _List(popular or used, None, everyones)
            result = result_builders.items(given.ranked, names, explain=asked.explain)
            answer = _answer(ids[i], given.used, decision, outcomes[i], result, assigned.get(i))
            sifted = among is not None or outcomes[i] is Outcome.DENIED
            evidence = Evidence(
                *(user_keys[i], decision.ledger_seq, read, None, None, asked, histories[i], given.strategy),
                catalogue=stamp if sifted else None,
                explanations=result_builders.explanations(given.ranked) if asked.explain else None,
            )
            rows.append(record(answer, evidence, endpoint="recommendations", used=given.used, at=now))
            answers.append(answer)
        self.keep(rows)
        return answers

    def _lists(
        self,
        user_keys: Sequence[str],
        histories: Sequence[History],
        outcomes: Sequence[Outcome],
        *,
        used: InUse,
        asked: Ranked,
        among: frozenset[str] | None,
        now: datetime,
    ) -> tuple[dict[int, _List], dict[int, Assignment]]:
        """The lists, by position, of the people who are not denied, and how they were assigned.

        Only people with a history are in an experiment, for without one every list is what is popular. Whoever is in
        the canary is not in the experiment on strategies, nor is anybody where the caller says the strategy.
        """
        known = [i for i, outcome in enumerate(outcomes) if outcome is Outcome.ANSWERED]
        split = self.canary.split(used, [user_keys[i] for i in known], now=now)
        assigned = {known[place]: one for place, one in split.assigned.items()}
        free = [i for i in known if i not in assigned]
        if asked.strategy is None and free:
            made = self.assignments.assign([user_keys[i] for i in free], flag=FLAG, now=now)
            assigned.update(zip(free, made, strict=True))
        usual = asked.strategy or "buy_again"
        arms: dict[tuple[Part, str], list[int]] = {}
        if unknown := [i for i, outcome in enumerate(outcomes) if outcome is Outcome.NOT_FOUND]:
            arms[Part(used, used), usual] = unknown
        for part in split.parts:
            for i in (known[place] for place in part.people):
                strategy = assigned[i].variant if i in assigned and assigned[i].flag == FLAG else usual
                arms.setdefault((part, strategy), []).append(i)
        lists: dict[int, _List] = {}
        for (part, strategy), people in arms.items():
            theirs = [histories[i] for i in people]
            rank = partial(result_builders.recommended, histories=theirs, strategy=strategy, asked=asked, among=among)
            inside = all(i in assigned and assigned[i].flag == FLAG and assigned[i].exposed for i in people)
            with self.measured(FLAG, strategy, len(people)) if inside else nullcontext():
                maker, found = part.answered(rank, people=len(people), measured=self.measured)
            self.shadow(used, rank)
            lists.update((i, _List(maker, strategy, ranked)) for i, ranked in zip(people, found, strict=True))
        return lists, assigned

    def reads_of_canary(self, endpoint: str, user_keys: Sequence[str]) -> list[str]:
        """The keys of Redis that an endpoint of numbers reads after the features of these people, if all are answered."""
        return self.canary.reads(self.models.get(MODEL_OF[endpoint]), user_keys)

    def _from_values(
        self, endpoint: str, user_keys: Sequence[str], *, asked: Explained, now: datetime
    ) -> list[Answer[Any]]:
        """Answers of a model that reads one row of numbers a person; null for those without one."""
        name = MODEL_OF[endpoint]
        used = self.models.get(name)
        vectors = self.features.online_vectors(user_keys, service=name, now=now)
        used.require(vectors.features)
        outcomes = _outcomes(vectors)
        known = [i for i, outcome in enumerate(outcomes) if outcome is Outcome.ANSWERED]
        results: dict[int, tuple[InUse, Any]] = {}
        split = self.canary.split(used, [user_keys[i] for i in known], now=now)
        for part in split.parts if known else ():
            people = [known[place] for place in part.people]
            given = vectors.values if len(people) == len(outcomes) else vectors.values[people]
            ask = partial(result_builders.FROM_VALUES[endpoint], values=given, asked=asked)
            maker, found = part.answered(ask, people=len(people), measured=self.measured)
            results.update((i, (maker, result)) for i, result in zip(people, found, strict=True))
            self.shadow(used, partial(_judge, name, given))
        assigned = {known[place]: one for place, one in split.assigned.items()}
        values, statuses, ids = vectors.values.tolist(), vectors.status.tolist(), _new_ids(len(user_keys))
        answers, rows = [], []
        for i, decision in enumerate(vectors.decisions):
            maker, result = results.get(i, (used, None))
            made = _answer(ids[i], maker, decision, outcomes[i], result, assigned.get(i))
            evidence = Evidence(user_keys[i], decision.ledger_seq, vectors.features, values[i], statuses[i], asked)
            rows.append(record(made, evidence, endpoint=endpoint, used=maker, at=now))
            answers.append(made)
        self.keep(rows)
        return answers


@dataclass(frozen=True, slots=True)
class _List:
    """One person's ranked list, and which model made it by which strategy."""

    used: InUse
    strategy: str | None
    ranked: Sequence[Any]


def _judge(name: str, values: np.ndarray, model: Any) -> Sequence[Any]:
    """What a model of numbers says of each row: a score, or a segment."""
    found: Sequence[Any] = model.assign(values) if name == "segments" else model.score(values).tolist()
    return found


def _outcomes(vectors: Vectors) -> list[Outcome]:
    """What each row of `vectors` can be answered on. NULL is a value; a row lacking any value is not answered on."""
    worst = vectors.status.max(axis=1, initial=0).tolist()
    outcomes: list[Outcome] = []
    for decision, row, highest in zip(vectors.decisions, vectors.status, worst, strict=True):
        if not decision.allowed:
            outcomes.append(Outcome.DENIED)
        elif highest <= _NULL:
            outcomes.append(Outcome.ANSWERED)
        else:
            gone = Status.NOT_FOUND in row or Status.DENIED in row
            outcomes.append(Outcome.NOT_FOUND if gone else Outcome.EXPIRED)
    return outcomes


def _outcome_of_history(decision: Decision, history: History) -> Outcome:
    if not decision.allowed:
        return Outcome.DENIED
    return Outcome.ANSWERED if history[0] else Outcome.NOT_FOUND


def _answer(
    prediction_id: str,
    used: InUse,
    decision: Decision,
    outcome: Outcome,
    result: Any,
    assignment: Assignment | None = None,
) -> Answer[Any]:
    return Answer(
        prediction_id=prediction_id,
        model=ModelUsed(used.name, used.version),
        experiment=Experiment(assignment.flag, assignment.variant, assignment.reason) if assignment else None,
        consent=ConsentAnswer(decision.allowed, decision.purpose, str(decision.reason)),
        outcome=outcome,
        result=result,
    )


def _new_ids(count: int) -> list[str]:
    """That many random prediction ids, 32 hex characters each; one call to the system is cheaper than many."""
    drawn = os.urandom(16 * count).hex()
    return [drawn[i : i + 32] for i in range(0, 32 * count, 32)]
