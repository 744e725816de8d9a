"""Lineage: who a model version was trained on, kept so that one person can be looked up and nobody listed.

One file a version: the 16-byte digests (`consent.tombstones.person_digest`) of everyone whose rows it was fitted on, sorted.
It lies beside the model's files and is no part of them: the model itself holds no person.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from consent.tombstones import person_digest

__all__ = ["FILE", "contains", "pack"]

FILE = "people/trained_on.bin"
_SIZE = 16


def pack(user_keys: Iterable[str]) -> bytes:
    """The digests of `user_keys`, each once, sorted."""
    return b"".join(sorted({bytes.fromhex(person_digest(key)) for key in user_keys}))


def contains(packed: bytes, user_key: str) -> bool:
    """Whether the person is among them."""
    wanted = bytes.fromhex(person_digest(user_key))
    place = bisect_left(range(len(packed) // _SIZE), wanted, key=lambda i: packed[i * _SIZE : (i + 1) * _SIZE])
    return packed[place * _SIZE : (place + 1) * _SIZE] == wanted
