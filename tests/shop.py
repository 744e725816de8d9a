"""Another shop: a purchase history of a clearly different shape than the demo's, and everything needed to run on it.

Named customers, own order numbers, dates as 31/12/2023 18:05 in Paris, unit prices, returns as negative quantities, orders
of nobody, a few broken rows; consent answers in French. One mapping file and no code makes a platform of it.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from aap.config import Settings, load_settings
from aap.jobs.ingest import import_source
from aap.modeling.catalog import model_classes
from aap.modeling.registry.registry import open_registry
from pipelines.retrain import retrain

__all__ = ["CLOSES", "PURPOSES", "imported_shop", "set_clock", "small_shop", "write_shop"]

CLOSES = datetime(2023, 12, 31, 20, tzinfo=UTC)
PURPOSES = (
    "personalize.profiling",
    "personalize.profiled",
    "marketing.retention",
    "analytics.reporting",
    "train_ai_system",
    "functional.service.improve",
)

_MAPPING = """\
source: boutique
event: product_purchased
user_id: Client
occurred_at: Date
time_format: "%d/%m/%Y %H:%M"
time_zone: Europe/Paris
fields:
  basket_id: Commande
  item_id: Article
  quantity: Nombre
  amount: {column: Prix, times: Nombre}
  department: Rayon
negative: {field: quantity, event: product_returned}
consent:
  table:
    path: accords.csv
    user_id: qui
    purpose: pourquoi
    status: reponse
    indicated_at: quand
    time_format: "%d/%m/%Y"
    time_zone: Europe/Paris
    statuses: {oui: given, non: refused, fini: withdrawn}
"""


def write_shop(folder: Path, *, customers: int = 320, seed: int = 5) -> tuple[Path, Path]:
    """Write `ventes.csv`, `accords.csv` and `boutique.yaml` into `folder`; returns (table, mapping).

    Customer `client-0` agrees to everything, `client-1` to all but profiling, `client-2` to nothing; `client-3` agreed and
    withdrew. Of the others 85 % agree to each purpose.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "boutique.yaml").write_text(_MAPPING)
    _write(
        folder / "ventes.csv",
        ["Commande", "Client", "Article", "Nombre", "Prix", "Date", "Rayon"],
        _sales(customers, random),
    )
    _write(folder / "accords.csv", ["qui", "pourquoi", "reponse", "quand"], _answers(customers, random))
    return folder / "ventes.csv", folder / "boutique.yaml"


def set_clock(home: Path, *, days: int = 0) -> Settings:
    """Settings of a home whose clock says `days` after the shop closed, whatever the hour of the day the test runs at."""
    home.mkdir(parents=True, exist_ok=True)
    shift = datetime.now(UTC) - CLOSES - timedelta(days=days)
    (home / "aap.env").write_text(f"AAP_CLOCK_SHIFT=-PT{shift // timedelta(seconds=1)}S\n")
    return load_settings(home)


def imported_shop(home: Path, *, customers: int = 320) -> Settings:
    """A home with the shop's history imported, its clock set back to when the shop closed."""
    settings = set_clock(home)
    table, mapping = write_shop(home / "shop", customers=customers)
    import_source(settings, str(table), mapping=mapping, now=settings.now())
    return settings


def small_shop(home: Path, *, customers: int = 320) -> Settings:
    """The same with features built, models trained and champions promoted.

    Also those that the gate refused: so few people are near its limits, and which side they are on hangs on the home's key.
    """
    settings = imported_shop(home, customers=customers)
    retrain(settings, as_of=settings.now())
    registry = open_registry(settings)
    for name in model_classes():
        if registry.champion(name) is None:
            registry.promote(name, registry.versions(name)[0].version, reasons=("Promoted by the test.",))
    return settings


def _sales(customers: int, random: np.random.Generator) -> list[list[object]]:
    """About 40 orders a customer a year, some of whom stop coming; tastes differ in three groups of articles."""
    rows: list[list[object]] = []
    order = 0
    for customer in range(customers):
        stops = 365 if customer < 8 else int(random.choice([365, 365, 365, random.integers(120, 360)]))
        every = float(random.uniform(4, 14))
        group = customer % 3
        day = float(random.uniform(0, every))
        while day < stops - 1:
            order += 1
            at = datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=day, minutes=int(random.integers(0, 600)))
            for _ in range(int(random.integers(1, 6))):
                article = int(min(random.geometric(0.08), 60)) + (60 * group if random.random() < 0.7 else 0)
                price = f"{1 + article % 17 + 0.99:.2f}"
                count = -1 if random.random() < 0.01 else int(random.integers(1, 4))
                who = f"client-{customer}" if random.random() > 0.01 else ""
                rows.append(
                    [
                        f"C{order:06}",
                        who,
                        f"ART-{article:03}",
                        count,
                        price,
                        at.strftime("%d/%m/%Y %H:%M"),
                        f"R{article % 7}",
                    ]
                )
            day += float(random.exponential(every))
    for row in rows[50:55]:
        row[1], row[4] = "client-0", "cher"
    for row in rows[60:63]:
        row[1], row[5] = "client-0", "hier"
    return rows


def _answers(customers: int, random: np.random.Generator) -> list[list[str]]:
    rows: list[list[str]] = []
    for customer in range(customers):
        for purpose in PURPOSES:
            yes = random.random() < 0.85
            if customer < 4:
                yes = customer != 2 and not (customer == 1 and purpose == "personalize.profiling")
            rows.append([f"client-{customer}", purpose, "oui" if yes else "non", "28/12/2022"])
            if yes and customer != 3:
                rows.append([f"client-{customer}", purpose, "oui", "15/06/2023"])
            if customer == 3:
                rows.append([f"client-{customer}", purpose, "fini", "01/09/2023"])
    rows.append(["client-2", "essential.fraud_detection", "fini", "28/12/2022"])
    return rows


def _write(path: Path, header: list[str], rows: list[list[object]] | list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
