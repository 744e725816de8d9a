"""Signed tree heads: what the ledger's Merkle tree was at a size, vouched for by the platform's key.

There is one for every record, so that a record changed by somebody who can also forge its leaf is named by its number;
of a batch of over a thousand (an import) one in a hundred. The last of a batch keeps the tree's frontier, so that the
next append needs log n hashes and not the whole ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from aap.consent.ledger.merkle import Frontier
from aap.consent.ledger.records import METADATA, RECORDS, micros
from aap.consent.ledger.signing import PublicKey, Signer

__all__ = ["HEADS", "KIND", "TreeHead", "head_of", "heads_for"]

KIND = "tree head"
_ALL_UP_TO, _EVERY = 1_000, 100

HEADS = sa.Table(
    "consent_tree_heads",
    METADATA,
    sa.Column("size", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("signed_at", sa.BigInteger, nullable=False),
    sa.Column("root", sa.LargeBinary(32), nullable=False),
    sa.Column("signature", sa.LargeBinary(64), nullable=False),
    sa.Column("frontier", sa.LargeBinary),
)


@dataclass(frozen=True, slots=True)
class TreeHead:
    """The tree at one size. `root` and `signature` are hex."""

    size: int
    root: str
    signed_at: datetime
    signature: str

    def holds(self, public: PublicKey) -> bool:
        """Whether the key signed exactly this."""
        return public.signed(
            KIND, _content(self.size, self.root, micros(self.signed_at)), signature=_hex(self.signature)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "size": self.size,
            "root": self.root,
            "signed_at": self.signed_at.isoformat(),
            "signature": self.signature,
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> TreeHead:
        """What `to_dict` gave; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        at = datetime.fromisoformat(told["signed_at"]).astimezone(UTC)
        return cls(int(told["size"]), str(told["root"]), at, str(told["signature"]))


def heads_for(
    leaves: Iterable[bytes], *, frontier: Frontier, signer: Signer, signed_at: datetime, count: int
) -> Iterator[dict[str, object]]:
    """Rows of `HEADS` for `count` leaves appended to the tree of `frontier`, which grows with them."""
    last = frontier.size + count
    for leaf in leaves:
        frontier.append(leaf)
        size = frontier.size
        if count <= _ALL_UP_TO or size % _EVERY == 0 or size == last:
            root = frontier.root()
            signature = signer.sign(KIND, _content(size, root.hex(), micros(signed_at)))
            row = {"size": size, "signed_at": micros(signed_at), "root": root, "signature": signature}
            yield {**row, "frontier": frontier.to_bytes() if size == last else None}


def head_of(row: sa.Row[Any]) -> TreeHead:
    """A head as it was read."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row.signed_at)
    return TreeHead(row.size, bytes(row.root).hex(), at, bytes(row.signature).hex())


def frontier_at(row: sa.Row[Any] | None) -> Frontier:
    """The tree to go on with: the one `row` kept, unless it isn't the one that was signed; else an empty one."""
    if row is None or row.frontier is None:
        return Frontier()
    kept = Frontier.from_bytes(row.size, bytes(row.frontier))
    return (
        kept if len(bytes(row.frontier)) == 32 * row.size.bit_count() and kept.root() == bytes(row.root) else Frontier()
    )


def leaves_after(connection: sa.Connection, size: int, *, before: int) -> list[bytes]:
    """The leaves of the records in between."""
    query = sa.select(RECORDS.c.leaf).where(RECORDS.c.seq > size, RECORDS.c.seq < before).order_by(RECORDS.c.seq)
    return [bytes(leaf) for leaf in connection.execute(query).scalars()]


def _content(size: int, root: str, signed_at: int) -> dict[str, object]:
    return {"size": size, "root": root, "signed_at": signed_at}


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
