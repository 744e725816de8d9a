"""The half of `aap consent` that proves something: receipts, the public key, tree heads, and the ledger's own soundness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.console import console, print_error, print_json
from settings.config import load_settings
from storage.layout import Layout

if TYPE_CHECKING:
    from consent.ledger import Ledger
    from consent.signing import PublicKey

__all__ = ["add_to"]

_User = Annotated[str, typer.Argument(help="The person's id, as your systems know it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_KeyFile = Annotated[
    Path | None, typer.Option(help="Public key to check with; this home's by default.", dir_okay=False)
]


def add_to(app: typer.Typer) -> None:
    """Put these commands into `app`."""
    for command, name in (
        (receipt, "receipt"),
        (check_receipt, "check-receipt"),
        (key, "key"),
        (head, "head"),
        (verify, "verify"),
        (sign, "sign"),
    ):
        app.command(name)(command)


def receipt(
    user: _User,
    into: Annotated[Path | None, typer.Option(help="Folder to write one file a choice to.", file_okay=False)] = None,
) -> None:
    """Print a receipt for each choice of a person: JSON that anybody can check with the public key alone."""
    from consent.choices import open_ledger
    from consent.receipts import make_receipts
    from consent.signing import load_signer
    from security.audit import note_once
    from security.pseudonyms import load_pseudonyms
    from storage.files import write_atomically

    settings = load_settings()
    layout = Layout(settings.home)
    key = load_pseudonyms(layout).user_key(user)
    note_once(layout.audit, "hand out a person's receipts", by="command line", at=settings.now(), about=[key])
    made = make_receipts(
        open_ledger(settings),
        key,
        signer=load_signer(layout),
        controller=settings.controller,
    )
    if into is None:
        print_json({"receipts": made})
        return
    for one in made:
        write_atomically(into / f"receipt-{one['record_header']['record_id']}.json", _pretty(one), private=True)
    console.print(f"{len(made)} receipts written to {into}.", soft_wrap=True)


def check_receipt(
    file: Annotated[Path, typer.Argument(help="A receipt, or what `aap consent receipt` printed.")],
    key_file: _KeyFile = None,
) -> None:
    """Check a receipt, or a certificate of an erasure, offline: no ledger, no Redis, only the public key."""
    from consent.receipts import check

    told = _read_json(file)
    public = _public_key(key_file)
    if told.get("kind") == "erasure certificate":
        _check_certificate(told, public)
        return
    several = told.get("receipts", [told])
    bad = 0
    for one in several if isinstance(several, list) else [told]:
        found = check(one, public_key=public)
        for problem in found.problems:
            print_error(problem)
        bad += not found.holds
        if found.holds:
            purpose, event = one["pii_processing"]["purposes"][0]["purpose"], one["event"]
            console.print(f"Record {one['record_header']['record_id']} holds: {purpose} {event['event_state']} "
                          f"on {event['event_time']}.", soft_wrap=True)  # fmt: skip
    if bad:
        raise typer.Exit(1)


def _check_certificate(told: dict[str, Any], public: PublicKey) -> None:
    from privacy.certificate import check_certificate

    if not check_certificate(told, public_key=public):
        print_error("The certificate's signature doesn't fit: something in it was changed.")
        raise typer.Exit(1)
    console.print(f"The certificate of {told['erased_at']} holds: nothing is left in {len(told['places'])} places.")


def key(
    into: Annotated[Path | None, typer.Option(help="File to write it to.", dir_okay=False)] = None,
) -> None:
    """Print the public key that receipts, tree heads and certificates are checked with."""
    from consent.signing import load_signer
    from storage.files import write_atomically

    pem = load_signer(Layout(load_settings().home)).public.pem
    if into is None:
        typer.echo(pem, nl=False)
        return
    write_atomically(into, pem.encode())


def head() -> None:
    """Print the newest signed tree head; kept elsewhere, it proves later that nothing before it was changed."""
    from consent.choices import open_ledger

    found = open_ledger(load_settings()).head()
    if found is None:
        print_error("The ledger has no signed tree head yet: the first choice makes one.")
        raise typer.Exit(1)
    print_json(found.to_dict())


def verify(
    since: Annotated[Path | None, typer.Option(help="A tree head kept from earlier (`aap consent head`).")] = None,
    key_file: _KeyFile = None,
    as_json: _Json = False,
) -> None:
    """Check that no record of the ledger was changed, inserted, removed or moved, and name each that was."""
    from consent.choices import open_ledger
    from consent.verification import verify as check

    ledger = open_ledger(load_settings(), checked=False)
    problems = [str(f) for f in check(ledger, public_key=_public_key(key_file))]
    if since is not None and not _continues(ledger, since, _public_key(key_file)):
        problems.append(f"The ledger is not the one that the tree head in {since} was made of.")
    checkpoint = ledger.checkpoint()
    if as_json:
        print_json({"records": checkpoint.size, "root": checkpoint.root, "sound": not problems, "problems": problems})
    for problem in () if as_json else problems:
        print_error(problem)
    if problems:
        raise typer.Exit(1)
    if not as_json:
        console.print(f"{checkpoint.size:,} records, none changed. Merkle root {checkpoint.root}", soft_wrap=True)


def sign() -> None:
    """Sign the records of a ledger that was never signed, as they are. Only for one whose records you trust."""
    from consent.choices import open_ledger

    settings = load_settings()
    count = open_ledger(settings, checked=False).sign_all(at=settings.now())
    console.print(f"{count:,} records are signed as they are: what was changed in them before, nobody can tell.")


def _continues(ledger: Ledger, file: Path, public: PublicKey) -> bool:
    from consent.errors import UnusableReceipt
    from consent.tree_heads import TreeHead
    from consent.verification import continues

    try:
        earlier = TreeHead.from_dict(_read_json(file))
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableReceipt(f"{file} holds no tree head ({error}); `aap consent head` prints one.") from None
    return continues(ledger, earlier, public_key=public)


def _public_key(file: Path | None) -> PublicKey:
    from consent.errors import UnusableKey
    from consent.signing import load_signer, read_public_key, signing_key_file

    if file is not None:
        return read_public_key(file)
    layout = Layout(load_settings().home)
    if not signing_key_file(layout).exists():
        raise UnusableKey("This home has no key: name the public key's file with --key-file.")
    return load_signer(layout).public


def _read_json(file: Path) -> dict[str, Any]:
    from consent.errors import UnusableReceipt

    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableReceipt(f"{file} can't be read as JSON ({error}).") from None
    if not isinstance(told, dict):
        raise UnusableReceipt(f"{file} holds no JSON object.")
    return told


def _pretty(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode()
