"""Feast's store over the platform's settings: apply the declarations, materialize them."""

from __future__ import annotations

import contextlib
import io
from datetime import UTC, datetime

import yaml
from feast import FeatureStore, RepoConfig

from aap.config import Settings
from aap.features.feast.objects import feast_objects
from aap.infra.atomic_files import write_atomically
from aap.infra.object_store import features_folder
from aap.infra.paths import Layout
from aap.project.loader import current_project

__all__ = ["apply", "materialize", "open_store"]


def open_store(settings: Settings) -> FeatureStore:
    """A Feast store whose registry and data are under `settings.home`."""
    return FeatureStore(config=RepoConfig(**_config(settings), repo_path=Layout(settings.home).feast_registry.parent))


def apply(settings: Settings) -> FeatureStore:
    """Register the declared entities, views and services; what is no longer declared is taken out."""
    folder = Layout(settings.home).feast_registry.parent
    folder.mkdir(parents=True, exist_ok=True)
    # `feast -c <home>/feast ui` and the like work on this home.
    write_atomically(folder / "feature_store.yaml", yaml.safe_dump(_config(settings), sort_keys=False).encode())
    store = open_store(settings)
    wanted = feast_objects(features_folder(settings))
    names = {o.name for o in wanted}
    gone = [o for o in (*store.list_feature_services(), *store.list_feature_views()) if o.name not in names]
    with contextlib.redirect_stdout(io.StringIO()):
        store.apply(wanted, objects_to_delete=gone, partial=not gone)
    return store


def materialize(settings: Settings, *, as_of: datetime) -> None:
    """Bring every view's values as of `as_of` online, through Feast."""
    store = open_store(settings)
    start = datetime(1970, 1, 2, tzinfo=UTC)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        store.materialize(start_date=start, end_date=as_of)


def _config(settings: Settings) -> dict[str, object]:
    config: dict[str, object] = yaml.safe_load(
        (current_project().root / "feature_repo" / "feature_store.yaml").read_text(encoding="utf-8")
    )
    config["registry"] = str(Layout(settings.home).feast_registry)
    config["online_store"] = {**config["online_store"], "home": str(settings.home)}  # type: ignore[dict-item]
    return config
