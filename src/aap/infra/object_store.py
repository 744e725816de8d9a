"""A folder of data files, on a local disk or in an S3 bucket: the same calls for both.

A file appears whole or not at all, whichever it is: a rename on a disk, one upload on S3. Names are relative to the folder
and use `/`. DuckDB reads the files where they are; on S3 through Arrow's client, since its own would have to be downloaded.

S3 keys and the region come from where every AWS client looks for them (`AWS_ACCESS_KEY_ID`, `AWS_REGION`,
`AWS_ENDPOINT_URL`, a profile, the machine's role); the URL may add Arrow's own options, as in
`s3://bucket/prefix?scheme=http&endpoint_override=localhost:9000`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from aap.config import Settings
from aap.infra.atomic_files import explain_full_disk, make_folder, write_atomically
from aap.infra.errors import PlaceUnusable
from aap.infra.keyring import open_keyring
from aap.infra.parquet_encryption import Seal, dataset
from aap.infra.paths import Layout

__all__ = ["Folder", "StoredFile", "archive_folder", "features_folder"]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a folder. Size (bytes) and time of change together tell whether it was replaced."""

    name: str
    size: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of data files; it need not exist yet. `Folder.at(...)` makes one."""

    uri: str
    """A local path, or `s3://bucket/prefix` without options."""
    _files: fs.FileSystem
    _root: str
    """The folder's path within `_files`."""
    seal: Seal | None = field(default=None, compare=False)
    """Opens its sealed files; None where there are none, as among features."""

    @classmethod
    def at(cls, place: Folder | Path | str) -> Folder:
        """The folder at a local path or an `s3://` URL; raises `PlaceUnusable` for any other URL."""
        if isinstance(place, Folder):
            return place
        if isinstance(place, str) and "://" in place:
            return cls._on_s3(place)
        path = str(Path(place).resolve())
        return cls(path, fs.LocalFileSystem(), path)

    @classmethod
    def _on_s3(cls, url: str) -> Folder:
        plain = url.partition("?")[0].rstrip("/")
        try:
            if not url.startswith("s3://"):
                raise ValueError("only s3:// is known")
            files, root = fs.FileSystem.from_uri(url)
        except (ValueError, OSError) as error:
            raise PlaceUnusable(
                f"Data can't be kept at {plain} ({error}): write a folder, or s3://bucket/prefix."
            ) from None
        return cls(plain, files, root.rstrip("/"))

    def __truediv__(self, name: str) -> Folder:
        """The folder called `name` in this one."""
        return replace(self, uri=f"{self.uri}/{name}", _root=f"{self._root}/{name}")

    def __str__(self) -> str:
        """Where it is, for a person."""
        return self.uri

    @property
    def path(self) -> Path | None:
        """Its path on a local disk; None on S3."""
        return Path(self.uri) if isinstance(self._files, fs.LocalFileSystem) else None

    def files(self, *, suffix: str = ".parquet") -> list[StoredFile]:
        """The files in it and below whose name ends so, by name; hidden ones (a part begins with a dot) are left out."""
        with self._reachable():
            found = self._files.get_file_info(fs.FileSelector(self._root, recursive=True, allow_not_found=True))
        named = ((f.path[len(self._root) + 1 :], f) for f in found if f.is_file and f.path.endswith(suffix))
        return sorted(
            (StoredFile(n, f.size, f.mtime_ns) for n, f in named if not f"/{n}".count("/.")), key=lambda f: f.name
        )

    def open(self, name: str) -> pa.NativeFile:
        """The file for reading at any place; raises `FileNotFoundError`."""
        with self._reachable():
            return self._files.open_input_file(f"{self._root}/{name}")

    def read(self, name: str) -> bytes:
        """The whole file; raises `FileNotFoundError`."""
        with self.open(name) as file, self._reachable():
            return bytes(file.read())

    @contextmanager
    def parquet_file(self, name: str) -> Iterator[pq.ParquetFile]:
        """A Parquet file opened for reading, sealed or not; raises `FileNotFoundError`, `KeyFileError`."""
        with self.open(name) as file:
            decryption = None if self.seal is None else self.seal.decryption(file)
            with pq.ParquetFile(file, decryption_properties=decryption) as opened:
                yield opened

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Put `content` there, whole or not at all, in place of what was; raises `DiskFull`, `PlaceUnusable`."""
        if self.path is not None:
            write_atomically(self.path / name, lambda file: file.write(content), durable=False)
            return
        with self._reachable():
            # There when it is closed, and closed only when all of it was taken.
            file = self._files.open_output_stream(f"{self._root}/{name}")
            file.write(content)
            file.close()

    def take_in(self, file: Path, *, name: str) -> None:
        """Move a local file here; on the same disk that is a rename."""
        if self.path is None:
            self.write(name, pa.memory_map(str(file)).read_buffer() if file.stat().st_size else b"")
            file.unlink()
            return
        place = self.path / name
        make_folder(place.parent)
        with explain_full_disk(place):
            shutil.move(file, place)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; one that is gone already is no error."""
        for name in names:
            with suppress(FileNotFoundError), self._reachable():
                self._files.delete_file(f"{self._root}/{name}")

    def clear(self) -> None:
        """Delete it with all that is in it; one that is not there is no error."""
        with suppress(FileNotFoundError), self._reachable():
            self._files.delete_dir(self._root)

    def parquet(self, names: Iterable[str], *, on: duckdb.DuckDBPyConnection) -> str:
        """A table expression over these Parquet files (at least one), which `on` can read from now on."""
        if self.path is None and not on.filesystem_is_registered("s3"):
            on.register_filesystem(_for_duckdb(self._files))
        listed = ", ".join(f"'{_quoted(f'{self.uri}/{name}')}'" for name in names)
        return f"read_parquet([{listed}], hive_partitioning = false, union_by_name = true)"

    def rows(self, files: Sequence[StoredFile], *, schema: pa.Schema, on: duckdb.DuckDBPyConnection) -> str:
        """As `parquet` of files of which some may be sealed; of those, the columns of `schema`.

        Raises `KeyFileError` when a key that is needed is not there.
        """
        keys = self.seal.keys(self, files) if self.seal is not None else {}
        sealed = {f"{self._root}/{f.name}": key for f in files if (key := keys.get(f))}
        plain = [f.name for f in files if not keys.get(f)]
        parts = [self.parquet(plain, on=on)] if plain else []
        if sealed:
            # Named by what is in it: asked for again, it takes the place of the same.
            name = f"sealed_{sha256(repr((sorted(sealed), schema)).encode()).hexdigest()[:32]}"
            on.register(name, dataset(sealed, schema=schema, filesystem=self._files))
            parts.append(name)
        return parts[0] if len(parts) == 1 else f"(FROM {parts[0]} UNION ALL BY NAME FROM {parts[1]})"

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Turn what S3's client says into one sentence; a disk's own errors are told as they are."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if self.path is not None:
                raise
            reason = str(error).partition("\n")[0]
            raise PlaceUnusable(
                f"{self.uri} can't be used ({reason}): check AAP_DATA_URI, the bucket and the AWS_… variables."
            ) from error


def archive_folder(settings: Settings) -> Folder:
    """Where these settings keep the event archive: `<event type>/day=YYYY-MM-DD/*.parquet`, sealed unless they say no."""
    seal = Seal(open_keyring(Layout(settings.home)), writes=settings.seal_archive, clock=settings.now)
    return replace(Folder.at(settings.data_uri or settings.home), seal=seal) / Layout(settings.home).archive.name


def features_folder(settings: Settings) -> Folder:
    """Where these settings keep the offline values of features: a folder for each view."""
    return Folder.at(settings.data_uri or settings.home) / Layout(settings.home).features.name


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _for_duckdb(files: fs.FileSystem) -> Any:
    from fsspec.implementations.arrow import ArrowFSWrapper

    class S3(ArrowFSWrapper):
        """Arrow's S3 client behind the names DuckDB calls."""

        protocol = "s3"

    return S3(files)
