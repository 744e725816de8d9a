"""The trend report: what the months look like, how many people allow what, and how good each champion has been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure

from aap.config import Settings
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.infra.atomic_files import write_atomically
from aap.infra.html import number, page, table
from aap.infra.paths import Layout
from aap.jobs.reports.retrain_plots import embedded
from aap.modeling.catalog import model_classes
from aap.modeling.registry.registry import ModelVersion, Registry

__all__ = ["months_of", "write_trends"]

_MAIN = "#1b6ca8"


def months_of(daily: pa.Table) -> pd.DataFrame:
    """By month: `days` with a figure, the means a day of customers, baskets and amount, and the change of the last one.

    Means a day, since months differ in length and a month may not be over.
    """
    days = daily.to_pandas()
    months = days.groupby(pd.to_datetime(days["day"]).dt.strftime("%Y-%m"))
    found = months[["customers", "baskets", "amount"]].mean()
    found.insert(0, "days", months.size())
    found["change"] = found["amount"].pct_change()
    return found


def write_trends(settings: Settings, *, daily: pa.Table, registry: Registry, as_of: datetime) -> Path:
    """Write `<home>/reports/trends-YYYY-MM.html`; raises what the ledger and the registry raise."""
    months = months_of(daily)
    versions = [version for name in model_classes() for version in reversed(registry.versions(name))]
    parts = [
        f"<h1>Trends, {as_of:%B %Y}</h1>",
        "<p>Of people who allow reporting now; days with few customers are left out. Means a day.</p>",
        embedded(_months_plot(months), told="Customers, baskets and money a day, by month")
        if len(months)
        else "<p>No day has enough customers yet.</p>",
        table(
            ["month", "days", "customers", "baskets", "amount", "change"], [_month(m, r) for m, r in months.iterrows()]
        ),
        "<h2>What people allow</h2>",
        table(["purpose", "people", "share"], _consents(settings, as_of=as_of)),
        "<h2>Versions of the models</h2>",
        table(["model", "version", "as of", "headline", "role"], [_version(v, registry.metrics(v)) for v in versions]),
    ]
    file = Layout(settings.home).reports / f"trends-{as_of:%Y-%m}.html"
    write_atomically(file, page(f"Trends {as_of:%Y-%m}", parts).encode())
    return file


def _months_plot(months: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(8.0, 5.0), layout="constrained", dpi=110)
    for row, (name, unit) in enumerate((("customers", "people"), ("baskets", "baskets"), ("amount", "money"))):
        axes = figure.add_subplot(3, 1, row + 1)
        axes.plot(list(months.index), months[name], "o-", color=_MAIN)
        axes.set_ylim(bottom=0)
        axes.set_title(f"{name} a day", loc="left", fontsize=10)
        axes.set_ylabel(unit)
    return figure


def _month(month: object, row: pd.Series[float]) -> list[str]:
    change = f"{row['change']:+.1%}" if pd.notna(row["change"]) else "–"
    figures = [
        f"{row['days']:.0f}",
        f"{row['customers']:,.0f}",
        f"{row['baskets']:,.0f}",
        f"{row['amount']:,.2f}",
        change,
    ]
    return [escape(str(month)), *(number(figure) for figure in figures)]


def _consents(settings: Settings, *, as_of: datetime) -> list[Sequence[str]]:
    standing = open_ledger(settings).standing(in_force_at=as_of)
    rows: list[Sequence[str]] = []
    for purpose in Purpose:
        people = sum(bool(by_purpose[purpose][0]) for by_purpose in standing.values())
        share = people / len(standing) if standing else 0.0
        rows.append([escape(purpose.value), number(f"{people:,}"), number(f"{share:.1%}")])
    return rows


def _version(found: ModelVersion, metrics: Mapping[str, float]) -> list[str]:
    name = found.tags.get("headline", "")
    headline = f"{name} {metrics[name]:.4f}" if name in metrics else "–"
    as_of = found.tags.get("as_of", "")[:10]
    return [escape(found.name), number(str(found.version)), escape(as_of), escape(headline), ", ".join(found.aliases)]
