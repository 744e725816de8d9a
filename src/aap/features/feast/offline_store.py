"""Feast's offline store, as ours: DuckDB's as-of join over the views' Parquet files. Reading needs a purpose in force.

Consent is part of the join: of each person only what the grant in force now allows is joined; rows it doesn't allow come
back null, in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel

from aap.consent.service import open_ledger
from aap.features.declarations import Entity
from aap.features.errors import FeatureError, UnusableLabels
from aap.features.feast.objects import view_of
from aap.features.feast.online_store import note_feast_read, settings_of
from aap.features.offline.point_in_time_join import point_in_time_join
from aap.features.offline.store import built_view
from aap.features.purpose_context import require_purpose
from aap.infra.object_store import features_folder

__all__ = ["AsofOfflineStore", "AsofOfflineStoreConfig"]


class AsofOfflineStoreConfig(FeastConfigBaseModel):
    """Nothing to set: the files are where the sources say."""

    type: Literal["aap.features.feast.offline_store.AsofOfflineStore"] = (
        "aap.features.feast.offline_store.AsofOfflineStore"
    )


class _Job(RetrievalJob):
    """A join to be run; running it twice gives the same."""

    def __init__(self, run: Callable[[], pa.Table], *, full_feature_names: bool, features: list[str]) -> None:
        self._run = run
        self._full_feature_names = full_feature_names
        self._metadata = RetrievalMetadata(features=features, keys=["user_key", "item_id"])

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._run().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return []

    @property
    def metadata(self) -> RetrievalMetadata:
        return self._metadata


class AsofOfflineStore(OfflineStore):
    """Point-in-time joins by DuckDB."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **_: Any,
    ) -> RetrievalJob:
        """Values of `feature_refs` for each row of `entity_df` (a key column and `event_timestamp`), in its order."""
        if not isinstance(entity_df, pd.DataFrame) or "event_timestamp" not in entity_df:
            raise UnusableLabels("Give a data frame with the entity's key and `event_timestamp`.")
        if (untimed := np.flatnonzero(entity_df["event_timestamp"].isna())).size:
            raise UnusableLabels(f"Row {untimed[0]} has no `event_timestamp`; give every row a time.")
        for table in feature_views:
            require_purpose(view_of(table).purpose, what=table.name)
        tables = {t.projection.name_to_use(): t for t in feature_views}

        def run() -> pa.Table:
            out = pa.Table.from_pandas(entity_df, preserve_index=False)
            for name, table in tables.items():
                wanted = [r.split(":", 1)[1] for r in feature_refs if r.split(":", 1)[0] == name]
                for feature, column in _joined(config, table, entity_df, wanted).items():
                    called = f"{name}__{feature}" if full_feature_names else feature
                    if called in out.column_names:
                        raise UnusableLabels(f"The data frame already has a column {called!r}; rename it.")
                    out = out.append_column(called, column)
            return out

        return _Job(run, full_feature_names=full_feature_names, features=feature_refs)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Not offered: materialization packs rows by itself, and nothing else may read values without a purpose."""
        raise FeatureError(
            "Use `aap features materialize` or `feast materialize`; they read the latest values themselves."
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Not offered, for the same reason."""
        raise FeatureError("All values of a view can't be read at once; ask for a training frame.")


def _joined(config: RepoConfig, table: FeatureView, entity_df: pd.DataFrame, wanted: list[str]) -> dict[str, pa.Array]:
    view, settings = view_of(table), settings_of(config)
    if view.key not in entity_df:
        raise UnusableLabels(f"The data frame has no column {view.key!r}, which {view.name} is joined by.")
    now = settings.now()
    moments = pd.to_datetime(entity_df["event_timestamp"], utc=True).dt.as_unit("us").astype("int64").to_numpy()
    keys = pa.array(entity_df[view.key].astype(str), pa.string())
    numbers = [f.name for f in view.numbers if f.name in wanted]
    values, found, starts = point_in_time_join(
        built_view(features_folder(settings), view), keys=keys, moments=moments, features=numbers
    )
    if view.entity is Entity.USER:
        since = open_ledger(settings).in_force(view.purpose, at=now)
        granted = pa.array(since.values(), pa.timestamp("us", tz="UTC")).cast(pa.int64())
        held = granted.take(pc.index_in(keys, value_set=pa.array(since, pa.string()))).fill_null(-2)
        found = found & (held.to_numpy() == starts)
        note_feast_read(settings, view, about=pc.unique(keys.filter(pa.array(found))).to_pylist(), at=now)
    columns: dict[str, pa.Array] = {}
    for name in wanted:
        if name not in numbers:
            raise FeatureError(f"{name!r} is a list; lists are read online or by `retrieval.interactions`.")
        column = values[:, numbers.index(name)]
        columns[name] = pa.array(column, pa.float64(), mask=~found | np.isnan(column))
    return columns
