"""How features look at a terminal: a line each, and a card with a histogram drawn in text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rich.markup import escape

from aap.cli.terminal import console, table
from aap.config import Settings

if TYPE_CHECKING:
    from aap.features.quality.profile import Spread
    from aap.jobs.reports.feature_card import Card, Values

__all__ = ["Line", "listed", "print_card"]

_BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Line:
    """One feature in the list."""

    name: str
    of: str
    unit: str
    purposes: tuple[str, ...]
    read_by: tuple[str, ...]
    missing_share: float | None
    """The largest of its views; None where it isn't built, or is a list, or computed when asked for."""
    description: str

    @property
    def missing_text(self) -> str | None:
        """As a percentage."""
        return None if self.missing_share is None else f"{self.missing_share:.1%}"


def listed(settings: Settings, *, now: datetime) -> list[Line]:
    """Every declared feature, in the order of its declaration."""
    from aap.consent.service import open_ledger
    from aap.features.errors import FeaturesNotBuilt
    from aap.features.quality.profile import profile
    from aap.features.views import all_views, declared_features, on_request_features, services
    from aap.infra.object_store import features_folder

    standing = open_ledger(settings).standing(in_force_at=now)
    missing: dict[tuple[str, str], float] = {}
    for view in all_views():
        try:
            built = profile(view, folder=features_folder(settings), standing=standing, now=now)
        except FeaturesNotBuilt:
            continue
        for name in view.names:
            missing[view.entity, name] = max(missing.get((view.entity, name), 0.0), built.missing_share(name))
    return [
        Line(
            f.name,
            getattr(f, "entity", "user"),
            f.unit,
            tuple(sorted(f.purposes)),
            tuple(
                s.name for s in services().values() if f.name in (*s.features, *s.sequences) and s.purpose in f.purposes
            ),
            missing.get((getattr(f, "entity", ""), f.name)),
            f.description,
        )
        for f in (*declared_features(), *on_request_features())
    ]


def print_card(card: Card, *, now: datetime) -> None:
    """The whole card."""
    table("", "", rows=[("name", card.name), *card.definition.items()])
    for line in _lineage(card):
        console.print(line, highlight=False, soft_wrap=True)
    for values in card.values:
        console.print()
        console.print(f"[bold]{escape(values.view)}[/]  {_freshness(values, now=now)}", highlight=False, soft_wrap=True)
        if values.spread is not None:
            for line in _drawn(values.spread):
                console.print(line, highlight=False)


def _lineage(card: Card) -> list[str]:
    origin = [f"{s.event} ({', '.join(s.columns) or 'that it happened'})" for s in card.sources]
    origin += [f"{name} of the request" for name in card.request]
    lines = []
    for values in card.values:
        readers = [r for r in card.readers if r.purpose == values.purpose]
        for reader in readers:
            versions = dict(reader.champions)
            models = [f"{m} version {versions[m]}" if m in versions else m for m in reader.models]
            end = f"service {reader.service} → {', '.join(models) or 'no model'}"
            lines.append(f"{' + '.join(origin)} → {values.view} → {end}")
        if not readers:
            lines.append(f"{' + '.join(origin)} → {values.view} → read by no model")
    return [escape(line) for line in lines]


def _freshness(values: Values, *, now: datetime) -> str:
    built = f"built as of {_age(values.built_as_of, now=now)}" if values.built_as_of else ""
    online = f"online as of {_age(values.online_as_of, now=now)}" if values.online_as_of else ""
    spread = values.spread
    shape = (
        f"{spread.values:,} values, {spread.missing_share:.1%} missing, from {spread.smallest:.6g} to {spread.largest:.6g}, "
        f"median {spread.median:.6g}"
        if spread
        else ""
    )
    return escape("; ".join(part for part in (built, online, values.problem.rstrip("."), shape) if part))


def _age(at: datetime, *, now: datetime) -> str:
    hours = max((now - at).total_seconds(), 0.0) / 3_600
    ago = f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
    return f"{at:%Y-%m-%d %H:%M} UTC ({ago} ago)"


def _drawn(spread: Spread) -> Sequence[str]:
    """One line a bar, as long as its count is to the largest."""
    most = max(bar.count for bar in spread.bars)
    lines = []
    for place, bar in enumerate(spread.bars):
        eighths = round(bar.count / most * _BAR_WIDTH * 8)
        drawn = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        beyond = " and more" if place == len(spread.bars) - 1 and spread.largest > bar.high else ""
        lines.append(f"  {bar.low:>12.6g} – {bar.high:<12.6g} {drawn} {bar.count:,}{beyond}")
    return lines
