"""The user column of somebody's table: raw ids become user keys before anything else looks at a row.

An id is text without the blanks around it. Numbers that a tool turned into floats on the way (101 → 101.0, as happens to
a whole column when one value is missing) count as the whole numbers they were, so that a person is one person in every table.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from aap.events.errors import SourceUnreadable
from aap.security.pseudonyms import Pseudonyms, is_user_key

__all__ = ["People", "user_ids"]


def user_ids(column: pa.ChunkedArray, *, name: str) -> pa.Array:
    """The ids in `column` as text, null where there is none. Raises `SourceUnreadable` if it holds no ids at all."""
    try:
        values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        text = pc.utf8_trim_whitespace(values.cast(pa.string()))
        if pa.types.is_floating(values.type):
            whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**53))
            integers = pc.if_else(whole, values, None).cast(pa.int64()).cast(pa.string())
            text = pc.if_else(pc.is_nan(values), None, pc.coalesce(integers, text))
        return pc.if_else(pc.equal(text, ""), None, text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        kind = type(error).__name__
        raise SourceUnreadable(f"The user column {name!r} holds {column.type}, which is no id ({kind}).") from None


class People:
    """The people met in one import, by raw id. With `keyed` the ids are user keys already, as in a replay."""

    def __init__(self, pseudonyms: Pseudonyms, *, keyed: bool = False) -> None:
        self._pseudonyms = pseudonyms
        self._keyed = keyed
        self._keys: dict[str, str | None] = {}

    def keys(self, column: pa.ChunkedArray, *, name: str) -> pa.Array:
        """The user key of each row's id, null where a row names nobody."""
        encoded = user_ids(column, name=name).dictionary_encode()
        ids = encoded.dictionary.to_pylist()
        new = [i for i in ids if i not in self._keys]
        made = [i if is_user_key(i) else None for i in new] if self._keyed else self._pseudonyms.user_keys(new)
        self._keys.update(zip(new, made, strict=True))
        return pa.array([self._keys[i] for i in ids], pa.string()).take(encoded.indices)

    def all_keys(self) -> list[str]:
        """Everyone met so far, sorted."""
        return sorted({k for k in self._keys.values() if k is not None})

    def ids(self, among: set[str]) -> dict[str, str]:
        """user key → raw id of those `among` them; empty in a replay, which has no ids."""
        return {} if self._keyed else {key: i for i, key in self._keys.items() if key is not None and key in among}
