"""Live quality: answers are judged by what people went on to buy, and only of people who allow it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aap.features.datasets import Interactions, Manifest
from aap.serving.analysis.online_evaluation import live_quality
from aap.serving.logging.prediction_log import SCHEMA

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ASKED = NOW - timedelta(days=20)
MANIFEST = Manifest("churn", "p", (), (), NOW, 0, "", 0, "")


@dataclass
class Door:
    """Purchases of people, and since when each may be learned from."""

    purchases: list[tuple[str, datetime, str]] = field(default_factory=list)
    since: dict[str, datetime] = field(default_factory=dict)

    def interactions(
        self, service: str, *, as_of: datetime, since: datetime | None = None, until: datetime | None = None
    ) -> Interactions:
        rows = sorted(p for p in self.purchases if since is None or p[1] > since)
        columns = list(zip(*rows, strict=True)) or [(), (), ()]
        kinds = (("user_key", pa.string()), ("occurred_at", pa.timestamp("us", tz="UTC")), ("item_id", pa.string()))
        table = pa.table({name: pa.array(c, kind) for (name, kind), c in zip(kinds, columns, strict=True)})
        return Interactions(table, MANIFEST)

    def granted_since(self, service: str, *, as_of: datetime) -> dict[str, datetime]:
        return self.since


@pytest.fixture
def door() -> Door:
    made = Door(since={f"u{i}": NOW - timedelta(days=90) for i in range(8)})
    made.purchases = [("somebody", NOW, "tea")]  # the archive reaches until now
    return made


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    whole = [
        {
            **dict.fromkeys(SCHEMA.names),
            "prediction_id": str(i),
            "time": ASKED,
            "model": "churn",
            "model_version": "1",
            "model_sha256": "",
            "endpoint": "churn",
            "asked": "{}",
            "outcome": "answered",
            "ledger_seq": 1,
            "consent_allowed": True,
            "consent_purpose": "",
            "consent_reason": "",
            **row,
        }
        for i, row in enumerate(rows)
    ]
    (folder / "day=2026-02-09").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(whole, schema=SCHEMA), folder / "day=2026-02-09" / "a.parquet")
    return folder


def churn(user: str, probability: float, **more: Any) -> dict[str, Any]:
    return {"user_key": user, "answer": f'{{"probability":{probability},"horizon_days":14,"reasons":null}}', **more}


def test_churn_is_judged_by_who_came_back(tmp_path: Path, door: Door) -> None:
    door.purchases += [(f"u{i}", ASKED + timedelta(days=3), "tea") for i in range(4)]
    door.purchases += [("u4", ASKED + timedelta(days=15), "tea"), ("u4", ASKED - timedelta(days=1), "tea")]
    folder = write(tmp_path, *(churn(f"u{i}", i / 10) for i in range(8)))
    (found,) = live_quality(door, records=folder, now=NOW)
    assert (found.model, found.version, found.answers, found.waiting) == ("churn", "1", 8, 0)
    assert found.measured == {"auc": 1.0, "predicted": pytest.approx(0.35), "observed": 0.5}


def test_what_can_not_be_known_yet_or_may_not_be_used_waits(tmp_path: Path, door: Door) -> None:
    door.since["u1"] = ASKED + timedelta(days=1)
    del door.since["u2"]
    folder = write(
        tmp_path, churn("u0", 0.1), churn("u1", 0.1), churn("u2", 0.1), churn("u3", 0.1, time=NOW - timedelta(days=3))
    )
    (found,) = live_quality(door, records=folder, now=NOW)
    assert (found.answers, found.waiting, found.measured["observed"], found.measured["auc"]) == (1, 3, 1.0, None)


def test_asking_again_on_the_same_day_does_not_count_twice(tmp_path: Path, door: Door) -> None:
    folder = write(tmp_path, *(churn("u0", 0.2) for _ in range(5)))
    (found,) = live_quality(door, records=folder, now=NOW)
    assert found.answers == 1


def test_lists_are_judged_by_variant(tmp_path: Path, door: Door) -> None:
    def shown(user: str, variant: str, item: str) -> dict[str, Any]:
        answer = f'[{{"item_id":"{item}","name":null,"score":1.0,"reason":"x"}}]'
        model = {"endpoint": "recommendations", "model": "recommendation"}
        return {"user_key": user, "variant": variant, "answer": answer, **model}

    door.purchases += [("u0", ASKED + timedelta(days=2), "tea"), ("u1", ASKED + timedelta(days=8), "tea")]
    rows = [shown("u0", "a", "tea"), shown("u1", "a", "tea"), shown("u2", "b", "tea")]
    found = live_quality(door, records=write(tmp_path, *rows), now=NOW)
    assert {q.variant: q.measured["hit_rate"] for q in found} == {"a": 0.5, "b": 0.0}


def test_before_the_first_answer_there_is_nothing(tmp_path: Path, door: Door) -> None:
    assert live_quality(door, records=tmp_path / "none", now=NOW) == []
