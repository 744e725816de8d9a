"""The files a model is stored in: JSON and npz (and xgboost's own ubj), the same bytes for the same content.

Nothing here can run code on reading: JSON is data, and npz is read with `allow_pickle=False`.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aap.modeling.errors import CorruptArtifact

__all__ = ["digests", "read_arrays", "read_json", "verify", "write_arrays", "write_json"]


def write_json(path: Path, content: object) -> None:
    """Write `content` with sorted keys, so equal content is equal bytes; refuses NaN."""
    path.write_text(json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; raises `CorruptArtifact` when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptArtifact(f"Can't read {path.name} of the stored model ({error}); retrain or roll back.") from None
    if not isinstance(content, dict):
        raise CorruptArtifact(f"{path.name} of the stored model is not a JSON object; retrain or roll back.")
    return content


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as an uncompressed npz (numpy stamps its entries 1980, so equal arrays are equal bytes)."""
    np.savez(path, **{name: arrays[name] for name in sorted(arrays)})  # type: ignore[arg-type]


def read_arrays(path: Path, *names: str) -> tuple[np.ndarray, ...]:
    """The arrays called `names`, in that order; raises `CorruptArtifact` when one can't be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return tuple(archive[name] for name in names)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CorruptArtifact(f"Can't read {path.name} of the stored model ({error}); retrain or roll back.") from None


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file below `folder`, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def verify(folder: Path, *, expected: Mapping[str, str]) -> None:
    """Raise `CorruptArtifact` unless `folder` holds exactly the files with the `expected` digests."""
    found = digests(folder) if folder.is_dir() else {}
    for name in sorted(set(found) | set(expected)):
        if found.get(name) != expected.get(name):
            what = "is missing" if name not in found else "was added" if name not in expected else "was changed"
            raise CorruptArtifact(
                f"File {name} of the stored model {what} after it was registered; retrain or roll back."
            )
