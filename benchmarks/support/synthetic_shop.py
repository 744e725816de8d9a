"""A made-up shop with a year of history, imported, trained and served as any shop would be, in a home of its own.

Everybody agrees to everything, so that every answer goes the whole way: consent, features, model, record.
"""

from __future__ import annotations

import contextlib
import csv
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil

from aap.config import Settings, load_settings
from aap.consent.purposes import Purpose
from aap.infra.paths import Layout
from aap.infra.process.detached import free_port
from aap.infra.redis import connection
from aap.jobs.ingest import import_source
from aap.modeling.catalog import model_classes
from aap.modeling.registry.registry import open_registry
from aap.security.api_keys import ApiKeys, Scope
from aap.serving.server import listening
from pipelines.retrain import retrain

__all__ = ["Served", "served", "trained_shop"]

_CLOSES = datetime(2023, 12, 31, 20, tzinfo=UTC)
_READY_S = 180.0
_MAPPING = """\
source: corner_shop
event: product_purchased
user_id: customer
occurred_at: at
fields: {basket_id: basket, item_id: item, quantity: count, amount: {column: price, times: count}, department: shelf}
consent:
  table: {path: choices.csv, user_id: customer, purpose: purpose, status: status, indicated_at: at}
"""


@dataclass(frozen=True, slots=True)
class Served:
    """A running service: where it is, a key for it, and its process."""

    settings: Settings
    port: int
    key: str
    process: psutil.Process
    customers: int

    @property
    def headers(self) -> tuple[str, ...]:
        """What a call needs to be let in."""
        return (f"Authorization: Bearer {self.key}",)


@contextmanager
def trained_shop(*, customers: int = 300) -> Iterator[Settings]:
    """A home with champions of all models; everything in it is gone when the block ends."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AAP_")}
    with tempfile.TemporaryDirectory(prefix="aap-bench-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        days = (datetime.now(UTC) - _CLOSES).days
        (home / "aap.env").write_text(f"AAP_CLOCK_SHIFT=-{days}d\n")
        settings = load_settings(home)
        try:
            table = _write(home / "shop", customers=customers)
            import_source(settings, str(table), mapping=table.with_name("shop.yaml"), now=settings.now())
            retrain(settings, as_of=settings.now())
            _promote_all(settings)
            yield settings
        finally:
            connection.stop(settings)
            os.environ.update(kept)


@contextmanager
def served(settings: Settings, *, customers: int = 300, **more: str) -> Iterator[Served]:
    """The service of a home, ready to answer; `more` are further settings, as environment variables."""
    environment = {**os.environ, "AAP_HOME": str(settings.home), "AAP_PORT": str(free_port()), **more}
    with (settings.home / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "aap.cli.main", "serve"], env=environment, stdout=log, stderr=log
        )
    try:
        port = _ready(settings, process)
        name = f"bench-{secrets.token_hex(4)}"
        key = ApiKeys(Layout(settings.home).api_keys).create(name, scopes=[Scope.PREDICT], now=settings.now())
        yield Served(settings, port, key, psutil.Process(process.pid), customers)
    finally:
        process.terminate()
        process.wait(60)


def _promote_all(settings: Settings) -> None:
    """What is measured is how a model answers, not how well: the gate's refusals don't count here."""
    registry = open_registry(settings)
    for name in model_classes():
        if registry.champion(name) is None:
            registry.promote(name, registry.versions(name)[0].version)


def _ready(settings: Settings, process: subprocess.Popen[bytes]) -> int:
    import httpx

    deadline = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < deadline:
        place = listening(settings)
        with contextlib.suppress(httpx.TransportError):  # its socket is there before whoever answers on it
            if place is not None and httpx.get(f"{place.url}/readyz", timeout=10).status_code == 200:
                return place.port
        time.sleep(0.2)
    raise RuntimeError(f"The service did not become ready: {(settings.home / 'serve.log').read_text()[-500:]}")


def _write(folder: Path, *, customers: int, seed: int = 3) -> Path:
    """Purchases of a year, about 40 baskets a customer, of whom a third stop coming; returns the table's path."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    (folder / "shop.yaml").write_text(_MAPPING)
    purposes = [p.value for p in Purpose if p is not Purpose.ESSENTIAL_FRAUD_DETECTION]
    with (folder / "choices.csv").open("w", newline="") as file:
        choices = csv.writer(file)
        choices.writerow(["customer", "purpose", "status", "at"])
        for customer in range(customers):
            choices.writerows(
                [f"c{customer}", p, "given", f"2023-{m}-01T00:00:00Z"] for p in purposes for m in ("01", "07")
            )
    with (folder / "sales.csv").open("w", newline="") as file:
        sales = csv.writer(file)
        sales.writerow(["basket", "customer", "item", "count", "price", "at", "shelf"])
        for customer in range(customers):
            stops = 365.0 if random.random() < 0.66 else float(random.uniform(150, 355))
            pace, day = float(random.uniform(4, 14)), float(random.uniform(0, 8))
            while day < stops:
                at = (datetime(2023, 1, 1, 8, tzinfo=UTC) + timedelta(days=day)).isoformat()
                for _ in range(int(random.integers(1, 6))):
                    item = int(min(random.geometric(0.05), 90)) + (90 * (customer % 3) if random.random() < 0.6 else 0)
                    count, price = int(random.integers(1, 4)), f"{1 + item % 17}.50"
                    sales.writerow(
                        [f"b{customer}-{day:.3f}", f"c{customer}", f"i{item}", count, price, at, f"s{item % 7}"]
                    )
                day += float(random.exponential(pace)) + 0.01
    return folder / "sales.csv"
