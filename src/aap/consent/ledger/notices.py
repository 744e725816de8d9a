"""Notices: the texts people are shown before they answer. One that differs materially ends what was granted under older ones.

A notice is published once, for all purposes or some, and never changed; until one is, versions are mere words that the
ledger keeps. A person has to be asked again about each purpose a material notice is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from aap.consent.ledger.records import METADATA, micros
from aap.consent.purposes import Purpose

__all__ = ["NOTICES", "Notice", "notice_of", "row_of_notice", "superseded_at"]

NOTICES = sa.Table(
    "consent_notices",
    METADATA,
    sa.Column("version", sa.String(64), primary_key=True),
    sa.Column("purposes", sa.Text, nullable=False),
    sa.Column("text_hash", sa.String(64), nullable=False),
    sa.Column("published_at", sa.BigInteger, nullable=False),
    sa.Column("material", sa.Boolean, nullable=False),
    sa.Column("signature", sa.LargeBinary(64)),
)


@dataclass(frozen=True, slots=True)
class Notice:
    """One published text. `material`: whoever agreed under an older one has to be asked again."""

    version: str
    purposes: tuple[Purpose, ...]
    text_hash: str
    """SHA-256 of the text, hex."""
    published_at: datetime
    material: bool

    def content(self) -> dict[str, object]:
        """What is signed."""
        return {
            "version": self.version,
            "purposes": " ".join(self.purposes),
            "text_hash": self.text_hash,
            "published_at": micros(self.published_at),
            "material": self.material,
        }


def superseded_at(notices: Sequence[Notice], purpose: Purpose, version: str) -> datetime | None:
    """When what was granted for `purpose` under `version` ended; None while it stands.

    A version nobody published is older than all that were.
    """
    ours = sorted((n for n in notices if purpose in n.purposes), key=lambda n: n.published_at)
    known = [place for place, n in enumerate(ours) if n.version == version]
    later = ours[known[0] + 1 :] if known else ours
    return next((n.published_at for n in later if n.material), None)


def notice_of(row: sa.Row[Any]) -> Notice:
    """A notice as it was read."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row.published_at)
    purposes = tuple(Purpose(p) for p in row.purposes.split())
    return Notice(row.version, purposes, row.text_hash, at, bool(row.material))


def row_of_notice(notice: Notice, *, signature: bytes | None) -> dict[str, object]:
    """A notice as it is written."""
    return {**notice.content(), "signature": signature}
