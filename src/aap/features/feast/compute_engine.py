"""Feast's materialization, as ours: from a view's Parquet file straight to packed rows."""

from __future__ import annotations

from typing import Any, Literal

from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel

from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.features.declarations import Entity
from aap.features.feast.objects import view_of
from aap.features.feast.online_store import settings_of
from aap.features.online import reader
from aap.features.online.materialize import known_until, latest_items, latest_rows
from aap.infra.object_store import archive_folder, features_folder
from aap.infra.redis.connection import connect

__all__ = ["PackedComputeEngine", "PackedComputeEngineConfig"]


class PackedComputeEngineConfig(FeastConfigBaseModel):
    """Nothing to set."""

    type: Literal["aap.features.feast.compute_engine.PackedComputeEngine"] = (
        "aap.features.feast.compute_engine.PackedComputeEngine"
    )


class PackedComputeEngine(LocalComputeEngine):
    """Materializes a whole view as of the end of the interval asked for, or of the build if that was earlier; newer rows
    already there are kept.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.pop("backend", None)
        super().__init__(backend=None, **kwargs)

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **_: Any) -> LocalMaterializationJob:
        job = f"{task.feature_view.name}-{task.end_time}"
        view, settings = view_of(task.feature_view), settings_of(self.repo_config)
        features, as_of = features_folder(settings), task.end_time
        try:
            client = connect(settings)
            if view.entity is Entity.ITEM:
                reader.write_items(client, view, latest_items(view, folder=features, as_of=as_of))
            else:
                rows = latest_rows(
                    view,
                    folder=features,
                    archive=Archive(archive_folder(settings)),
                    standing=open_ledger(settings).standing(in_force_at=settings.now()),
                    as_of=known_until(view, folder=features, as_of=as_of),
                )
                reader.write_many(client, view, rows)
        except Exception as error:  # handed to Feast, which raises it
            return LocalMaterializationJob(job_id=job, status=MaterializationJobStatus.ERROR, error=error)
        return LocalMaterializationJob(job_id=job, status=MaterializationJobStatus.SUCCEEDED)
