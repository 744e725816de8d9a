"""The predictor: from people to answers, with consent, features, experiment and model brought together.

It knows nothing of HTTP and keeps no state: everything it needs is handed in, and the same inputs give the same
answers (but for `prediction_id`). A person's answer never depends on who else is in the call. The model is taken once a
call, so a champion that changes meanwhile never mixes two versions in one call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol

import numpy as np

from consent.policy import Decision
from experiments.assignment import Assignment
from feature_repo.frame import Status, Vectors
from serving.answers import (
    AnomalyResult,
    Answer,
    ChurnResult,
    ConsentAnswer,
    Experiment,
    Item,
    ModelUsed,
    Outcome,
    Result,
    SegmentResult,
)
from serving.item_names import ItemNames
from serving.models_in_use import InUse
from serving.records import Evidence, record

__all__ = ["FLAG", "Predictor"]

FLAG = "recommendation_strategy"


class Features(Protocol):
    """What is needed of `feature_repo.retrieval.Retrieval`."""

    def online_vectors(self, user_keys: Sequence[str], *, service: str, now: datetime) -> Vectors:
        """Values, statuses, sequences and one consent decision a person."""


class Models(Protocol):
    """What is needed of `serving.models_in_use.ModelsInUse`."""

    def get(self, name: str) -> InUse: ...


class Assignments(Protocol):
    """What is needed of `experiments.assignment.Assigner`."""

    def assign(self, user_keys: Sequence[str], *, flag: str, now: datetime) -> list[Assignment]: ...


@dataclass(frozen=True, slots=True)
class Predictor:
    """Answers for many people at once; `keep` takes the prediction records, `measured` times what a variant does,
    `shadow` takes what a model was asked, for a challenger.

    Every method gives one answer a person, in order. They raise `NoModel`, `FeaturesDiffer`, and what the stores raise
    when they are down.
    """

    features: Features
    models: Models
    assignments: Assignments
    names: ItemNames
    keep: Callable[[Sequence[dict[str, Any]]], None]
    measured: Callable[[str, str, int], AbstractContextManager[None]] = lambda *_: nullcontext()
    shadow: Callable[[InUse, Callable[[Any], Any]], None] = lambda *_: None

    def churn(self, user_keys: Sequence[str], *, now: datetime) -> list[Answer[ChurnResult]]:
        """How likely each person is to stop buying."""

        def answer(model: Any, values: np.ndarray) -> list[ChurnResult]:
            scores, reasons = model.score(values).tolist(), model.reasons(values)
            return [ChurnResult(p, model.horizon_days, tuple(why)) for p, why in zip(scores, reasons, strict=True)]

        return self._from_values("churn", "churn", user_keys, answer=answer, now=now)

    def segments(self, user_keys: Sequence[str], *, now: datetime) -> list[Answer[SegmentResult]]:
        """The group of customers each person is most like."""

        def answer(model: Any, values: np.ndarray) -> list[SegmentResult]:
            return [SegmentResult(a.segment, a.name, a.distance) for a in model.assign(values)]

        return self._from_values("segments", "segments", user_keys, answer=answer, now=now)

    def anomalies(self, user_keys: Sequence[str], *, now: datetime) -> list[Answer[AnomalyResult]]:
        """How unusual each person's activity is."""

        def answer(model: Any, values: np.ndarray) -> list[AnomalyResult]:
            limit, drivers = float(model.threshold), model.drivers(values)
            scores = model.score(values).tolist()
            return [AnomalyResult(s, limit, s > limit, tuple(d)) for s, d in zip(scores, drivers, strict=True)]

        return self._from_values("anomalies", "anomaly", user_keys, answer=answer, now=now)

    def recommendations(self, user_keys: Sequence[str], *, n: int, now: datetime) -> list[Answer[tuple[Item, ...]]]:
        """The `n` best items for each person: their own for those who allow it, the popular ones for everyone else."""
        used = self.models.get("recommendation")
        vectors = self.features.online_vectors(user_keys, service="recommendation", now=now)
        used.require(tuple(vectors.sequences))
        items, baskets = (vectors.sequences[name] for name in used.model.features)
        outcomes = [_outcome_of_sequence(d, s) for d, s in zip(vectors.decisions, items, strict=True)]
        lists, assigned = self._lists(user_keys, items, baskets, outcomes, used=used, n=n, now=now)
        popular = self.models.get("popularity") if Outcome.DENIED in outcomes else None
        everyones = popular.model.top(n) if popular else []
        shown = [r for row in [*lists.values(), everyones] for r in row]
        names = self.names.of(i for r in shown for i in (r.item_id, r.because) if i is not None)
        ids = _new_ids(len(user_keys))
        answers, rows = [], []
        for i, decision in enumerate(vectors.decisions):
            maker = popular if popular and outcomes[i] is Outcome.DENIED else used
            listed = tuple(_item(r, names) for r in lists.get(i, everyones))
            answer = _answer(ids[i], maker, decision, outcomes[i], listed, assigned.get(i))
            read = used.model.features
            evidence = Evidence(user_keys[i], decision.ledger_seq, read, None, None, items[i], baskets[i], n)
            rows.append(record(answer, evidence, endpoint="recommendations", used=maker, at=now))
            answers.append(answer)
        self.keep(rows)
        return answers

    def _lists(
        self,
        user_keys: Sequence[str],
        items: Sequence[Sequence[str]],
        baskets: Sequence[Sequence[str]],
        outcomes: Sequence[Outcome],
        *,
        used: InUse,
        n: int,
        now: datetime,
    ) -> tuple[dict[int, Sequence[Any]], dict[int, Assignment]]:
        """Ranked lists, by position, of the people who are not denied, and the assignments they were made with.

        Only people with a history are in the experiment: without one every strategy gives what is popular.
        """
        known = [i for i, outcome in enumerate(outcomes) if outcome is Outcome.ANSWERED]
        made = self.assignments.assign([user_keys[i] for i in known], flag=FLAG, now=now) if known else []
        assigned = dict(zip(known, made, strict=True))
        unknown = [i for i, outcome in enumerate(outcomes) if outcome is Outcome.NOT_FOUND]
        arms: dict[str, list[int]] = {"buy_again": unknown} if unknown else {}
        for i, assignment in assigned.items():
            arms.setdefault(assignment.variant, []).append(i)
        lists: dict[int, Sequence[Any]] = {}
        for strategy, people in arms.items():
            theirs = [items[i] for i in people], [baskets[i] for i in people]
            inside = all(i in assigned and assigned[i].exposed for i in people)
            with self.measured(FLAG, strategy, len(people)) if inside else nullcontext():
                ranked = _recommend(*theirs, n, strategy, used.model)
            self.shadow(used, partial(_recommend, *theirs, n, strategy))
            lists.update(zip(people, ranked, strict=True))
        return lists, assigned

    def _from_values(
        self,
        endpoint: str,
        name: str,
        user_keys: Sequence[str],
        *,
        answer: Callable[[Any, np.ndarray], Sequence[Result]],
        now: datetime,
    ) -> list[Answer[Any]]:
        """Answers of a model that reads one row of numbers a person; null for those without one."""
        used = self.models.get(name)
        vectors = self.features.online_vectors(user_keys, service=name, now=now)
        used.require(vectors.features)
        outcomes = _outcomes(vectors)
        known = [i for i, outcome in enumerate(outcomes) if outcome is Outcome.ANSWERED]
        asked = vectors.values[known]
        results = dict(zip(known, answer(used.model, asked), strict=True)) if known else {}
        if known:
            self.shadow(used, partial(_judge, name, asked))
        values, statuses, ids = vectors.values.tolist(), vectors.status.tolist(), _new_ids(len(user_keys))
        answers, rows = [], []
        for i, decision in enumerate(vectors.decisions):
            made = _answer(ids[i], used, decision, outcomes[i], results.get(i))
            evidence = Evidence(user_keys[i], decision.ledger_seq, vectors.features, values[i], statuses[i])
            rows.append(record(made, evidence, endpoint=endpoint, used=used, at=now))
            answers.append(made)
        self.keep(rows)
        return answers


def _judge(name: str, values: np.ndarray, model: Any) -> Sequence[Any]:
    """What a model of numbers says of each row: a score, or a segment."""
    found: Sequence[Any] = model.assign(values) if name == "segments" else model.score(values).tolist()
    return found


def _recommend(
    items: Sequence[Sequence[str]], baskets: Sequence[Sequence[str]], n: int, strategy: str, model: Any
) -> Sequence[Any]:
    found: Sequence[Any] = model.recommend(items, baskets=baskets, n=n, strategy=strategy)
    return found


def _outcomes(vectors: Vectors) -> list[Outcome]:
    """What each row of `vectors` can be answered on. NULL is a value; a row lacking any value is not answered on."""
    lacking = (vectors.status == Status.NOT_FOUND) | (vectors.status == Status.DENIED)
    not_found, expired = lacking.any(axis=1).tolist(), (vectors.status == Status.EXPIRED).any(axis=1).tolist()
    outcomes: list[Outcome] = []
    for decision, gone, old in zip(vectors.decisions, not_found, expired, strict=True):
        if not decision.allowed:
            outcomes.append(Outcome.DENIED)
        elif gone:
            outcomes.append(Outcome.NOT_FOUND)
        else:
            outcomes.append(Outcome.EXPIRED if old else Outcome.ANSWERED)
    return outcomes


def _outcome_of_sequence(decision: Decision, sequence: Sequence[str]) -> Outcome:
    if not decision.allowed:
        return Outcome.DENIED
    return Outcome.ANSWERED if sequence else Outcome.NOT_FOUND


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


def _item(ranked: Any, names: Mapping[str, str | None]) -> Item:
    return Item(ranked.item_id, names.get(ranked.item_id), ranked.score, ranked.reason, ranked.explain(names))
