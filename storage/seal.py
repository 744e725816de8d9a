"""The seal: Parquet files encrypted as the Parquet format itself defines it (modular encryption, AES-256-GCM).

Each file has a data key of its own for its footer and every column, wrapped by the keyring's current master, which the
file names; so a new master changes no file. Files that are not sealed may lie beside sealed ones: how a file ends tells.
The wrapping is single: Arrow's double wrapping would put a key of 128 bits in between.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet.encryption as pe
from pyarrow import fs

from storage.keyring import Keyring

if TYPE_CHECKING:
    from storage.folder import Folder, StoredFile

__all__ = ["Seal"]

_AT_ONCE = 8
_SEALED, _ENDING = b"PARE", 8
"""A sealed file ends with the length of its footer (4 bytes) and this; an open one with PAR1."""
_KEY_MATERIAL = re.compile(rb'\{"keyMaterialType".*?\}')


class Seal:
    """Writes files sealed, if it `writes`, and reads them, whether or not. `clock` says when a master is due."""

    def __init__(self, keyring: Keyring, *, writes: bool, clock: Callable[[], datetime]) -> None:
        self.keyring, self.writes, self._clock = keyring, writes, clock
        self._factory = pe.CryptoFactory(lambda _: _Wrapping(keyring))
        self._connection, self._reading = pe.KmsConnectionConfig(), pe.DecryptionConfiguration()
        self._keys: dict[StoredFile, str] = {}

    def encryption(self) -> Any:
        """For writing one file; None if files are not to be sealed."""
        if not self.writes:
            return None
        return self._factory.file_encryption_properties(
            self._connection,
            pe.EncryptionConfiguration(
                footer_key=self.keyring.current(now=self._clock()).name,
                uniform_encryption=True,
                encryption_algorithm="AES_GCM_V1",
                double_wrapping=False,
                data_key_length_bits=256,
            ),
        )

    def decryption(self) -> Any:
        """For reading any number of files, sealed or not."""
        return self._factory.file_decryption_properties(self._connection, self._reading)

    def keys(self, folder: Folder, files: Iterable[StoredFile]) -> dict[StoredFile, str]:
        """The name of the master of each file; empty for one that isn't sealed.

        Each file's own key is opened on the way; raises `KeyFileError` naming the master's file if one can't be. An
        error in the middle of a scan would come from a thread of Arrow's and can stop the process for good.
        """
        wanted = list(files)
        asked = [f for f in wanted if f not in self._keys]
        with ThreadPoolExecutor(_AT_ONCE) as readers:
            self._keys.update(zip(asked, readers.map(lambda f: self._key(folder, f.name), asked), strict=True))
        return {f: self._keys[f] for f in wanted}

    def dataset(self, paths: list[str], *, schema: pa.Schema, filesystem: fs.FileSystem) -> ds.Dataset:
        """These files as one data set, whose columns and rows are chosen while it is read."""
        options = ds.ParquetFragmentScanOptions(
            decryption_config=ds.ParquetDecryptionConfig(self._factory, self._connection, self._reading)
        )
        form = ds.ParquetFileFormat(default_fragment_scan_options=options)
        return ds.dataset(paths, format=form, schema=schema, filesystem=filesystem)

    def _key(self, folder: Folder, name: str) -> str:
        with folder.open(name) as file:
            size = file.size()
            ending = file.read_at(min(_ENDING, size), max(size - _ENDING, 0))
            if ending[4:] != _SEALED:
                return ""
            length = min(int.from_bytes(ending[:4], "little"), size - _ENDING)
            footer = file.read_at(length, size - _ENDING - length)
        material = _KEY_MATERIAL.search(footer)
        if material is None:  # cut off or altered: who reads it says so
            return ""
        told = json.loads(material[0])
        self.keyring.unwrap(base64.b64decode(told["wrappedDEK"]), under=told["masterKeyID"])
        return str(told["masterKeyID"])


class _Wrapping(pe.KmsClient):
    """The keyring behind the names Arrow calls."""

    def __init__(self, keyring: Keyring) -> None:
        super().__init__()
        self._keyring = keyring

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        return base64.b64encode(self._keyring.wrap(bytes(key_bytes), under=master_key_identifier)).decode()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        return self._keyring.unwrap(base64.b64decode(wrapped_key), under=master_key_identifier)
