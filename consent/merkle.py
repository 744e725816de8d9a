"""Merkle trees as in RFC 6962, section 2.1: the fingerprint of an ordered list that nobody can change unnoticed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

__all__ = ["EMPTY_ROOT", "leaf_hash", "root"]

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry): 32 bytes."""
    return sha256(b"\x00" + entry).digest()


def root(leaves: Iterable[bytes]) -> bytes:
    """The Merkle tree hash of `leaves` (each a `leaf_hash`), 32 bytes; of no leaves, the hash of the empty string.

    Pairing neighbours level by level and carrying an odd last node up gives the same tree as the RFC's split at the
    largest power of two.
    """
    level: Sequence[bytes] = list(leaves)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        paired = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]
