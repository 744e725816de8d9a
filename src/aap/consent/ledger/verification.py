"""Verification: whether the ledger is what was signed, and if not, which record isn't.

`verify` looks at everything at once; a `Round` at a few records at a time, for who looks again and again.

Three things are held against each other: a record's content and its own leaf; its number and its place; and the tree over
all leaves and the signed tree heads. Whoever changes a record without the key is caught by one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aap.consent.errors import LedgerUnavailable
from aap.consent.ledger import merkle
from aap.consent.ledger.ledger import Ledger
from aap.consent.ledger.records import canonical
from aap.consent.ledger.signed_tree_heads import TreeHead
from aap.consent.ledger.signing import PublicKey

__all__ = ["Finding", "Round", "continues", "verify"]

_NEARBY = 50
"""How far a record is looked for around the place it lies at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with the records `first` to `last`."""

    first: int
    last: int
    what: str

    def __str__(self) -> str:
        """One sentence."""
        one = self.first == self.last
        return f"Record{'' if one else 's'} {self.first}{'' if one else f' to {self.last}'} {self.what}."


def verify(ledger: Ledger, *, public_key: PublicKey | None = None, most: int = 20) -> list[Finding]:
    """What is wrong, at most `most` findings; nothing when the ledger is sound. Raises `LedgerUnavailable`."""
    key = public_key or ledger.public_key
    found: list[Finding] = []
    for finding in _against_own_leaves(ledger):
        found.append(finding)
        if len(found) == most:
            return found
    if key is not None:
        heads = ledger.tree_heads()
        named = {n for f in found for n in range(f.first, f.last + 1)}
        found += [f for f in _against_heads(ledger.leaves(), heads, key) if not named & set(range(f.first, f.last + 1))]
    return found


def continues(ledger: Ledger, head: TreeHead, *, public_key: PublicKey) -> bool:
    """Whether the ledger is what `head` vouches for with records added: nothing before it was changed since."""
    leaves = ledger.leaves()
    if not head.holds(public_key) or head.size > len(leaves):
        return False
    proof = merkle.consistency_proof(leaves, head.size)
    return merkle.proves_consistency(
        head.size, len(leaves), first_root=bytes.fromhex(head.root), second_root=merkle.root(leaves), path=proof
    )


class Round:
    """Goes through a ledger a few records a step, round after round; at the end of each, the tree is the one that was signed.

    A record whose content isn't what its leaf says is found by the step that comes to it; one whose leaf was forged too, or
    that was inserted, removed or moved, at the end of the round.
    """

    def __init__(self) -> None:
        self._tree, self._doubt = merkle.Frontier(), ""

    def go_on(self, ledger: Ledger, *, head: TreeHead, most: int) -> None:
        """Look at the next `most` records up to `head`, the ledger's newest.

        Raises `LedgerUnavailable` for what is found, and again at each later step until it is gone: of a record, when it is
        right again; of the tree, when a whole round has found it right.
        """
        if self._tree.size > head.size:
            self._tree = merkle.Frontier()  # another ledger lies in its place
        end = min(self._tree.size + most, head.size)
        for told in ledger.rows(after=self._tree.size, most=end - self._tree.size):
            leaf = bytes(told.pop("leaf"))
            if told["seq"] != self._tree.size + 1 or merkle.leaf_hash(canonical(told)) != leaf:
                break
            self._tree.append(leaf)
        if self._tree.size < end:
            raise LedgerUnavailable(
                f"Record {self._tree.size + 1} of the consent ledger is not what was recorded: "
                "`aap consent verify` says more."
            )
        if self._tree.size >= head.size:
            whole = self._tree.size == head.size and self._tree.root().hex() == head.root
            self._tree = merkle.Frontier()
            self._doubt = "" if whole else _DOUBT
        if self._doubt:
            raise LedgerUnavailable(self._doubt)


_DOUBT = "The consent ledger's records are not those that were signed: `aap consent verify` names them."


def _against_own_leaves(ledger: Ledger) -> Iterator[Finding]:
    """Records that are missing, changed or elsewhere than they were, as far as their own leaves tell."""
    expected = 1
    for told in ledger.rows():
        seq, leaf = told["seq"], bytes(told.pop("leaf"))
        if seq != expected:
            yield Finding(expected, seq - 1, "is missing" if seq - 1 == expected else "are missing")
        if merkle.leaf_hash(canonical(told)) != leaf:
            place = _signed_as(told, leaf)
            yield Finding(seq, seq, "was changed" if place is None else f"was moved here: it was recorded as {place}")
        expected = seq + 1


def _signed_as(told: dict[str, object], leaf: bytes) -> int | None:
    """The number under which the record gives its leaf, if it only lies in another place."""
    at = int(str(told["seq"]))
    nearby = (at + sign * step for step in range(1, _NEARBY) for sign in (1, -1))
    return next((n for n in nearby if merkle.leaf_hash(canonical({**told, "seq": n})) == leaf), None)


def _against_heads(leaves: Sequence[bytes], heads: Sequence[TreeHead], key: PublicKey) -> Iterator[Finding]:
    """The first records that no signature vouches for, and what is missing at the end."""
    if not heads:
        if leaves:
            yield Finding(1, len(leaves), "are in no signed tree head")
        return
    tree, good = merkle.Frontier(), 0
    for head in heads:
        if head.size > len(leaves):
            break
        while tree.size < head.size:
            tree.append(leaves[tree.size])
        if tree.root().hex() != head.root or not head.holds(key):
            one = head.size == good + 1
            yield Finding(
                good + 1,
                head.size,
                f"{'is' if one else 'are'} not what was signed: changed, inserted, removed or moved",
            )
            return
        good = head.size
    last = heads[-1].size
    if last > len(leaves):
        yield Finding(
            len(leaves) + 1, last, "is missing at the end" if last == len(leaves) + 1 else "are missing at the end"
        )
    elif len(leaves) > last:
        be = "is" if len(leaves) == last + 1 else "are"
        yield Finding(last + 1, len(leaves), f"{be} in no signed tree head: inserted by somebody without the key")
