"""Replay: make an answer again from its record with the very model that made it, and see whether every bit is the same.

A record of a person is used only while the person still allows the purpose it was made for. What can't be made again
is said with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from aap.consent.policy import Decision
from aap.consent.purposes import Purpose, parse_purpose
from aap.modeling.errors import ModelError
from aap.serving.errors import UnknownPrediction
from aap.serving.inference import result_builders
from aap.serving.inference.catalog_filter import Shelves
from aap.serving.logging.prediction_log import SCHEMA, vector_hash
from aap_client.requests import Explained, Ranked

__all__ = ["CantReplay", "Replay", "find", "replay"]


class Versions(Protocol):
    """What is needed of `aap.modeling.registry.registry.Registry`."""

    def version(self, name: str, version: int) -> Any: ...
    def load(self, version: Any, /) -> Any: ...


class Consent(Protocol):
    """What is needed of `aap.features.retrieval.Retrieval`."""

    def decisions(self, user_keys: list[str], *, purpose: Purpose, now: datetime) -> list[Decision]: ...


class CantReplay(Exception):
    """The answer can't be made again; the message says why."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One answer and the same made again. `same` is None when it couldn't be, and `why_not` says why."""

    prediction_id: str
    endpoint: str
    time: datetime
    model: str
    version: str
    code_revision: str | None
    same: bool | None
    recorded: Any
    computed: Any = None
    why_not: str | None = None


def find(prediction_id: str, *, records: Path) -> dict[str, Any]:
    """The record of one prediction. Raises `UnknownPrediction`."""
    files = [str(f) for f in sorted(records.rglob("day=*/*.parquet"))]
    found: list[dict[str, Any]] = []
    if files:
        # Files written before a column was added lack it, and read as null.
        table = ds.dataset(files, schema=SCHEMA, format="parquet")
        found = table.to_table(filter=ds.field("prediction_id") == pa.scalar(prediction_id)).to_pylist()
    if not found:
        raise UnknownPrediction(
            f"No record has the prediction id {prediction_id!r}: it is in every answer; records are written within "
            "seconds, and erased with their person."
        )
    return found[0]


def replay(record: dict[str, Any], *, registry: Versions, consent: Consent, shelves: Shelves, now: datetime) -> Replay:
    """Make the answer of `record` again. Never raises for what keeps an answer from being made."""
    recorded = _nameless(msgspec.json.decode(record["answer"]), record["explanations"])
    head = (
        *(record["prediction_id"], record["endpoint"], record["time"]),
        *(record["model"], record["model_version"], record["code_revision"]),
    )
    try:
        _still_allowed(record, consent=consent, now=now)
        _undamaged(record)
        computed = _compute(record, _model(record, registry), shelves=shelves)
    except CantReplay as reason:
        return Replay(*head, same=None, recorded=recorded, why_not=str(reason))
    explained = record["explanations"] is not None
    again = _nameless(
        msgspec.json.decode(msgspec.json.encode(computed)),
        [item.explanation for item in computed] if explained else None,
    )
    return Replay(*head, same=again == recorded, recorded=recorded, computed=again)


def _still_allowed(record: dict[str, Any], *, consent: Consent, now: datetime) -> None:
    if record["user_key"] is None:
        return
    purpose = parse_purpose(record["consent_purpose"])
    (decision,) = consent.decisions([record["user_key"]], purpose=purpose, now=now)
    if not decision.allowed:
        raise CantReplay(f"the person no longer allows {purpose} ({decision.reason}), so what was read may not be used")


def _undamaged(record: dict[str, Any]) -> None:
    expected = record["vector_sha256"]
    if expected is None:
        if record["consent_allowed"]:
            raise CantReplay("the record is older than the hash over its inputs, so they can't be trusted")
        return
    if vector_hash(record["values"], record["statuses"], record["sequences"]) != expected:
        raise CantReplay("the stored inputs don't match their hash: the record was altered")


def _model(record: dict[str, Any], registry: Versions) -> Any:
    name, number = record["model"], record["model_version"]
    try:
        version = registry.version(name, int(number))
        if sha256(version.tags.get("artifact_digests", "").encode()).hexdigest() != record["model_sha256"]:
            raise CantReplay(f"{name} version {number} in the registry is not the one that answered: its hash differs")
        return registry.load(version)
    except ModelError as error:
        raise CantReplay(f"{name} version {number} can't be loaded ({str(error).rstrip('.')})") from None


def _compute(record: dict[str, Any], model: Any, *, shelves: Shelves) -> Any:
    if record["endpoint"] == "recommendations":
        asked = msgspec.json.decode(record["asked"], type=Ranked)
        if record["catalogue"] is not None and record["catalogue"] != shelves.stamp():
            raise CantReplay("the catalogue that its list was sifted by has been replaced since")
        among = shelves.among(asked.filters)
        if not record["consent_allowed"]:
            categories = shelves.categories() if asked.most_a_category and record["catalogue"] is not None else None
            listed = result_builders.popular(model, asked=asked, among=among, categories=categories)
            return result_builders.items(listed, {}, explain=asked.explain)
        (ranked,) = result_builders.recommended(
            model, [record["sequences"]], strategy=record["strategy"], asked=asked, among=among
        )
        return result_builders.items(ranked, {}, explain=asked.explain)
    if record["outcome"] != "answered":
        return None
    # A null in a list of values is a NaN that Parquet kept as such; None comes of files of other writers.
    values = np.array([[np.nan if v is None else v for v in record["values"]]], dtype=np.float64)
    explained = msgspec.json.decode(record["asked"], type=Explained)
    return result_builders.FROM_VALUES[record["endpoint"]](model, values, asked=explained)[0]


def _nameless(answer: Any, explanations: Sequence[str] | None) -> Any:
    """An answer without the items' names, which are the catalogue's and not the model's; its sentences name items by id.

    Records written before sentences were kept that way have none to compare.
    """
    if not isinstance(answer, list):
        return answer
    sentences: Sequence[str | None] = explanations or [None] * len(answer)
    return [{**item, "name": None, "explanation": why} for item, why in zip(answer, sentences, strict=True)]
