"""What may be shown of items, and which of them a caller asks for: read of the catalogue once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from aap.infra.paths import Layout
from aap_client.requests import Filters

__all__ = ["Shelves", "catalogue_stamp"]

_COLUMNS = ("departments", "department"), ("categories", "category"), ("brands", "brand")


class Shelves:
    """Items by department, category and brand. `read` reads the catalogue, and `stamp` changes when the catalogue does."""

    def __init__(self, read: Callable[[], pa.Table], *, stamp: Callable[[], object] = lambda: None) -> None:
        self._read, self._stamp = read, stamp
        self._held: tuple[object, dict[str, dict[Any, frozenset[str]]], dict[str, str]] | None = None

    def stamp(self) -> str:
        """Which catalogue the answers of `among` are of."""
        return str(self._stamp())

    def among(self, filters: Filters) -> frozenset[str] | None:
        """The items that `filters` let through; None where the catalogue doesn't matter to them."""
        if not filters.of_the_catalogue:
            return None
        shelves, _ = self._look()
        chosen = []
        for field, column in _COLUMNS:
            if wanted := getattr(filters, field):
                chosen.append(frozenset[str]().union(*(shelves[column].get(value, ()) for value in wanted)))
        return frozenset.intersection(*chosen)

    def categories(self) -> Mapping[str, str]:
        """The category of each item that has one."""
        return self._look()[1]

    def _look(self) -> tuple[dict[str, dict[Any, frozenset[str]]], dict[str, str]]:
        now = self._stamp()
        if self._held is None or self._held[0] != now:
            table = self._read()
            by = {column: _by(table, column) for _, column in _COLUMNS}
            categories = {item: kind for kind, items in by["category"].items() if kind is not None for item in items}
            self._held = now, by, categories
        return self._held[1:]


def catalogue_stamp(layout: Layout) -> int | None:
    """What changes whenever the catalogue is written; None before the first import."""
    path = layout.catalogue
    return path.stat().st_mtime_ns if path.exists() else None


def _by(table: pa.Table, column: str) -> dict[Any, frozenset[str]]:
    found: dict[Any, set[str]] = {}
    if column in table.column_names:
        for item, value in zip(table["item_id"].to_pylist(), table[column].to_pylist(), strict=True):
            found.setdefault(value, set()).add(item)
    return {value: frozenset(of) for value, of in found.items()}
