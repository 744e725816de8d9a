"""Feast's own Redis store, set up as its documentation says, with the same crowd: what ours is measured beside."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64

from aap.config import Settings
from aap.infra.paths import Layout
from aap.infra.redis.embedded_server import HOST, read_state
from benchmarks.support.synthetic_users import AS_OF, FEATURES, Crowd

__all__ = ["VIEWS", "FeastPeer"]

VIEWS = 5
_EACH = FEATURES // VIEWS


class FeastPeer:
    """A Feast repository with five views of ten features and one service, over the server of `settings`."""

    def __init__(self, settings: Settings, *, folder: Path) -> None:
        state = read_state(Layout(settings.home))
        if state is None:
            raise RuntimeError("The benchmark's server is gone.")
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._store = FeatureStore(
            config=RepoConfig(
                project="peer",
                provider="local",
                registry=str(folder / "registry.db"),
                online_store={
                    "type": "redis",
                    "connection_string": f"{HOST}:{state.port},password={state.password}",
                },
                offline_store={"type": "dask"},
                entity_key_serialization_version=3,
            )
        )
        user = Entity(name="user", join_keys=["user_key"], value_type=ValueType.STRING)
        self._views = [self._view(user, number) for number in range(VIEWS)]
        with _quietly():
            self._store.apply([user, *self._views, FeatureService(name="everything", features=self._views)])
        self._service = self._store.get_feature_service("everything")

    def fill(self, people: Crowd, places: Sequence[int]) -> float:
        """Materialize the people at `places`, from Parquet files, by Feast's own engine; returns the seconds it took."""
        for number in range(VIEWS):
            columns: dict[str, Any] = {
                "user_key": [people.keys[i] for i in places],
                "at": pa.array(np.full(len(places), AS_OF - timedelta(hours=1)), pa.timestamp("us", tz="UTC")),
            }
            for place in range(number * _EACH, (number + 1) * _EACH):
                columns[f"f{place}"] = people.values[list(places), place]
            pq.write_table(pa.table(columns), self._file(number))
        started = time.perf_counter()
        with _quietly():
            self._store.materialize(start_date=AS_OF - timedelta(days=1), end_date=AS_OF)
        return time.perf_counter() - started

    def read(self, keys: Sequence[str]) -> dict[str, Any]:
        """All fifty values of `keys`, as Feast hands them out."""
        rows = [{"user_key": key} for key in keys]
        return self._store.get_online_features(features=self._service, entity_rows=rows).to_dict()

    def _file(self, number: int) -> Path:
        return self._folder / f"view{number}.parquet"

    def _view(self, user: Entity, number: int) -> FeatureView:
        return FeatureView(
            name=f"view{number}",
            entities=[user],
            ttl=timedelta(days=35),
            schema=[Field(name=f"f{p}", dtype=Float64) for p in range(number * _EACH, (number + 1) * _EACH)],
            source=FileSource(name=f"source{number}", path=str(self._file(number)), timestamp_field="at"),
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
