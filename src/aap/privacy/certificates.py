"""Certificates: what was erased, place by place, counted before and after, signed by the platform."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from aap.consent.ledger.signing import PublicKey, Signer
from aap.infra.atomic_files import write_atomically
from aap.privacy.errors import UnusableCertificate

__all__ = ["KIND", "Erased", "check_certificate", "signed_certificate", "write_certificate"]

KIND = "erasure certificate"


@dataclass(frozen=True, slots=True)
class Erased:
    """What became of one place. Both counts were asked of the place itself."""

    place: str
    method: str
    before: int
    after: int


def signed_certificate(
    person: str,
    *,
    at: datetime,
    places: list[Erased],
    recomputed: list[str],
    kept: list[dict[str, str]],
    models: list[dict[str, Any]],
    controller: str,
    signer: Signer,
) -> dict[str, Any]:
    """The certificate, JSON-ready. `person` is their digest: it names nobody to whom it isn't known."""
    content = {
        "kind": KIND,
        "person": person,
        "controller": controller,
        "erased_at": at.isoformat(),
        "places": [asdict(p) for p in places],
        "recomputed": recomputed,
        "kept": kept,
        "models": models,
        "key_id": signer.public.id,
    }
    return {**content, "signature": signer.sign(KIND, content).hex()}


def check_certificate(certificate: Mapping[str, Any], *, public_key: PublicKey) -> bool:
    """Whether the key signed exactly this. Raises `UnusableCertificate` for what has not the shape of one."""
    content = dict(certificate)
    try:
        signature = bytes.fromhex(content.pop("signature"))
        if content["kind"] != KIND:
            raise ValueError("it is of another kind")
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableCertificate(f"This is no certificate of an erasure ({error}).") from None
    return public_key.signed(KIND, content, signature=signature)


def write_certificate(certificate: Mapping[str, Any], *, folder: Path, at: datetime, what: str = "erasure") -> Path:
    """Keep it; returns the file."""
    file = folder / f"{what}-{certificate['person'][:12]}-{at:%Y%m%dT%H%M%S%f}.json"
    write_atomically(file, json.dumps(certificate, indent=1, ensure_ascii=False).encode(), private=True)
    return file
