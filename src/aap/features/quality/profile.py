"""The profile of a feature: how fresh its values are, how many are missing, how they are spread.

It is made of what is built, as of the moment of the build, and of people who allow the view's purpose now: nobody else is
counted. Nothing in it is one person's: shares, quantiles, and how many values fall into each of a few ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import redis

from aap.features.declarations import DAY_US, Entity
from aap.features.errors import OnlineStoreUnavailable
from aap.features.offline.build import Standing, current_spans
from aap.features.offline.store import built_view
from aap.features.online import reader
from aap.features.online.row_codec import HEADER, header_of
from aap.features.views import View
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import Folder
from aap.infra.redis.connection import UNREACHABLE
from aap.infra.timestamps import from_micros, to_micros

__all__ = ["Bar", "Spread", "ViewProfile", "brought_online", "profile"]

_BARS = 10
_LOOKED_AT = 1_000
"""Entities whose online rows are looked at for the newest."""


@dataclass(frozen=True, slots=True)
class Bar:
    """How many values are at least `low` and below `high` (the last: up to and including)."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Spread:
    """How the values of one feature lie. Values beyond the 99th percentile are in the last bar."""

    values: int
    missing_share: float
    """Of all entities, those whose value is null."""
    smallest: float
    median: float
    largest: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class ViewProfile:
    """One view as it was built."""

    view: View
    built_as_of: datetime
    entities: tuple[str, ...]
    """Keys, in order; for looking them up, not to be shown."""
    values: np.ndarray
    """float64 `[n_entities, n_numbers]` at `built_as_of`; times since a moment in days, NaN for null."""

    def missing_share(self, feature: str) -> float:
        """Of all entities, those whose value is null; 0 where there are none."""
        column = self.values[:, self.view.names.index(feature)]
        return float(np.isnan(column).mean()) if len(column) else 0.0

    def spread(self, feature: str) -> Spread | None:
        """How the values of `feature` lie; None where there are none."""
        column = self.values[:, self.view.names.index(feature)]
        there = column[~np.isnan(column)]
        if not len(there):
            return None
        low, high = float(there.min()), float(np.quantile(there, 0.99))
        counts, edges = np.histogram(
            np.minimum(there, high), bins=_BARS if high > low else 1, range=(low, max(high, low))
        )
        bars = tuple(Bar(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True))
        return Spread(len(there), self.missing_share(feature), low, float(np.median(there)), float(there.max()), bars)


def profile(view: View, *, folder: Folder | Path, standing: Standing, now: datetime) -> ViewProfile:
    """The view's values as built below `folder`; raises `FeaturesNotBuilt`."""
    built = built_view(Folder.at(folder), view)
    at = to_micros(built.as_of)
    with open_duckdb() as connection, built.reading():
        connection.execute("SET TimeZone = 'UTC'")
        where = f"epoch_us(valid_from) <= {at}"
        if view.entity is Entity.USER:
            connection.register("granted", current_spans(standing, view.purpose, as_of=now))
            where += f" AND ({view.key}, epoch_us(grant_start)) IN (SELECT (k, start) FROM granted)"
        numbers = ", ".join(
            f"({at} - epoch_us({f.name})) / {DAY_US}.0 AS {f.name}" if since else f.name
            for f, since in zip(view.numbers, view.since, strict=True)
        )
        found = connection.execute(
            f"SELECT {view.key} AS k{', ' if numbers else ''}{numbers} FROM {built.sql(on=connection)} WHERE {where} "
            f"QUALIFY row_number() OVER (PARTITION BY {view.key} ORDER BY valid_from DESC) = 1 ORDER BY k"
        ).to_arrow_table()
    columns = [found[n].to_numpy(zero_copy_only=False).astype(np.float64) for n in view.names]
    values = np.column_stack(columns) if columns else np.empty((found.num_rows, 0))
    return ViewProfile(view, built.as_of, tuple(found["k"].to_pylist()), values)


def brought_online(client: redis.Redis, of: ViewProfile, *, now: datetime) -> datetime | None:
    """Up to when the newest row online knows what was received, of up to a thousand entities; None without any.

    Raises `OnlineStoreUnavailable`.
    """
    step = max(1, len(of.entities) // _LOOKED_AT)
    keys = of.entities[::step][:_LOOKED_AT]
    if of.view.entity is Entity.USER:
        newest = reader.read(client, of.view, keys, purposes=[of.view.purpose], now=now).as_of
        return from_micros(int(newest.max())) if newest.any() else None
    try:
        blobs: Any = client.mget([reader.item_key(k, of.view.purpose) for k in keys]) if keys else []
    except UNREACHABLE as error:
        raise OnlineStoreUnavailable(f"Redis can't be reached ({error}).") from error
    made = [int(header_of(of.view, b)["as_of"]) for b in blobs if b is not None and len(b) >= HEADER.itemsize]
    return from_micros(max(made)) if made else None
