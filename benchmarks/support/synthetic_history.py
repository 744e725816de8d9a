"""A made-up history for the offline benchmark: people of one depth, their change points, and label rows to be joined.

Seeded. The view and the service are the platform's own: the nine features that segments are made of. Two of a hundred people
have withdrawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from aap.config import Settings
from aap.consent.ledger.ledger import Entry
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.features.declarations import Entity, Service
from aap.features.offline.store import Inputs, OfflineValues
from aap.features.offline.writer import ValuesWriter
from aap.features.online.reader import to_micros
from aap.features.views import View, service, view_for
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import features_folder

__all__ = ["PURPOSE", "SERVICE", "VIEW", "History", "make_history"]

PURPOSE = Purpose.ANALYTICS_REPORTING
SERVICE: Service = service("segments")
VIEW: View = view_for(Entity.USER, PURPOSE)
_SPAN = timedelta(days=390)


@dataclass(frozen=True, slots=True)
class History:
    """What every contender reads: `labels` has `user_key`, `event_timestamp` and `label`; `file` is for the peers."""

    labels: pd.DataFrame
    values: OfflineValues
    file: Path


def make_history(settings: Settings, *, rows: int, labels: int, depth: int, now: datetime, seed: int = 7) -> History:
    """Lay down `rows` change points, `depth` a person, in the home of `settings`, and draw `labels` label rows."""
    random = np.random.default_rng(seed)
    people, start = rows // depth, now - _SPAN
    keys = sorted(random.bytes(16).hex() for _ in range(people))
    _allow(settings, keys, start=start, now=now, withdrawn=random.random(people) < 0.02)
    first, span = to_micros(start), int(_SPAN / timedelta(microseconds=1))
    moments = first + random.integers(0, span, size=(people, depth))
    moments[:, 0] = first
    moments = np.sort(moments, axis=1).reshape(-1)
    columns = {"k": np.repeat(keys, depth), "moment": moments, "grant_start": np.full(people * depth, first)}
    for feature, since in zip(VIEW.numbers, VIEW.since, strict=True):
        drawn = random.integers(0, 10_000, size=people * depth)
        columns[feature.name] = moments - drawn * 3_600_000_000 if since else drawn / 100
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("laid", pa.table(columns))
        writer = ValuesWriter(VIEW, folder=features_folder(settings))
        writer.add(connection, "laid")
        values = writer.finish(Inputs(now))
        file = settings.home / "peers.parquet"
        picked = ", ".join(
            f"epoch_us({n})::DOUBLE AS {n}" if VIEW.since[VIEW.names.index(n)] else n for n in SERVICE.features
        )
        connection.execute(
            f"COPY (SELECT user_key, valid_from, {picked} FROM {values.sql(on=connection)} ORDER BY user_key, valid_from) "
            f"TO '{file}' (FORMAT parquet, COMPRESSION zstd)"
        )
    return History(_labels(keys, labels, first=first, span=span, random=random), values, file)


def _labels(keys: list[str], size: int, *, first: int, span: int, random: np.random.Generator) -> pd.DataFrame:
    """In no order; one in a hundred shares person and time with another."""
    who, when = random.integers(len(keys), size=size), first + random.integers(0, span, size=size)
    same, other = random.integers(size, size=(2, size // 100))
    who[same], when[same] = who[other], when[other]
    asked = pd.DataFrame({"user_key": np.array(keys, dtype=object)[who]})
    asked["event_timestamp"] = pd.to_datetime(when, unit="us", utc=True).as_unit("us")
    return asked.assign(label=np.arange(size))


def _allow(settings: Settings, keys: list[str], *, start: datetime, now: datetime, withdrawn: np.ndarray) -> None:
    def said(key: str, purpose: Purpose, status: Status, at: datetime) -> Entry:
        return Entry(key, purpose, status, at, "a benchmark", "drawn", "none")

    entries = [said(k, p, Status.GIVEN, start) for k in keys for p in SERVICE.training_purposes]
    entries += [
        said(k, PURPOSE, Status.WITHDRAWN, now - timedelta(days=1))
        for k, gone in zip(keys, withdrawn, strict=True)
        if gone
    ]
    open_ledger(settings).append(entries, received_at=now)
