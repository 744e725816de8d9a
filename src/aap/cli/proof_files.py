"""Files that prove something, read and checked with a public key alone: receipts, certificates of erasure, tree heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from aap.cli.terminal import console, print_error
from aap.config import load_settings
from aap.infra.paths import Layout

if TYPE_CHECKING:
    from aap.consent.ledger.ledger import Ledger
    from aap.consent.ledger.signing import PublicKey

__all__ = ["check_erasure", "continues", "public_key", "read_json"]


def check_erasure(told: dict[str, Any], public: PublicKey) -> None:
    """Say whether a certificate of an erasure holds; exits 1 if not."""
    from aap.privacy.certificates import check_certificate

    if not check_certificate(told, public_key=public):
        print_error("The certificate's signature doesn't fit: something in it was changed.")
        raise typer.Exit(1)
    console.print(f"The certificate of {told['erased_at']} holds: nothing is left in {len(told['places'])} places.")


def continues(ledger: Ledger, file: Path, public: PublicKey) -> bool:
    """Whether the tree head in `file` was made of this ledger."""
    from aap.consent.errors import UnusableReceipt
    from aap.consent.ledger.signed_tree_heads import TreeHead
    from aap.consent.ledger.verification import continues as grew_from

    try:
        earlier = TreeHead.from_dict(read_json(file))
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableReceipt(f"{file} holds no tree head ({error}); `aap consent head` prints one.") from None
    return grew_from(ledger, earlier, public_key=public)


def public_key(file: Path | None) -> PublicKey:
    """The public key in `file`; without one, that of this home."""
    from aap.consent.errors import UnusableKey
    from aap.consent.ledger.signing import load_signer, read_public_key, signing_key_file

    if file is not None:
        return read_public_key(file)
    layout = Layout(load_settings().home)
    if not signing_key_file(layout).exists():
        raise UnusableKey("This home has no key: name the public key's file with --key-file.")
    return load_signer(layout).public


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; raises `UnusableReceipt` where there is none."""
    from aap.consent.errors import UnusableReceipt

    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableReceipt(f"{file} can't be read as JSON ({error}).") from None
    if not isinstance(told, dict):
        raise UnusableReceipt(f"{file} holds no JSON object.")
    return told
