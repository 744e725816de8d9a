"""Lineage: what a model version was made of, kept beside its files, and signed with them when it is registered.

Two files a version: the manifest of its data (`aap.features.datasets.Manifest`), and whom it was fitted on: the 16-byte
digests (`aap.consent.ledger.tombstones.person_digest`) of everyone whose rows were used, sorted, so that one person can be
looked up and nobody listed. They are no part of the model, which holds no person. `aap.modeling.registry.provenance` checks
them.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256

from aap.consent.ledger.signing import canonical_json
from aap.consent.ledger.tombstones import person_digest
from aap.features.datasets import Manifest

__all__ = ["DIGESTS", "FILE", "KIND", "MADE_OF", "MANIFEST", "SIGNATURE", "contains", "made_of", "pack", "pack_manifest",
           "people_in", "statement"]  # fmt: skip

FILE = "people/trained_on.bin"
MANIFEST = "manifest.json"
KIND = "model version"
DIGESTS, MADE_OF, SIGNATURE = "artifact_digests", "made_of", "made_of_signature"
"""Tags of a version: the digests of its own files, those of the two files here, and the signature over both."""
_SIZE = 16


def pack(user_keys: Iterable[str]) -> bytes:
    """The digests of `user_keys`, each once, sorted."""
    return b"".join(sorted({bytes.fromhex(person_digest(key)) for key in user_keys}))


def people_in(packed: bytes) -> Iterator[bytes]:
    """The digests, one by one."""
    return (packed[at : at + _SIZE] for at in range(0, len(packed), _SIZE))


def contains(packed: bytes, user_key: str) -> bool:
    """Whether the person is among them."""
    wanted = bytes.fromhex(person_digest(user_key))
    place = bisect_left(range(len(packed) // _SIZE), wanted, key=lambda i: packed[i * _SIZE : (i + 1) * _SIZE])
    return packed[place * _SIZE : (place + 1) * _SIZE] == wanted


def pack_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is stored."""
    return canonical_json(manifest.to_dict())


def made_of(manifest: bytes, people: bytes) -> dict[str, str]:
    """The tag that says which two files belong to a version."""
    return {MADE_OF: json.dumps({"manifest": sha256(manifest).hexdigest(), "people": sha256(people).hexdigest()})}


def statement(name: str, tags: Mapping[str, str]) -> dict[str, object]:
    """What is signed: this model, with exactly these files, was made of exactly this."""
    return {"model": name, "files": tags.get(DIGESTS, ""), "made_of": tags.get(MADE_OF, "")}
