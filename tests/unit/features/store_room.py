"""Ten customers of a shop whose history is imported by the real importer, and the doors to their features."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain

import numpy as np
import pyarrow as pa

from aap.config import Settings
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_desk, open_ledger
from aap.events.archive import Archive
from aap.features.declarations import Entity
from aap.features.engines.base import Engine, duckdb_engine
from aap.features.offline.build import Built, build
from aap.features.offline.point_in_time_join import point_in_time_join
from aap.features.offline.store import OfflineValues, built_view
from aap.features.online import reader
from aap.features.online.materialize import latest_rows
from aap.features.online.reader import OnlineValues
from aap.features.retrieval import Retrieval, open_retrieval
from aap.features.views import View, view_for
from aap.infra.object_store import archive_folder, features_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect
from tests.unit.events.corner_shop import ON_LEDGER, CornerShop

AS_OF = datetime(2024, 6, 30, 15, 45, 30, 123456, tzinfo=UTC)
ASKED = datetime(2024, 1, 1, 9, tzinfo=UTC)
RETENTION, TRAINING, REPORTING = Purpose.MARKETING_RETENTION, Purpose.TRAIN_AI_SYSTEM, Purpose.ANALYTICS_REPORTING
EVERYTHING = tuple(p for p in Purpose if p is not Purpose.THIRD_PARTY_SHARING)
CUSTOMERS = tuple(f"customer-{i}" for i in range(8))
"""They allow everything; `no-training` allows all but training, and `refuser` nothing."""

SALES = {
    **ON_LEDGER,
    "available_at": "geladen",
    "fields": {
        **ON_LEDGER["fields"], "amount": "preis", "department": "gruppe", "store_id": "laden", "discount": "rabatt",
    },
}  # fmt: skip
COLUMNS = ("kunde", "bon", "artikel", "menge", "preis", "zeit", "geladen", "gruppe", "laden", "rabatt")
COUPONS = {
    "source": "coupons", "event": "coupon_redeemed", "user_id": "kunde", "occurred_at": "zeit",
    "fields": {"coupon_id": "nr"}, "consent": {"ledger": True},
}  # fmt: skip


@dataclass(frozen=True)
class StoreRoom:
    """The shop's home. `clock` is what the settings' `now()` says."""

    settings: Settings
    shop: CornerShop
    clock: list[datetime] = field(default_factory=lambda: [AS_OF])

    @classmethod
    def fill(cls, settings: Settings, *, seed: int) -> StoreRoom:
        room = cls(settings, CornerShop(settings, settings.home.parent / "shop"))
        for user in (*CUSTOMERS, "no-training", "refuser"):
            for purpose in EVERYTHING:
                refused = user == "refuser" or (user == "no-training" and purpose is TRAINING)
                room.say(user, purpose, Status.REFUSED if refused else Status.GIVEN, at=ASKED)
        rows = _purchases(np.random.default_rng(seed))
        room.shop.bring(room.shop.csv(rows, columns=COLUMNS), SALES, now=AS_OF)
        coupons = [(user, f"c{i}", f"2024-06-{i + 1:02d} 00:00:00") for i, user in enumerate(CUSTOMERS)]
        room.shop.bring(room.shop.csv(coupons, columns=("kunde", "nr", "zeit")), COUPONS, now=AS_OF)
        room.build()
        return room

    @property
    def layout(self) -> Layout:
        return Layout(self.settings.home)

    def key(self, user: str) -> str:
        return self.shop.key(user)

    def keys(self, *users: str) -> list[str]:
        return [self.key(u) for u in users]

    def say(self, user: str, purpose: Purpose, status: Status, *, at: datetime) -> None:
        open_desk(self.settings).record(
            self.key(user), purpose, status, said_by="them", method="form", indicated_at=at, received_at=at
        )

    def build(self, *, as_of: datetime = AS_OF, engine: Engine = duckdb_engine) -> list[Built]:
        return build(
            archive=Archive(archive_folder(self.settings)), folder=features_folder(self.settings),
            standing=open_ledger(self.settings).standing(), as_of=as_of, engine=engine,
        )  # fmt: skip

    def rows(self, view: View, *, as_of: datetime = AS_OF) -> list[reader.OnlineRow]:
        many = latest_rows(
            view, folder=features_folder(self.settings), archive=Archive(archive_folder(self.settings)),
            standing=open_ledger(self.settings).standing(), as_of=as_of,
        )  # fmt: skip
        return list(chain.from_iterable(many))

    def put_online(self, purpose: Purpose, *, as_of: datetime = AS_OF) -> tuple[int, int]:
        view = view_for(Entity.USER, purpose)
        return reader.write(connect(self.settings), view, self.rows(view, as_of=as_of))

    def read(self, purpose: Purpose, *users: str, now: datetime = AS_OF) -> OnlineValues:
        view = view_for(Entity.USER, purpose)
        return reader.read(connect(self.settings), view, self.keys(*users), purposes=[purpose], now=now)

    def offline(self, purpose: Purpose, *users: str, at: datetime) -> np.ndarray:
        view = view_for(Entity.USER, purpose)
        moments = np.full(len(users), reader.to_micros(at), dtype=np.int64)
        names = [f.name for f in view.numbers]
        keys = pa.array(self.keys(*users), pa.string())
        return point_in_time_join(self.built(view), keys=keys, moments=moments, features=names)[0]

    def built(self, view: View) -> OfflineValues:
        return built_view(features_folder(self.settings), view)

    def content(self, view: View) -> dict[str, bytes]:
        """The bytes of each file of the view's values."""
        built = self.built(view)
        return {piece.name: built.folder.read(piece.name) for piece in built.pieces}

    def door(self) -> Retrieval:
        return open_retrieval(self.settings)


def _purchases(random: np.random.Generator) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for user in (*CUSTOMERS, "no-training", "refuser"):
        for basket in range(25):
            seconds = int(random.integers(0, 181 * 86_400))
            at = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
            if basket % 5 == 0:
                at = at.replace(hour=0, minute=0, second=0)  # on the edge of a day
            late = at + timedelta(hours=int(random.integers(0, 72)) if basket % 4 == 0 else 0)
            for _ in range(int(random.integers(1, 4))):
                item = int(random.integers(0, 12))
                price = f"{random.integers(1, 900) / 100:.2f}"
                rows.append(
                    (user, f"{user}-{basket}", f"i{item}", int(random.integers(1, 4)), price, at.isoformat(),
                     late.isoformat(), f"g{item % 4}", f"l{basket % 3}", "0.10" if item % 2 else "")
                )  # fmt: skip
    return rows
