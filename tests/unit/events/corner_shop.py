"""A corner shop with its own tables and an importer over a real home. Names and ids are easy to search for in files."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from aap.config import Settings
from aap.consent.service import ConsentDesk, open_desk
from aap.events.archive import Archive
from aap.events.dead_letter import RejectedLog
from aap.events.importing.importer import Importer, ImportReport
from aap.events.importing.mapping import load_mapping
from aap.infra.object_store import Folder, archive_folder
from aap.infra.paths import Layout
from aap.security.id_map import open_id_map
from aap.security.pseudonyms import load_pseudonyms

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
COLUMNS = ("kunde", "bon", "artikel", "menge", "preis", "zeit")

MAPPING: dict[str, Any] = {
    "source": "corner-shop",
    "event": "product_purchased",
    "user_id": "kunde",
    "occurred_at": "zeit",
    "fields": {
        "basket_id": "bon",
        "item_id": "artikel",
        "quantity": "menge",
        "amount": {"column": "preis", "times": "menge"},
    },
    "consent": {
        "grant": {
            "by": "the shop's owner",
            "basis": "loyalty card form, §3",
            "purposes": ["personalize.profiling", "marketing.retention"],
            "indicated_at": "2024-01-01",
            "notice_version": "card-2024",
        }
    },
}
ON_LEDGER = {**MAPPING, "consent": {"ledger": True}}
ROWS: list[tuple[object, ...]] = [
    ("anna-4711", "b1", "milk", 2, "1.25", "2024-05-01 09:00:00"),
    ("anna-4711", "b1", "bread", 1, "3.10", "2024-05-01 09:00:00"),
    ("bert-0815", "b2", "milk", 1, "1.25", "2024-05-02 18:30:00"),
]


@dataclass(frozen=True, slots=True)
class CornerShop:
    """The shop's folder, and a home it is imported into."""

    settings: Settings
    folder: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.settings.home)

    @property
    def archive(self) -> Archive:
        return Archive(archive_folder(self.settings))

    @property
    def rejected(self) -> RejectedLog:
        return RejectedLog(self.layout.rejected)

    @property
    def desk(self) -> ConsentDesk:
        return open_desk(self.settings)

    def key(self, user_id: str) -> str:
        return load_pseudonyms(self.layout).user_key(user_id)

    def importer(self) -> Importer:
        return Importer(
            archive=self.archive,
            rejected=self.rejected,
            desk=self.desk,
            pseudonyms=load_pseudonyms(self.layout),
            id_map=open_id_map(self.settings),
            catalogue=self.layout.catalogue,
        )

    def csv(
        self, rows: Sequence[Sequence[object]], *, columns: Sequence[str] = COLUMNS, name: str = "sales.csv"
    ) -> str:
        self.folder.mkdir(exist_ok=True)
        with (self.folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)
        return str(self.folder / name)

    def parquet(self, columns: dict[str, Any], *, name: str = "sales.parquet") -> str:
        self.folder.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), self.folder / name)
        return str(self.folder / name)

    def sqlite(
        self, rows: Sequence[Sequence[object]], *, columns: Sequence[str] = COLUMNS, table: str = "sales"
    ) -> str:
        """A table whose columns have no declared types, as SQLite allows."""
        self.folder.mkdir(exist_ok=True)
        with sqlite3.connect(self.folder / "shop.db") as database:
            database.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows)
        return f"sqlite:///{self.folder / 'shop.db'}"

    def mapping(self, content: object, *, name: str = "sales.yaml") -> Path:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    def bring(
        self, location: str, mapping: object = MAPPING, *, now: datetime = NOW, table: str | None = None
    ) -> ImportReport:
        """Import `location` as the mapping says."""
        path = self.mapping(mapping)
        return self.importer().run(
            location, load_mapping(path), beside=path.parent, now=now, table=table, door=str(path)
        )

    def events(self, event: str = "product_purchased", columns: str = "*") -> list[tuple[Any, ...]]:
        """Archived events in a fixed order; money in minor units."""
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.execute(
                f"SELECT {columns} FROM {self.archive.sql(event, on=connection)} ORDER BY occurred_at, user_key, item_id, id"
            ).fetchall()

    def files_with(self, *texts: str) -> list[str]:
        """The files under home that hold one of `texts`, as UTF-8 or UTF-16, also in Parquet pages and sealed."""
        found, home = [], replace(Folder.at(self.settings.home), seal=self.archive.folder.seal)
        for file in sorted(p for p in self.settings.home.rglob("*") if p.is_file()):
            content = file.read_bytes()
            if file.suffix == ".parquet":
                with home.parquet_file(str(file.relative_to(self.settings.home))) as opened:
                    content += repr(opened.read().to_pydict()).encode()
            names = (str(file).encode(), content)
            if any(t.encode(code) in part for t in texts for code in ("utf-8", "utf-16-le") for part in names):
                found.append(str(file.relative_to(self.settings.home)))
        return found
