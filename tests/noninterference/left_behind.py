"""What a world that also learns leaves behind, everywhere, so that two can be held side by side.

What is told apart by nature is taken out of it, and only that: how long something took, ids drawn at random, where the home
lies, secrets and signatures made with randomness, and the rows of those whose data may be kept for one purpose.
"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aap.config import Settings
from aap.consent.purposes import Purpose
from aap.features.offline.store import built_view
from aap.features.views import all_views
from aap.infra.object_store import features_folder
from aap.infra.paths import Layout
from aap.privacy.data_inventory import open_holdings
from aap.privacy.export import write_export
from aap.security.audit_log import read_audit
from tests.noninterference.mixed_shop import Kind
from tests.noninterference.trained_world import TrainedWorld
from tests.noninterference.world import World

__all__ = ["sinks"]


def sinks(world: TrainedWorld) -> dict[str, Any]:
    """Everything that is left behind, by where."""
    return _Left(world, world.settings, Layout(world.settings.home)).everything()


@dataclass(frozen=True)
class _Left:
    world: TrainedWorld
    settings: Settings
    layout: Layout

    def everything(self) -> dict[str, Any]:
        hidden = {self.world.key(u) for u in self.world.of(Kind.REPORTED)}
        held_back = {self.world.key(u) for u in self.world.of(Kind.QUITTER)} | hidden
        found: dict[str, Any] = {f"answer {i} {what}": told for i, (what, told) in enumerate(self.world.answers)}
        found |= {f"metric {name}": value for name, value in self.world.metrics.items()}
        found["log"] = [self._plain(line) for line in self.world.log]
        found |= self._rows(hidden, held_back) | self._features(held_back) | self._mlflow()
        found |= self._files("report", self.layout.reports) | self._files("fitted", self.settings.home / "fitted")
        found |= self._export(self.world.of(Kind.OPEN)[0])
        found["audit"] = sorted(
            (e["action"], e["by"].partition(":")[0].startswith("account"), e["outcome"], e["count"])
            for e in read_audit(self.layout.audit, days=9)
        )
        return found

    def _rows(self, hidden: set[str], held_back: set[str]) -> dict[str, Any]:
        world = World(self.settings)
        kept = world.sinks(allowed=())
        found = {n: kept[n] for n in ("ids", "ledger")}
        found["rejected"] = [self._plain(repr(row)) for row in kept["rejected"]]
        found |= {f"archive {name}": rows for name, rows in world.archived(held_back).items()}
        theirs = tuple(f"redis {{u:{key}}}" for key in hidden)
        for name in (n for n in kept if n.startswith("redis ") and not n.startswith((*theirs, "redis rate:"))):
            remembered = ":ids:" in name  # digests of the lines of what was accepted, whoever's
            found[name] = len(kept[name]) if remembered else kept[name]
        for name in ("predictions", "exposures", "served", "vitals", "shadow"):
            tables = [
                pq.read_table(f, partitioning=None) for f in sorted(getattr(self.layout, name).rglob("*.parquet"))
            ]
            rows = [r for table in tables for r in table.to_pylist() if r.get("user_key") not in hidden]
            found[name] = sorted(self._told(r) for r in rows)
        return found

    def _features(self, hidden: set[str]) -> dict[str, Any]:
        """What the build of last left: byte for byte where nobody's rows may differ, else the rows of everybody else."""
        found: dict[str, Any] = {}
        for view in all_views():
            built = built_view(features_folder(self.settings), view)
            for file in (*built.pieces, built.spans):
                content, bucket = built.folder.read(file.name), file.name[0]
                if view.purpose in (Purpose.ANALYTICS_REPORTING, Purpose.MARKETING_RETENTION):
                    rows = pq.read_table(pa.BufferReader(content)).to_pylist()
                    content = sorted(repr(r) for r in rows if r.get("user_key", r.get("k")) not in hidden)
                    found[f"features {view.name} {bucket}"] = found.get(f"features {view.name} {bucket}", []) + content
                else:
                    found[f"features {view.name} {file.name}"] = content
        return found

    def _mlflow(self) -> dict[str, Any]:
        """Every table of MLflow's store, and every file of its artifacts, by the name of the run it is in."""
        found: dict[str, Any] = {}
        if not self.layout.mlflow.exists():
            return found
        with closing(sqlite3.connect(self.layout.mlflow / "mlflow.db")) as store:
            runs = {run: f"run {number}" for number, (run,) in enumerate(store.execute(
                "SELECT run_uuid FROM runs ORDER BY start_time, rowid"
            ))}  # fmt: skip
            for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                rows = store.execute(f'SELECT * FROM "{name}"')
                columns = [c[0] for c in rows.description]
                told = [
                    self._told({c: v for c, v in zip(columns, row, strict=True) if not c.endswith(_WHEN)}, names=runs)
                    for row in rows
                ]
                found[f"mlflow table {name}"] = sorted(told)
        artifacts = self.layout.mlflow / "artifacts"
        for file in sorted(f for f in artifacts.rglob("*") if f.is_file()):
            path = self._plain(str(file.relative_to(artifacts)), runs)
            found[f"mlflow file {path}"] = self._content(file, names=runs)
        return found

    def _files(self, what: str, folder: Path) -> dict[str, Any]:
        files = (f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != "manifest.json")
        return {f"{what} {f.relative_to(folder)}": self._content(f) for f in files}

    def _export(self, user: str) -> dict[str, Any]:
        """What somebody is handed of themselves; its manifest is signed, so it differs where anything else does."""
        folder = self.settings.home.parent / f"export-{self.settings.home.name}"
        write_export(open_holdings(self.settings), self.world.key(user), into=folder, now=self.settings.now())
        return self._files("export", folder)

    def _content(self, file: Path, *, names: dict[str, str] | None = None) -> Any:
        """Bytes as they are; text without what tells worlds apart by nature."""
        if file.suffix not in (".html", ".json", ".txt", ".md"):
            return file.read_bytes()
        return self._plain(file.read_text(encoding="utf-8"), names)

    def _told(self, row: dict[str, Any], *, names: dict[str, str] | None = None) -> str:
        return self._plain(json.dumps({k: v for k, v in row.items() if k != "prediction_id"}, default=repr), names)

    def _plain(self, text: str, names: dict[str, str] | None = None) -> str:
        text = text.replace(str(self.settings.home), "HOME")
        for name, told in (names or {}).items():
            text = text.replace(name, told)
        for pattern, told in _BY_NATURE:
            text = pattern.sub(told, text)
        return text


_WHEN = ("_time", "_timestamp", "timestamp", "created_at", "last_updated_time")
_BY_NATURE = (
    (re.compile(r'("seconds"\\?: \\?)[\d.]+'), r"\1T"),
    (re.compile(r"(<td>(?:import|consistency|features|drift|experiments|train \w+)</td><td class='n'>)[\d.]+"), r"\1T"),
    (
        re.compile(
            r"(user__(?:analytics_reporting|marketing_retention)</td><td class='n'>\d+</td><td class='n'>)[\d,]+"
        ),
        r"\1N",
    ),
    (re.compile(r'("view": "user__(?:analytics_reporting|marketing_retention)",\s+"rows": )\d+'), r"\1N"),
    (re.compile(r"metric_[0-9a-f]{32}"), "metric_ID"),
    (re.compile(r"\b[0-9a-f]{40}(\+changes)?(?![0-9a-f])"), "REVISION"),
    (re.compile(r'("prediction_id"\\?: \\?"|"run_id"\\?: \\?")[^"\\]+'), r"\1ID"),
    (re.compile(r'("ms(_squared)?": )[\d.]+'), r"\1T"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
)
"""How long a step took; how many change points there are of what some allow, which differ by right; ids drawn at random, in
places where no pseudonym stands; and the commit of the code, which may be another by then."""
