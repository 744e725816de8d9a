"""What the retrieval door hands out: training frames, interactions and online vectors, each with what it may be used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import IntEnum
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from aap.consent.ledger import merkle
from aap.consent.policy import Decision

__all__ = ["Interactions", "Manifest", "Status", "TrainingFrame", "Vectors", "people_leaves", "table_leaves"]


class Status(IntEnum):
    """What an online value is. None of these is ever disguised as another."""

    PRESENT = 0
    NULL = 1
    NOT_FOUND = 2
    EXPIRED = 3
    DENIED = 4


@dataclass(frozen=True, slots=True)
class Manifest:
    """Proof of what a training set was made of; stored with every model version."""

    service: str
    purpose: str
    requires: tuple[str, ...]
    """Further purposes a person must allow for their rows to be used."""
    features: tuple[str, ...]
    as_of: datetime
    ledger_size: int
    ledger_root: str
    """RFC 6962 Merkle root of the first `ledger_size` consent records, hex."""
    rows: int
    rows_root: str
    """RFC 6962 Merkle root of the rows used, in canonical order, hex."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Rows asked for but not used, counted by reason."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "as_of": self.as_of.isoformat()}


@dataclass(frozen=True, slots=True)
class TrainingFrame:
    """Feature values as they could be known at each row's `as_of`, for people who allow their use.

    `data` has `user_key`, `as_of`, the label columns given, then one float64 column a feature; rows in canonical order
    (`user_key`, `as_of`). NaN is a value that is null by its definition.
    """

    data: pd.DataFrame
    features: tuple[str, ...]
    manifest: Manifest

    @property
    def user_keys(self) -> list[str]:
        """Everyone who has a row."""
        return sorted(set(self.data["user_key"]))

    @property
    def values(self) -> np.ndarray:
        """Feature matrix, float64 `[n_rows, n_features]`."""
        return self.data[list(self.features)].to_numpy(dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Interactions:
    """Purchases that may be learned from.

    `table` has `user_key` string, `item_id` string, `occurred_at` timestamp[us, UTC], `quantity` int64, in canonical
    order (`user_key`, `occurred_at`, `item_id`); one row a purchased line.
    """

    table: pa.Table
    manifest: Manifest

    @property
    def user_keys(self) -> list[str]:
        """Everyone who has a row."""
        return sorted(set(self.table["user_key"].to_pylist()))


@dataclass(frozen=True, slots=True)
class Vectors:
    """Online feature values of several people."""

    features: tuple[str, ...]
    values: np.ndarray
    """float64 `[n_users, n_features]`; NaN wherever `status` is not PRESENT."""
    status: np.ndarray
    """uint8 `[n_users, n_features]` of `Status`."""
    decisions: Sequence[Decision]
    """One a user: the decision for answering with this service; everything is DENIED where it is not allowed."""
    sequences: dict[str, list[list[str]]] = field(default_factory=dict)
    """Last-n features by name: one list a user, newest first; empty where denied or not found."""
    as_of: np.ndarray | None = None
    """int64 `[n_users]`, microseconds: up to when what was received is in the values; 0 where none could be read."""
    grant_start: np.ndarray | None = None
    """int64 `[n_users]`, microseconds: when the grant of the purpose of the values began."""
    request: dict[str, np.ndarray] = field(default_factory=dict)
    """What request-time features were given, by name: float64 `[n_users]`."""


def people_leaves(data: pd.DataFrame) -> list[bytes]:
    """One Merkle leaf a person: their rows, column by column, as bytes."""
    if data.empty:
        return []
    table = pa.Table.from_pandas(data, preserve_index=False)
    return table_leaves(table)


def table_leaves(table: pa.Table) -> list[bytes]:
    """One Merkle leaf a person of a table sorted by `user_key`: the hash of that person's rows in Arrow's IPC form."""
    if table.num_rows == 0:
        return []
    keys = np.asarray(table["user_key"].to_pylist(), dtype=object)
    edges = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1], [True])))
    whole = table.combine_chunks().to_batches()[0]
    leaves = []
    for first, end in pairwise(edges):
        leaves.append(merkle.leaf_hash(sha256(whole.slice(first, end - first).serialize()).digest()))
    return leaves
