"""The offline values of a view: its change points in Parquet files, and the record of what they were built from.

Each file holds the entities of one of sixteen buckets, sorted by entity and moment. Files are named after their content and
never changed; `built.json` names the ones that count and is replaced last. So a reader sees one build or the next, never a
mixture, an untouched bucket keeps its file, and equal inputs give equal files. The files of the build before stay until the
next one, for those who are still reading them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from zlib import crc32

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from aap.events.schema import event_type
from aap.features.declarations import Aggregate, Entity
from aap.features.errors import DamagedValues, FeaturesNotBuilt
from aap.features.views import View
from aap.infra.object_store import Folder, StoredFile

__all__ = [
    "RECORD",
    "Inputs",
    "OfflineValues",
    "Piece",
    "built_view",
    "digest",
    "events_of",
    "last_build",
    "made_by",
    "read_record",
    "schema_of",
]

RECORD = "built.json"
_LAYOUT = 1
"""To be raised when files or the meaning of declarations change: everything is then built anew."""
_MOMENT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True)
class Piece:
    """One Parquet file: its size in bytes, and how many change points of how many entities it holds."""

    name: str
    size: int
    rows: int
    entities: int


@dataclass(frozen=True, slots=True)
class Inputs:
    """What values are computed from. Equal inputs and declarations mean equal values."""

    as_of: datetime
    spans: pa.Table = field(
        default_factory=lambda: pa.table({"k": pa.array([], "string"), "start": pa.array([], "int64")})
    )
    """Whose events count, and since when: see `build.current_spans`."""
    events: Sequence[StoredFile] = ()
    """The archive's files of the event types the view reads."""
    partly: frozenset[str] = frozenset()
    """Those among them, by name, that hold events which were not known yet at `as_of`."""


@dataclass(frozen=True, slots=True)
class OfflineValues:
    """What a build made of one view."""

    folder: Folder
    view: View
    made_by: Mapping[str, str]
    as_of: datetime
    pieces: tuple[Piece, ...]
    spans: Piece
    events: tuple[StoredFile, ...]
    partly: frozenset[str]

    @property
    def rows(self) -> int:
        """Change points in all."""
        return sum(p.rows for p in self.pieces)

    @property
    def entities(self) -> int:
        """People or items that have any."""
        return sum(p.entities for p in self.pieces)

    def sql(self, *, on: duckdb.DuckDBPyConnection) -> str:
        """A table expression for the connection `on`: the view's key, `valid_from`, for people `grant_start`, the numbers."""
        if self.pieces:
            return self.folder.parquet((p.name for p in self.pieces), on=on)
        kinds = {pa.string(): "VARCHAR", pa.float64(): "DOUBLE", _MOMENT: "TIMESTAMPTZ"}
        columns = ", ".join(f"NULL::{kinds[f.type]} AS {f.name}" for f in schema_of(self.view))
        return f"(SELECT {columns} WHERE false)"

    def record(self) -> bytes:
        """What `read_record` reads."""
        told = {
            "made_by": self.made_by,
            "as_of": self.as_of.isoformat(),
            "pieces": [asdict(p) for p in self.pieces],
            "spans": asdict(self.spans),
            "events": {f.name: [f.size, f.changed_ns] for f in self.events},
            "partly": sorted(self.partly),
        }
        return json.dumps(told, sort_keys=True).encode()

    def whole(self) -> bool:
        """Whether every file is there, in the size it was written."""
        there = {f.name: f.size for f in self.folder.files()}
        return all(there.get(p.name) == p.size for p in (*self.pieces, self.spans))

    def rows_of(self, piece: Piece) -> pa.Table:
        """The rows of one file; raises `DamagedValues` if they are not the ones that were written."""
        try:
            content = self.folder.read(piece.name)
        except FileNotFoundError:
            content = b""
        if digest(content) not in piece.name:
            raise DamagedValues(f"{self.folder}/{piece.name} is missing or damaged; run `aap features build --anew`.")
        return pq.read_table(pa.BufferReader(content))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what DuckDB or Arrow says of a damaged file into `DamagedValues`."""
        try:
            yield
        except (duckdb.Error, pa.ArrowInvalid, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise DamagedValues(
                f"The features of {self.view.name} at {self.folder} can't be read ({reason}); "
                "run `aap features build --anew`."
            ) from error


def made_by(view: View) -> dict[str, str]:
    """What equal inputs must be computed by to give equal files: declarations, event types, our layout, the libraries."""
    kinds = [(e, f.name, f.kind) for e in events_of(view) for f in event_type(e).fields]
    return {
        "declarations": str(view.fingerprint),
        "event types": str(crc32(repr(kinds).encode())),
        "layout": str(_LAYOUT),
        "duckdb": duckdb.__version__,
        "pyarrow": pa.__version__,
    }


def events_of(view: View) -> list[str]:
    """The event types a view is computed from."""
    return sorted({f.event for f in view.features if isinstance(f, Aggregate)})


def last_build(folder: Folder, view: View) -> OfflineValues | None:
    """What was built of `view` last, below `folder`; None if nothing was, or its record can't be read."""
    return read_record(folder / view.name, view)


def read_record(place: Folder, view: View) -> OfflineValues | None:
    """The values whose record is in the folder `place`; None without a record that can be read."""
    try:
        told = json.loads(place.read(RECORD))
        return OfflineValues(
            folder=place,
            view=view,
            made_by=told["made_by"],
            as_of=datetime.fromisoformat(told["as_of"]),
            pieces=tuple(Piece(**p) for p in told["pieces"]),
            spans=Piece(**told["spans"]),
            events=tuple(StoredFile(name, *rest) for name, rest in told["events"].items()),
            partly=frozenset(told["partly"]),
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def built_view(folder: Folder, view: View) -> OfflineValues:
    """The view's values, made sure of; raises `FeaturesNotBuilt` when there are none, or their declarations changed since."""
    found = last_build(folder, view)
    if found is None:
        raise FeaturesNotBuilt(f"The features of {view.name} are not built yet; run `aap features build`.")
    if found.made_by["declarations"] != str(view.fingerprint):
        raise FeaturesNotBuilt(
            f"The features of {view.name} were built by other declarations; run `aap features build`."
        )
    if not found.whole():
        raise DamagedValues(f"Files of {found.folder} are missing or damaged; run `aap features build`.")
    return found


def schema_of(view: View) -> pa.Schema:
    """The columns of the view's files."""
    moments = [("valid_from", _MOMENT), *([("grant_start", _MOMENT)] if view.entity is Entity.USER else [])]
    numbers = [(f.name, _MOMENT if s else pa.float64()) for f, s in zip(view.numbers, view.since, strict=True)]
    return pa.schema([(view.key, pa.string()), *moments, *numbers])


def digest(content: bytes | pa.Buffer) -> str:
    """What a file is named after."""
    return sha256(content).hexdigest()[:24]
