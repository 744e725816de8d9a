"""A made-up crowd for benchmarks: fifty features of one purpose, people who allow it and people who don't.

Seeded. Two of a hundred people have withdrawn, one has no record at all, and one allows it but has no values yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import redis

from aap.config import Settings, load_settings
from aap.consent import redis_projection
from aap.consent.policy import LONGEST_GRANT, Grant, Reason
from aap.consent.purposes import Purpose
from aap.features.declarations import Aggregate, Op, Service
from aap.features.offline.build import Standing
from aap.features.views import View, make_views
from aap.infra.redis import connection

__all__ = [
    "AS_OF",
    "FEATURES",
    "PURPOSE",
    "Crowd",
    "a_server_of_its_own",
    "crowd",
    "project",
    "the_service",
    "the_view",
]

PURPOSE = Purpose.MARKETING_RETENTION
AS_OF = datetime(2026, 3, 1, 12, tzinfo=UTC)
FEATURES = 50
_ASKED = AS_OF - timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Crowd:
    """The people: `values` is float64 `[n, 50]`, in the order of `keys`; `missing` are those without a row."""

    keys: list[str]
    values: np.ndarray
    standing: Standing
    missing: frozenset[str]

    def with_values(self) -> list[int]:
        """The places, in order, of those who have a row: they allow it, and there is something to know."""
        return [i for i, key in enumerate(self.keys) if key not in self.missing and self._allows(key)]

    def _allows(self, key: str) -> bool:
        return key in self.standing and self.standing[key][PURPOSE][0][0].end > AS_OF


def the_view() -> View:
    """Fifty features, each over a window of its own, of one purpose."""
    declared = [
        Aggregate(
            event="product_purchased",
            op=Op.SUM,
            column="quantity",
            window=f"{days}d",
            purposes=frozenset({PURPOSE}),
            description="Pieces bought.",
            unit="pieces",
        )
        for days in range(1, FEATURES + 1)
    ]
    return make_views(declared)[0]


def the_service(view: View) -> Service:
    """All fifty features."""
    return Service(name="everything", purpose=PURPOSE, features=tuple(f.name for f in view.numbers))


def crowd(size: int, *, seed: int = 7) -> Crowd:
    """`size` people."""
    random = np.random.default_rng(seed)
    raw = random.bytes(16 * size).hex()
    keys = [raw[at : at + 32] for at in range(0, 32 * size, 32)]
    kind = random.random(size)
    given = [_standing(k, withdrawn=kind[i] < 0.02) for i, k in enumerate(keys)]
    standing = {k: given[i] for i, k in enumerate(keys) if kind[i] < 0.99}
    missing = frozenset(k for i, k in enumerate(keys) if 0.02 <= kind[i] < 0.03)
    return Crowd(keys, random.random((size, FEATURES)) * 100, standing, missing)


def project(client: redis.Redis, people: Crowd) -> None:
    """Write everybody's consent, as the consent desk does."""
    redis_projection.write(client, people.standing, seq=1, now=AS_OF)


@contextmanager
def a_server_of_its_own() -> Iterator[tuple[Settings, redis.Redis]]:
    """An embedded server in a temporary home, gone afterwards."""
    with TemporaryDirectory(prefix="aap-bench-") as folder:
        settings = load_settings(Path(folder) / "home").model_copy(update={"redis_url": None})
        client = connection.connect(settings)
        try:
            yield settings, client
        finally:
            client.close()
            connection.stop(settings)


def _standing(key: str, *, withdrawn: bool) -> dict[Purpose, tuple[list[Grant], Reason]]:
    end = AS_OF - timedelta(days=1) if withdrawn else _ASKED + LONGEST_GRANT
    why = Reason.WITHDRAWN if withdrawn else Reason.EXPIRED
    return {p: ([Grant(key, p, _ASKED, end, why)], Reason.NOT_GRANTED) for p in Purpose}
