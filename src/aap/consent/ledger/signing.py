"""Signatures: Ed25519 over canonical JSON, so that anybody with the public key can check what this platform stated.

Each kind of statement is signed with its name in front: a signature of one kind is none of another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from aap.consent.errors import UnusableKey
from aap.infra.paths import Layout
from aap.infra.secret_files import load_or_create

__all__ = ["PublicKey", "Signer", "canonical_json", "load_signer", "read_public_key", "signing_key_file"]


def canonical_json(content: Mapping[str, object]) -> bytes:
    """JSON with sorted keys and no spaces: the same bytes for the same content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class PublicKey:
    """Checks signatures."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    @property
    def pem(self) -> str:
        """The key as it is handed out."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def id(self) -> str:
        """The first 16 hex characters of the key's SHA-256."""
        return sha256(self._key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]

    def signed(self, kind: str, content: Mapping[str, object], *, signature: bytes) -> bool:
        """Whether `signature` is this key's, of a statement of this kind."""
        try:
            self._key.verify(signature, _message(kind, content))
        except InvalidSignature:
            return False
        return True


class Signer:
    """Makes signatures with one private key."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(self._key.public_key())

    def sign(self, kind: str, content: Mapping[str, object]) -> bytes:
        """64 bytes."""
        return self._key.sign(_message(kind, content))


def signing_key_file(layout: Layout) -> Path:
    """Where the private key is."""
    return layout.keys / "ledger.key"


def load_signer(layout: Layout) -> Signer:
    """The signer of this home; its key is made at first use."""
    return Signer(load_or_create(signing_key_file(layout)))


def read_public_key(path: Path) -> PublicKey:
    """The key in a PEM file; raises `UnusableKey`."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UnusableKey(f"{path} holds no public key ({error}); `aap consent key` writes one.") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UnusableKey(f"{path} holds a public key that is not Ed25519; `aap consent key` writes one.")
    return PublicKey(key)


def _message(kind: str, content: Mapping[str, object]) -> bytes:
    return f"aap {kind}\n".encode() + canonical_json(content)
