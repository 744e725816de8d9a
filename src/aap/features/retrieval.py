"""The one door to features: training frames, interactions and online vectors, each under the purposes of a service.

Everything that reads what we know about people comes through here. A training row is used only if every purpose the
service trains under is granted now, by a grant that covered the row's moment too; an answer is given only if every
purpose it answers under is granted now.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import redis

from aap.config import Settings
from aap.consent import redis_projection
from aap.consent.ledger import merkle
from aap.consent.ledger.ledger import Ledger
from aap.consent.policy import Decision
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.events.item_catalog import read_catalogue
from aap.features.datasets import Interactions, Manifest, Status, TrainingFrame, Vectors, people_leaves, table_leaves
from aap.features.declarations import Entity, Service
from aap.features.eligibility import current_grants, refusals, starts_of
from aap.features.errors import OnlineStoreUnavailable, UnusableLabels
from aap.features.offline.build import Standing
from aap.features.offline.point_in_time_join import Join, point_in_time_join
from aap.features.offline.spark_point_in_time_join import spark_join
from aap.features.offline.store import built_view
from aap.features.online.vectors import vectors
from aap.features.views import reading, service as service_called, view_for
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import Folder, archive_folder, features_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import UNREACHABLE, connect
from aap.security.audit_log import note_read
from aap.security.pseudonyms import Pseudonyms, load_pseudonyms

__all__ = ["Retrieval", "open_retrieval"]

NO_FEATURES = "no_features"


class Retrieval:
    """Reads features for the services that the project declares."""

    def __init__(
        self,
        *,
        layout: Layout,
        archive: Archive,
        features: Folder,
        ledger: Ledger,
        client: redis.Redis,
        pseudonyms: Pseudonyms,
        clock: Callable[[], datetime],
        audited: bool = True,
        join: Join = point_in_time_join,
    ) -> None:
        self._layout = layout
        self._archive = archive
        self._features = features
        self._ledger = ledger
        self._redis = client
        self._pseudonyms = pseudonyms
        self._clock = clock
        self._audited = audited
        self._join = join

    def over(self, client: redis.Redis) -> Self:
        """The same door, which reads online values by `client`."""
        other = copy.copy(self)
        other._redis = client
        return other

    def people(self, service: str, *, as_of: datetime) -> list[str]:
        """The user keys, sorted, of everyone who may be trained on for `service` at `as_of`."""
        return sorted(self.granted_since(service, as_of=as_of))

    def granted_since(self, service: str, *, as_of: datetime) -> dict[str, datetime]:
        """Everyone who may be trained on for `service` at `as_of`, and since when they may without a break."""
        asked = service_called(service)
        return current_grants(self._standing(asked, as_of), asked.training_purposes, as_of=as_of)

    def training_frame(self, labels: pd.DataFrame, *, service: str, as_of: datetime | None = None) -> TrainingFrame:
        """The features of `service` for each label row, as they could be known at the row's moment.

        `labels` has `user_id` or `user_key`, `as_of` (UTC; naive times are taken as UTC) and any label columns. The
        argument `as_of` is the moment of use, when consent must hold; by default, now. What request-time features need
        of the request is in label columns of that name.

        Raises `UnusableLabels` for a frame without these columns, `FeaturesNotBuilt` before `aap features build`.
        """
        asked = service_called(service)
        used_at = as_of or self._clock()
        if clash := sorted(set(asked.features) & set(labels.columns)):
            raise UnusableLabels(f"Labels have a column {clash[0]!r}, which is also a feature of {service}; rename it.")
        rows = self._canonical(labels, used_at=used_at)
        standing = self._standing(asked, used_at)
        view = view_for(Entity.USER, asked.purpose)
        moments = rows["as_of"].dt.as_unit("us").astype("int64").to_numpy()
        read = reading(asked, view.names)
        request = read.request(rows, rows=len(rows), where="the label frame")
        values, found, starts = self._join(
            built_view(self._features, view),
            keys=pa.array(rows["user_key"], pa.string()),
            moments=moments,
            features=read.stored,
        )
        if read.computed:
            values, _ = read.assemble(values, np.where(np.isnan(values), Status.NULL, Status.PRESENT), request)
        codes, people = pd.factorize(rows["user_key"])
        refused = refusals(people, codes, moments, standing, asked.training_purposes, as_of=used_at)
        in_force = starts_of(people, standing, asked.purpose, as_of=used_at)[codes]
        refused[(refused == "") & ~(found & (starts == in_force))] = NO_FEATURES
        kept = refused == ""
        data = rows.loc[kept].reset_index(drop=True)
        data = pd.concat([data, pd.DataFrame(values[kept], columns=list(asked.features))], axis=1)
        excluded = Counter(r for r in refused.tolist() if r)
        manifest = self._manifest(asked, asked.features, used_at, len(data), people_leaves(data), excluded)
        self._note_read("a training frame", asked, about=data["user_key"].unique().tolist())
        return TrainingFrame(data, asked.features, manifest)

    def interactions(
        self, service: str, *, as_of: datetime, since: datetime | None = None, until: datetime | None = None
    ) -> Interactions:
        """Purchase lines with `since < occurred_at ≤ until` (by default everything known at `as_of`) to learn from.

        Of each person only what every training purpose of `service` has covered without a break until `as_of`.
        """
        asked = service_called(service)
        standing = self._standing(asked, as_of)
        current = current_grants(standing, asked.training_purposes, as_of=as_of)
        latest = min(until or as_of, as_of)
        spans = pa.table(
            {
                "user_key": pa.array(list(current), pa.string()),
                "start": pa.array(list(current.values()), pa.timestamp("us", tz="UTC")),
            }
        )
        with open_duckdb() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("spans", spans)
            after = f"AND e.occurred_at > '{since.isoformat()}'::TIMESTAMPTZ" if since else ""
            purchases = self._archive.sql("product_purchased", on=connection)
            table = connection.execute(
                "SELECT e.user_key, e.item_id, e.occurred_at, e.quantity, e.amount, e.basket_id, e.category "
                f"FROM {purchases} e "
                "JOIN spans ON spans.user_key = e.user_key AND e.occurred_at >= spans.start "
                f"WHERE e.occurred_at <= '{latest.isoformat()}'::TIMESTAMPTZ "
                f"AND e.available_at <= '{latest.isoformat()}'::TIMESTAMPTZ {after} "
                "ORDER BY e.user_key, e.occurred_at, e.item_id, e.source, e.id"
            ).to_arrow_table()
        excluded = Counter({"not_granted": len(standing) - len(current)})
        manifest = self._manifest(asked, (), as_of, len(table), table_leaves(table), excluded)
        self._note_read("purchases", asked, about=table["user_key"].unique().to_pylist())
        return Interactions(table, manifest)

    def online_vectors(
        self,
        user_keys: Sequence[str],
        *,
        service: str,
        now: datetime,
        request: Mapping[str, Sequence[float]] | None = None,
    ) -> Vectors:
        """The values of `service` for `user_keys` at `now`: one `MGET` of rows, which carry the consent with them.

        `request` holds what request-time features need, by name, one value a person.
        Raises `OnlineStoreUnavailable` when Redis can't be reached, `RequestIncomplete` when a value is missing.
        """
        asked = service_called(service)
        found = vectors(
            self._redis, view_for(Entity.USER, asked.purpose), asked, user_keys, now=now, request=request or {}
        )
        read = [key for key, decision in zip(user_keys, found.decisions, strict=True) if decision.allowed]
        self._note_read("online vectors", asked, about=read)
        return found

    def decisions(self, user_keys: Sequence[str], *, purpose: Purpose, now: datetime) -> list[Decision]:
        """What each person's projection says of `purpose` at `now`."""
        try:
            blobs = self._redis.mget([redis_projection.consent_key(k) for k in user_keys]) if user_keys else []
        except UNREACHABLE as error:
            raise OnlineStoreUnavailable(f"Redis can't be reached ({error}); consent can't be checked.") from error
        return redis_projection.decisions(blobs, purpose=purpose, now=now)  # type: ignore[arg-type]

    def catalogue(self) -> pa.Table:
        """The items on sale: `item_id`, `name`, `department`, `category`, `brand`."""
        return read_catalogue(self._layout.catalogue)

    def item_names(self, item_ids: Iterable[str]) -> dict[str, str]:
        """Readable names of items; one without a name is called by its category, or left out."""
        wanted = set(item_ids)
        items = self.catalogue()
        named = zip(*(items[c].to_pylist() for c in ("item_id", "name", "category")), strict=True)
        return {i: name or category for i, name, category in named if i in wanted and (name or category)}

    def _note_read(self, what: str, asked: Service, *, about: Sequence[str]) -> None:
        if self._audited:
            note_read(self._layout.audit, f"{what} for {asked.name}, {asked.purpose}", about=about, at=self._clock())

    def _standing(self, asked: Service, as_of: datetime) -> Standing:
        """The grants that hold this very moment: a use as of a past moment needs consent now as well."""
        return self._ledger.standing(purposes=asked.training_purposes, in_force_at=max(as_of, self._clock()))

    def _canonical(self, labels: pd.DataFrame, *, used_at: datetime) -> pd.DataFrame:
        """Label rows with `user_key` and a UTC `as_of`, sorted by both; input rows that tie keep their order."""
        if "as_of" not in labels or not {"user_key", "user_id"} & set(labels):
            raise UnusableLabels("Labels need the columns `as_of` and `user_key` (or `user_id`).")
        clash = {"user_key", "as_of"} & set(labels.columns[labels.columns.duplicated()])
        if clash:
            raise UnusableLabels(f"Labels have the column {min(clash)!r} twice.")
        rows = labels.copy()
        if "user_key" not in rows:
            rows.insert(0, "user_key", self._pseudonyms.user_keys(rows["user_id"].astype(str).tolist()))
        rows = rows.drop(columns="user_id", errors="ignore")
        rows["user_key"] = rows["user_key"].astype(object)  # of no rows, or held by Arrow, it may be anything
        try:
            rows["as_of"] = pd.to_datetime(rows["as_of"], utc=True, format="ISO8601")
        except (ValueError, TypeError) as error:
            raise UnusableLabels(
                f"The column `as_of` has a value that is no time: {str(error).splitlines()[0]}"
            ) from None
        if rows["as_of"].isna().any() or (rows["as_of"] > used_at).any():
            raise UnusableLabels("Every `as_of` must be a time no later than the moment of use.")
        order = np.lexsort((rows["as_of"].astype("int64"), pd.factorize(rows["user_key"], sort=True)[0]))
        return rows.take(order).reset_index(drop=True)

    def _manifest(
        self,
        asked: Service,
        features: tuple[str, ...],
        as_of: datetime,
        rows: int,
        leaves: list[bytes],
        excluded: Counter[str],
    ) -> Manifest:
        checkpoint = self._ledger.checkpoint()
        return Manifest(
            service=asked.name,
            purpose=asked.purpose.value,
            requires=tuple(p.value for p in asked.training_purposes),
            features=features,
            as_of=as_of,
            ledger_size=checkpoint.size,
            ledger_root=checkpoint.root,
            rows=rows,
            rows_root=merkle.root(leaves).hex(),
            excluded={k: excluded[k] for k in sorted(excluded) if excluded[k]},
        )


def open_retrieval(settings: Settings, *, audited: bool = True) -> Retrieval:
    """The door over the stores these settings name. Each read leaves an entry in the audit log, unless whoever opened the
    door leaves one of their own, as the service does, which knows who asked.
    """
    layout = Layout(settings.home)
    return Retrieval(
        layout=layout,
        archive=Archive(archive_folder(settings)),
        features=features_folder(settings),
        ledger=open_ledger(settings),
        client=connect(settings),
        pseudonyms=load_pseudonyms(layout),
        clock=settings.now,
        audited=audited,
        join=spark_join(settings.spark_master) if settings.engine == "spark" else point_in_time_join,
    )
