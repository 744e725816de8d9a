"""Live quality: what people really did after they were answered, joined to the answers whose time has come.

Only people count who allow the model to learn from them now, and did when they were answered: an outcome is a label.
Of several answers of one version about a person on one day the first counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from aap.features.datasets import Interactions
from aap.modeling.evaluation.metrics import auc
from aap.serving.logging.prediction_log import SCHEMA

__all__ = ["LiveQuality", "live_quality"]

_ITEMS_DAYS = 7
_COLUMNS = ["prediction_id", "time", "user_key", "model_version", "variant", "answer"]


class Door(Protocol):
    """What is needed of `aap.features.retrieval.Retrieval`."""

    def interactions(
        self, service: str, *, as_of: datetime, since: datetime | None = None, until: datetime | None = None
    ) -> Interactions: ...
    def granted_since(self, service: str, *, as_of: datetime) -> dict[str, datetime]: ...


@dataclass(frozen=True, slots=True)
class LiveQuality:
    """How the answers of one version, or one variant of it, did.

    Churn: `auc` (0.5 is chance; null with one outcome alone), `predicted` and `observed` shares of people who bought
    nothing. Recommendation: `hit_rate`, the share of lists of which an item was bought within a week.
    """

    model: str
    version: str
    variant: str | None
    answers: int
    """Whose time has come."""
    waiting: int
    """Whose time has not come, or that can't be judged for want of consent."""
    measured: dict[str, float | None]


def live_quality(door: Door, *, records: Path, now: datetime) -> list[LiveQuality]:
    """Every version that answered, oldest first; churn by version, recommendation by version and variant."""
    return [
        *_churn(door, _answers(records, "churn"), now=now),
        *_items(door, _answers(records, "recommendations"), now=now),
    ]


def _answers(records: Path, endpoint: str) -> pd.DataFrame:
    """The answered ones, first a person, version and day, with their decoded `result`."""
    files = [str(f) for f in sorted(records.rglob("day=*/*.parquet"))]
    if not files:
        return pd.DataFrame(columns=[*_COLUMNS, "result"])
    wanted = (ds.field("endpoint") == endpoint) & (ds.field("outcome") == "answered") & ds.field("user_key").is_valid()
    table = ds.dataset(files, schema=SCHEMA, format="parquet").to_table(columns=_COLUMNS, filter=wanted)
    found = table.to_pandas().sort_values(["time", "prediction_id"])
    found["day"] = found["time"].dt.floor("D")
    found = found.drop_duplicates(["user_key", "model_version", "day"])
    found["result"] = [msgspec.json.decode(answer) for answer in found["answer"]]
    return found


def _churn(door: Door, answers: pd.DataFrame, *, now: datetime) -> Iterator[LiveQuality]:
    if answers.empty:
        return
    horizons = pd.to_timedelta([r["horizon_days"] for r in answers["result"]], unit="D")
    answers = answers.assign(ends=answers["time"] + horizons)
    bought, judged = _purchases(door, "churn", answers, now=now)
    for version, ours in answers.groupby("model_version", sort=False):
        due = ours[judged.loc[ours.index]]
        left = np.array(
            [not any(row.time < at <= row.ends for at, _ in bought.get(row.user_key, ())) for row in due.itertuples()],
            dtype=float,
        )
        scores = np.array([r["probability"] for r in due["result"]], dtype=float)
        both = len(np.unique(left)) == 2
        measured = {
            "auc": float(auc(left, scores)) if both else None,
            "predicted": float(scores.mean()) if len(due) else None,
            "observed": float(left.mean()) if len(due) else None,
        }
        yield LiveQuality("churn", str(version), None, len(due), len(ours) - len(due), measured)


def _items(door: Door, answers: pd.DataFrame, *, now: datetime) -> Iterator[LiveQuality]:
    if answers.empty:
        return
    answers = answers.assign(
        ends=answers["time"] + timedelta(days=_ITEMS_DAYS), variant=answers["variant"].fillna("none")
    )
    bought, judged = _purchases(door, "recommendation", answers, now=now)
    for (version, variant), ours in answers.groupby(["model_version", "variant"], sort=False):
        due = ours[judged.loc[ours.index]]
        hits = [_bought_one(row, bought.get(row.user_key, [])) for row in due.itertuples()]
        measured = {"hit_rate": float(np.mean(hits)) if hits else None}
        yield LiveQuality("recommendation", str(version), str(variant), len(due), len(ours) - len(due), measured)


def _bought_one(row: Any, bought: list[tuple[datetime, str]]) -> bool:
    shown = {item["item_id"] for item in row.result}
    return any(row.time < at <= row.ends and item in shown for at, item in bought)


def _purchases(
    door: Door, service: str, answers: pd.DataFrame, *, now: datetime
) -> tuple[dict[str, list[tuple[datetime, str]]], pd.Series]:
    """Purchases by person, and which answers can be judged: due, and under the grants that hold now."""
    table = door.interactions(service, as_of=now, since=answers["time"].min().to_pydatetime()).table
    newest = table["occurred_at"].to_pandas().max() if table.num_rows else pd.NaT
    bought: dict[str, list[tuple[datetime, str]]] = {}
    columns = (table[c].to_pylist() for c in ("user_key", "occurred_at", "item_id"))
    for user, at, item in zip(*columns, strict=True):
        bought.setdefault(user, []).append((at, item))
    since = door.granted_since(service, as_of=now)
    allowed = [u in since and since[u] <= t for u, t in zip(answers["user_key"], answers["time"], strict=True)]
    # What happened after the newest event that reached the archive is not known yet.
    return bought, pd.Series(allowed, index=answers.index) & (answers["ends"] <= newest)
