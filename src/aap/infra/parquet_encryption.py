"""The seal: Parquet files encrypted as the Parquet format itself defines it (modular encryption, AES-256-GCM).

Each file has a data key of its own for its footer and every column. That key, wrapped by the keyring's current master, and
the master's name stand in the file's own additional authenticated data; so a new master changes no file. Files that are not
sealed may lie beside sealed ones: how a file ends tells.

The keys are opened here, before a file is read, and handed to Arrow. Arrow can also ask for them while it reads, by a
"KMS client" in Python; its threads and DuckDB's then wait for each other for ever (Arrow holds a lock of its own while it
waits for Python's, and the other way round), and its double wrapping puts a key of 128 bits in between.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet.encryption as pe
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyarrow import fs

from aap.infra.keyring import Keyring

__all__ = ["DataKey", "Seal", "dataset"]

_AT_ONCE = 8
_SEALED, _ENDING = b"PARE", 8
"""A sealed file ends with the length of its footer (4 bytes) and this; an open one with PAR1."""
_TOLD = re.compile(rb"aap-seal:([0-9A-Za-z.-]+):([0-9A-Za-z+/=]+);")


class _Named(Hashable, Protocol):
    """A file of a folder; equal to what it was asked of before only if it wasn't replaced since."""

    @property
    def name(self) -> str:
        """Its name in the folder."""


class _Openable(Protocol):
    """A folder, for what is needed of it here: `aap.infra.object_store` imports this module."""

    def open(self, name: str) -> pa.NativeFile:
        """The file called `name`, for reading at any place."""


_File = TypeVar("_File", bound=_Named)


@dataclass(frozen=True, slots=True)
class DataKey:
    """A file's own key and the name of the master that wraps it."""

    master: str
    secret: bytes = field(repr=False)

    def decryption(self) -> Any:
        """For reading the file: pyarrow's `FileDecryptionProperties`."""
        return pe.create_decryption_properties(self.secret)


class Seal:
    """Writes files sealed, if it `writes`, and reads them, whether or not. `clock` says when a master is due."""

    def __init__(self, keyring: Keyring, *, writes: bool, clock: Callable[[], datetime]) -> None:
        self.keyring, self.writes, self._clock = keyring, writes, clock
        self._keys: dict[_Named, DataKey | None] = {}

    def encryption(self) -> Any:
        """For writing one file: pyarrow's `FileEncryptionProperties`; None if files are not to be sealed."""
        if not self.writes:
            return None
        master = self.keyring.current(now=self._clock()).name
        secret = AESGCM.generate_key(bit_length=256)
        wrapped = base64.b64encode(self.keyring.wrap(secret, under=master))
        told = b"aap-seal:%b:%b;" % (master.encode(), wrapped)
        return pe.create_encryption_properties(secret, aad_prefix=told, encryption_algorithm="AES_GCM_V1")

    def key(self, file: pa.NativeFile) -> DataKey | None:
        """The key of an opened file; None if it isn't sealed. Raises `KeyFileError` when its master is not there."""
        size = file.size()
        ending = file.read_at(min(_ENDING, size), max(size - _ENDING, 0))
        if ending[4:] != _SEALED:
            return None
        length = min(int.from_bytes(ending[:4], "little"), size - _ENDING)
        told = _TOLD.search(file.read_at(length, size - _ENDING - length))
        if told is None:  # altered, or sealed by somebody else: who reads it says so
            return None
        master = told[1].decode()
        return DataKey(master, self.keyring.unwrap(base64.b64decode(told[2]), under=master))

    def decryption(self, file: pa.NativeFile) -> Any:
        """For reading an opened file; None if it isn't sealed."""
        key = self.key(file)
        return None if key is None else key.decryption()

    def keys(self, folder: _Openable, files: Iterable[_File]) -> dict[_File, DataKey | None]:
        """The key of each file; asked of each file once."""
        wanted = list(files)
        asked = [f for f in wanted if f not in self._keys]

        def opened(file: _Named) -> DataKey | None:
            with folder.open(file.name) as content:
                return self.key(content)

        with ThreadPoolExecutor(_AT_ONCE) as readers:
            self._keys.update(zip(asked, readers.map(opened, asked), strict=True))
        return {f: self._keys[f] for f in wanted}


def dataset(files: dict[str, DataKey], *, schema: pa.Schema, filesystem: fs.FileSystem) -> ds.Dataset:
    """Sealed files, by path, as one data set, whose columns and rows are chosen while it is read."""
    forms = [
        ds.ParquetFileFormat(
            default_fragment_scan_options=ds.ParquetFragmentScanOptions(decryption_properties=key.decryption())
        )
        for key in files.values()
    ]
    pieces = [form.make_fragment(path, filesystem=filesystem) for form, path in zip(forms, files, strict=True)]
    return ds.FileSystemDataset(pieces, schema, forms[0], filesystem)
