"""Merkle trees as in RFC 6962, section 2.1: the fingerprint of an ordered list that nobody can change unnoticed.

Proofs are lists of 32-byte hashes. An inclusion proof shows that a leaf is in a tree of known root; a consistency proof
that a tree is the beginning of another. Both are checked without the list (RFC 9162, sections 2.1.3.2 and 2.1.4.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

__all__ = [
    "EMPTY_ROOT",
    "Frontier",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "proves_consistency",
    "proves_inclusion",
    "root",
]

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
        paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


class Frontier:
    """A growing tree, of which only the roots of its full subtrees are kept, the largest first: log n hashes."""

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        self.size = size
        self._nodes = list(nodes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash at the end."""
        self._nodes.append(leaf)
        self.size += 1
        doubled = self.size
        while doubled % 2 == 0:
            right, left = self._nodes.pop(), self._nodes.pop()
            self._nodes.append(_node(left, right))
            doubled //= 2

    def root(self) -> bytes:
        """The root of the tree so far."""
        if not self._nodes:
            return EMPTY_ROOT
        found = self._nodes[-1]
        for left in reversed(self._nodes[:-1]):
            found = _node(left, found)
        return found

    def to_bytes(self) -> bytes:
        """The hashes, one after the other."""
        return b"".join(self._nodes)

    @classmethod
    def from_bytes(cls, size: int, packed: bytes) -> Frontier:
        """What `to_bytes` gave of a tree of `size` leaves."""
        return cls(size, [packed[i : i + 32] for i in range(0, len(packed), 32)])


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index` (from 0) in the tree over `leaves`, the nearest hash first."""
    if len(leaves) <= 1:
        return []
    cut = _split(len(leaves))
    if index < cut:
        return [*inclusion_proof(leaves[:cut], index), root(leaves[cut:])]
    return [*inclusion_proof(leaves[cut:], index - cut), root(leaves[:cut])]


def proves_inclusion(leaf: bytes, index: int, size: int, *, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` shows `leaf` at `index` (from 0) of a tree of `size` leaves with this `root`."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if place % 2 or place == last:
            found = _node(step, found)
            while place % 2 == 0 and place:
                place, last = place >> 1, last >> 1
        else:
            found = _node(found, step)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """What shows that the tree over the first `first` leaves is the beginning of the one over all `leaves`."""
    return _subproof(leaves, first, whole=True) if 0 < first < len(leaves) else []


def proves_consistency(
    first: int, second: int, *, first_root: bytes, second_root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether `path` shows the tree of `first` leaves to be the beginning of the one of `second`."""
    if first == second:
        return not path and first_root == second_root
    if first == 0:
        return not path and first_root == EMPTY_ROOT
    if not 0 < first < second:
        return False
    steps = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not steps:
        return False
    place, last = first - 1, second - 1
    while place % 2:
        place, last = place >> 1, last >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if place % 2 or place == last:
            old, new = _node(step, old), _node(step, new)
            while place % 2 == 0 and place:
                place, last = place >> 1, last >> 1
        else:
            new = _node(new, step)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _subproof(leaves: Sequence[bytes], first: int, *, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2."""
    if first == len(leaves):
        return [] if whole else [root(leaves)]
    cut = _split(len(leaves))
    if first <= cut:
        return [*_subproof(leaves[:cut], first, whole=whole), root(leaves[cut:])]
    return [*_subproof(leaves[cut:], first - cut, whole=False), root(leaves[:cut])]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()
