"""Pseudonyms: how a user id becomes the `user_key` that everything inside knows a person by.

`user_key` is HMAC-SHA256 of the id under a secret key, cut to 128 bits (32 hex characters). It is made at the doors and
nowhere else; without the key nobody can go from a list of ids to user keys, or back.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from aap.infra.paths import Layout
from aap.infra.secret_files import load_or_create

__all__ = ["Pseudonyms", "is_user_key", "load_pseudonyms", "pseudonym_key_file"]

_HEX = frozenset("0123456789abcdef")


class Pseudonyms:
    """Makes user keys under one secret key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def user_key(self, user_id: str) -> str:
        """32 hex characters for one id; the same id always gives the same key."""
        return hmac.digest(self._key, user_id.encode(), "sha256").hex()[:32]

    def user_keys(self, user_ids: Sequence[str]) -> list[str]:
        """One key an id, in order."""
        key = self._key
        return [hmac.digest(key, user_id.encode(), "sha256").hex()[:32] for user_id in user_ids]


def is_user_key(text: str) -> bool:
    """Whether `text` has the form of a user key."""
    return len(text) == 32 and _HEX.issuperset(text)


def load_pseudonyms(layout: Layout) -> Pseudonyms:
    """The pseudonyms of this home; the key is made at first use."""
    return Pseudonyms(load_or_create(pseudonym_key_file(layout)))


def pseudonym_key_file(layout: Layout) -> Path:
    """Where the key is."""
    return layout.keys / "pseudonyms.key"
