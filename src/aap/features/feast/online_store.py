"""Feast's online store, as ours: packed rows beside the person's consent. Reading needs a purpose in force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import redis
from feast import Entity as FeastEntity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import StringList, Value as ValueProto
from feast.repo_config import FeastConfigBaseModel

from aap.config import Settings, load_settings
from aap.consent import redis_projection
from aap.features.datasets import Status
from aap.features.declarations import Entity
from aap.features.feast.objects import view_of
from aap.features.online import reader
from aap.features.online.row_codec import NEVER, pack_row
from aap.features.purpose_context import require_purpose
from aap.features.views import View
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect
from aap.security.audit_log import note_read

__all__ = ["PackedOnlineStore", "PackedOnlineStoreConfig", "note_feast_read", "settings_of"]

_Row = tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]


class PackedOnlineStoreConfig(FeastConfigBaseModel):
    """`home` overrides where settings are looked for; Redis itself is a setting of the platform."""

    type: Literal["aap.features.feast.online_store.PackedOnlineStore"] = (
        "aap.features.feast.online_store.PackedOnlineStore"
    )
    home: str | None = None


class PackedOnlineStore(OnlineStore):
    """Packed rows in Redis."""

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[_Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Write `data` as of each row's own time; rows of people who don't allow the view's purpose are left out."""
        view, client = view_of(table), _client(config)
        if view.entity is Entity.ITEM:
            reader.write_items(client, view, ((_key(k), _row(view, v, at, grant_start=0)) for k, v, at, _ in data))
        else:
            blobs = client.mget([redis_projection.consent_key(_key(k)) for k, *_ in data]) if data else []
            held, sound = redis_projection.unpack(blobs)  # type: ignore[arg-type]
            starts = held["grants"]["start"][:, redis_projection.slot(view.purpose)]
            reader.write(
                client,
                view,
                (
                    reader.OnlineRow(_key(k), _row(view, v, at, grant_start=int(start)), b"", _micros(at), int(start))
                    for (k, v, at, _), start, ok in zip(data, starts, sound, strict=True)
                    if ok
                ),
            )
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
        **_: Any,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """Values now; (None, None) where there is none to be read. Raises `NoPurposeInForce` without the view's purpose."""
        view = view_of(table)
        require_purpose(view.purpose, what=table.name)
        settings = settings_of(config)
        now, keys = settings.now(), [_key(k) for k in entity_keys]
        wanted = set(requested_features or [f.name for f in view.features])
        if view.entity is Entity.ITEM:
            values, status = reader.read_items(_client(config), view, keys, now=now)
            lists: Sequence[list[list[str]]] = []
        else:
            read = reader.read(_client(config), view, keys, purposes=[view.purpose], now=now)
            values, status, lists = read.values, read.status, read.sequences
            allowed = [key for key, decision in zip(keys, read.decisions, strict=True) if decision.allowed]
            note_feast_read(settings, view, about=allowed, at=now)
        return [_answer(view, i, values, status, lists, wanted, now=now) for i in range(len(keys))]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[FeastEntity],
        entities_to_keep: Sequence[FeastEntity],
        partial: bool,
    ) -> None:
        """Nothing to set up. Rows of a view that is gone expire by their own header and are deleted with their purpose."""

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[FeastEntity]) -> None:
        """Nothing to take down: erasing people is the platform's, never a scan."""


def note_feast_read(settings: Settings, view: View, *, about: Sequence[str], at: datetime) -> None:
    """An entry in the audit log, of a read by Feast's own API."""
    note_read(Layout(settings.home).audit, f"{view.name} through Feast, {view.purpose}", about=about, at=at)


def settings_of(config: RepoConfig) -> Settings:
    """The platform's settings behind a Feast configuration."""
    home = getattr(config.online_store, "home", None)
    return _settings(home)


@lru_cache(maxsize=8)
def _settings(home: str | None) -> Settings:
    return load_settings(Path(home) if home else None)


@lru_cache(maxsize=8)
def _connected(settings: Settings) -> redis.Redis:
    return connect(settings)


def _client(config: RepoConfig) -> redis.Redis:
    return _connected(settings_of(config))


def _key(entity: EntityKeyProto) -> str:
    return entity.entity_values[0].string_val


def _micros(at: datetime) -> int:
    return reader.to_micros(at if at.tzinfo else at.replace(tzinfo=UTC))


def _row(view: View, given: dict[str, ValueProto], at: datetime, *, grant_start: int) -> bytes:
    """Pack values as Feast hands them over; what tells time since a moment is turned back into that moment."""
    moment = _micros(at)
    values = np.full(len(view.numbers), np.nan)
    for i, (feature, since) in enumerate(zip(view.numbers, view.since, strict=True)):
        value = given.get(feature.name)
        if value is not None and value.WhichOneof("val") == "double_val":
            values[i] = moment - round(value.double_val * 86_400_000_000) if since else value.double_val
    lists = [list(given[f.name].string_list_val.val) if f.name in given else [] for f in view.sequences]
    return pack_row(view, values, as_of=moment, valid_until=NEVER, grant_start=grant_start, sequences=lists)


def _answer(
    view: View,
    i: int,
    values: np.ndarray,
    status: np.ndarray,
    lists: Sequence[list[list[str]]],
    wanted: set[str],
    *,
    now: datetime,
) -> tuple[datetime | None, dict[str, ValueProto] | None]:
    if len(view.numbers) and status[i, 0] in (Status.NOT_FOUND, Status.DENIED, Status.EXPIRED):
        return None, None
    answer: dict[str, ValueProto] = {}
    for j, feature in enumerate(view.numbers):
        if feature.name in wanted:
            present = status[i, j] == Status.PRESENT
            answer[feature.name] = ValueProto(double_val=values[i, j]) if present else ValueProto()
    for j, sequence in enumerate(view.sequences):
        if sequence.name in wanted:
            answer[sequence.name] = ValueProto(string_list_val=StringList(val=lists[j][i]))
    return now, answer
