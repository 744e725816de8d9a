"""Provenance: a version answers only if what it was made of is vouched for, allowed, and goes back to the ledger there is.

Checked when a version is promoted and when it is loaded to answer: its manifest and the list of whom it was fitted on are
there and signed by this platform, together with the model's own files; its purposes are those that its service has today; and
the consent ledger begins with the very records it was trained under (RFC 6962). Anything else is refused in one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from aap.config import Settings
from aap.consent.ledger import merkle
from aap.consent.ledger.ledger import Ledger
from aap.consent.ledger.tombstones import person_digest
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.features.errors import UnknownFeature
from aap.features.views import service as service_called
from aap.modeling.base import AnyModel
from aap.modeling.errors import UnsoundLineage
from aap.modeling.registry import lineage
from aap.modeling.registry.registry import ModelVersion, Registry, open_registry

__all__ = ["Checked", "Ended", "Provenance", "open_provenance"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a version was made of, as it was signed."""

    manifest: dict[str, Any]
    people: bytes
    """The digests of whom it was fitted on (`aap.modeling.registry.lineage`)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Of the people a version was trained on, those whose consent to it has ended since."""

    people: int
    ended: int

    def __str__(self) -> str:
        """One sentence."""
        if not self.ended:
            return f"It was trained on {self.people} people, who all still allow it."
        return f"It was trained on {self.people} people; the consent of {self.ended} of them ended since."


@dataclass(frozen=True, slots=True)
class Provenance:
    """Checks versions of `registry` against `ledger`, whose key has signed both; a registry that hands out no other."""

    registry: Registry
    ledger: Ledger
    _roots: dict[tuple[str, int], str] = field(default_factory=dict, compare=False, repr=False)
    """By the ledger's newest signed root, and a size: the root of so many records, which are read once while it stays."""

    def champion(self, name: str) -> ModelVersion | None:
        """As the registry says."""
        return self.registry.champion(name)

    def challenger(self, name: str) -> ModelVersion | None:
        """As the registry says."""
        return self.registry.challenger(name)

    def previous(self, name: str) -> ModelVersion | None:
        """As the registry says."""
        return self.registry.previous(name)

    def state(self) -> object | None:
        """As the registry says."""
        return self.registry.state()

    def note_serving(self, version: ModelVersion, /, *, refusal: str | None) -> None:
        """As the registry does."""
        self.registry.note_serving(version, refusal=refusal)

    def load(self, version: ModelVersion, /) -> AnyModel:
        """The model, once `check` has found nothing; raises `UnsoundLineage`, `CorruptArtifact`, `LedgerUnavailable`."""
        self.check(version)
        return self.registry.load(version)

    def check(self, version: ModelVersion) -> Checked:
        """What the version was made of, checked; raises `UnsoundLineage` with what is wrong, and `LedgerUnavailable`."""
        of = f"{version.name} version {version.version}"
        found = self._vouched(version, of=of)
        manifest = found.manifest
        purposes = self._purposes(manifest, of=of)
        required = set(service_called(str(manifest["service"])).training_purposes)
        if lacking := sorted(required - set(purposes)):
            raise UnsoundLineage(f"{of} was trained without asking for {lacking[0]}, which it needs today: retrain it.")
        size, root = int(manifest["ledger_size"]), str(manifest["ledger_root"])
        if self._root_of_first(size, of=of) != root:
            raise UnsoundLineage(
                f"{of} was trained under other records of consent than the first {size} of the ledger: `aap consent verify` "
                "says if it was altered; else retrain."
            )
        return found

    def ended(self, version: ModelVersion, *, now: datetime, checked: Checked | None = None) -> Ended:
        """How many of those it was trained on have no grant that covers both its training and `now`.

        `checked` is what `check` gave of it, if it was asked just now: then its files are not read again.
        Raises `UnsoundLineage` where the version doesn't say on whom it was trained, or under what.
        """
        of = f"{version.name} version {version.version}"
        found = checked or self._vouched(version, of=of)
        people, manifest = set(lineage.people_in(found.people)), found.manifest
        purposes = self._purposes(manifest, of=of)
        still = self._still_allowed(purposes, since=datetime.fromisoformat(manifest["as_of"]), now=now)
        return Ended(len(people), len(people - still))

    def _root_of_first(self, size: int, *, of: str) -> str:
        """The Merkle root over the first `size` records of the ledger (hex); raises `UnsoundLineage` for fewer."""
        head = self.ledger.head()
        at = ("" if head is None else head.root, size)
        if head is None or at not in self._roots:
            leaves = self.ledger.leaves(up_to=size)
            if len(leaves) < size:
                raise UnsoundLineage(
                    f"{of} was trained under {size} records of consent, but the ledger has {len(leaves)}: restore it, or "
                    "retrain."
                )
            if head is not None and any(newest != head.root for newest, _ in self._roots):
                self._roots.clear()
            self._roots[at] = merkle.root(leaves).hex()
        return self._roots[at]

    def _still_allowed(self, purposes: Sequence[Purpose], *, since: datetime, now: datetime) -> set[bytes]:
        """Digests of everyone for whom one grant of each purpose covers `since` and `now`."""
        standing = self.ledger.standing(purposes=purposes, in_force_at=max(since, now))
        return {
            bytes.fromhex(person_digest(key))
            for key, held in standing.items()
            if all(any(grant.start <= since for grant in held[p][0]) for p in purposes)
        }

    def _vouched(self, version: ModelVersion, *, of: str) -> Checked:
        """Manifest and people, which are what was signed when the version was registered; each file is read once."""
        public = self.ledger.public_key
        signature = version.tags.get(lineage.SIGNATURE)
        if signature is None or lineage.MADE_OF not in version.tags:
            raise UnsoundLineage(f"{of} has no signed manifest of what it was made of: retrain it.")
        stated = lineage.statement(version.name, version.tags)
        if public is None or not public.signed(lineage.KIND, stated, signature=_bytes(signature)):
            raise UnsoundLineage(
                f"The manifest of {of} isn't what this platform signed: retrain it, or restore its tags."
            )
        told = json.loads(version.tags[lineage.MADE_OF])
        found: list[bytes] = []
        for name, path, what in _FILES:
            content = self.registry.read(version, path)
            if content is None:
                raise UnsoundLineage(f"The {what} of {of} is gone: restore it, or retrain.")
            if sha256(content).hexdigest() != told[name]:
                raise UnsoundLineage(f"The {what} of {of} was altered: restore it, or retrain.")
            found.append(content)
        return Checked(json.loads(found[0]), found[1])

    @staticmethod
    def _purposes(manifest: dict[str, Any], *, of: str) -> list[Purpose]:
        """What it was trained under, if its service is still there and for the same purpose."""
        told = (manifest["purpose"], *manifest["requires"])
        try:
            asked = service_called(str(manifest["service"]))
            purposes = [Purpose(p) for p in told]
        except (UnknownFeature, ValueError):
            raise UnsoundLineage(
                f"{of} was trained for {manifest['service']!r} under {', '.join(told)}, of which one is no more: retrain it."
            ) from None
        if purposes[0] is not asked.purpose:
            raise UnsoundLineage(f"{of} was trained for {purposes[0]}, but serves {asked.purpose} today: retrain it.")
        return purposes


_FILES = (
    ("manifest", lineage.MANIFEST, "manifest"),
    ("people", lineage.FILE, "list of whom it was trained on"),
)
"""What each is called in the tag, where it lies, and in words."""


def open_provenance(settings: Settings) -> Provenance:
    """Over the registry and the ledger these settings name."""
    return Provenance(open_registry(settings), open_ledger(settings))


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
