"""`aap consent`: what people allow, and what proves it: receipts, the public key, tree heads, and the ledger itself."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aap.cli.proof_files import check_erasure, continues, public_key, read_json
from aap.cli.terminal import console, print_error, print_json, table
from aap.config import Settings, load_settings
from aap.infra.paths import Layout

if TYPE_CHECKING:
    from datetime import datetime

    from aap.consent.service import ConsentDesk

__all__ = ["app"]

app = typer.Typer(help="Grant, withdraw and look up consent; verify the ledger.", no_args_is_help=True)

_User = Annotated[str, typer.Argument(help="The person's id, as your systems know it.")]
_PurposeName = Annotated[str, typer.Argument(help="One purpose; `aap consent purposes` lists them.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_KeyFile = Annotated[
    Path | None, typer.Option(help="Public key to check with; this home's by default.", dir_okay=False)
]


@app.command()
def receipt(
    user: _User,
    into: Annotated[Path | None, typer.Option(help="Folder to write one file a choice to.", file_okay=False)] = None,
) -> None:
    """Print a receipt for each choice of a person: JSON that anybody can check with the public key alone."""
    from aap.consent.ledger.receipts import make_receipts
    from aap.consent.ledger.signing import load_signer
    from aap.consent.service import open_ledger
    from aap.infra.atomic_files import write_atomically
    from aap.security.audit_log import note_once
    from aap.security.pseudonyms import load_pseudonyms

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


@app.command("check-receipt")
def check_receipt(
    file: Annotated[Path, typer.Argument(help="A receipt, or what `aap consent receipt` printed.")],
    key_file: _KeyFile = None,
) -> None:
    """Check a receipt, or a certificate of an erasure, offline: no ledger, no Redis, only the public key."""
    from aap.consent.ledger.receipts import check

    told = read_json(file)
    public = public_key(key_file)
    if told.get("kind") == "erasure certificate":
        check_erasure(told, public)
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


@app.command()
def key(
    into: Annotated[Path | None, typer.Option(help="File to write it to.", dir_okay=False)] = None,
) -> None:
    """Print the public key that receipts, tree heads and certificates are checked with."""
    from aap.consent.ledger.signing import load_signer
    from aap.infra.atomic_files import write_atomically

    pem = load_signer(Layout(load_settings().home)).public.pem
    if into is None:
        typer.echo(pem, nl=False)
        return
    write_atomically(into, pem.encode())


@app.command()
def head() -> None:
    """Print the newest signed tree head; kept elsewhere, it proves later that nothing before it was changed."""
    from aap.consent.service import open_ledger

    found = open_ledger(load_settings()).head()
    if found is None:
        print_error("The ledger has no signed tree head yet: the first choice makes one.")
        raise typer.Exit(1)
    print_json(found.to_dict())


@app.command()
def verify(
    since: Annotated[Path | None, typer.Option(help="A tree head kept from earlier (`aap consent head`).")] = None,
    key_file: _KeyFile = None,
    as_json: _Json = False,
) -> None:
    """Check that no record of the ledger was changed, inserted, removed or moved, and name each that was."""
    from aap.consent.ledger.verification import verify as check
    from aap.consent.service import open_ledger

    ledger = open_ledger(load_settings(), checked=False)
    problems = [str(f) for f in check(ledger, public_key=public_key(key_file))]
    if since is not None and not continues(ledger, since, public_key(key_file)):
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


@app.command()
def sign() -> None:
    """Sign the records of a ledger that was never signed, as they are. Only for one whose records you trust."""
    from aap.consent.service import open_ledger

    settings = load_settings()
    count = open_ledger(settings, checked=False).sign_all(at=settings.now())
    console.print(f"{count:,} records are signed as they are: what was changed in them before, nobody can tell.")


@app.command()
def purposes() -> None:
    """List the purposes there are: what each means, what it rests on, how long, for whom."""
    from aap.consent.purposes import Purpose, spec

    rows = []
    for p in Purpose:
        s = spec(p)
        who = f"{s.age.alone_from}+" + (", younger with a guardian" if s.age.guardian else "")
        basis = s.legal_basis.replace("_", " ") + (", stopped by GPC" if s.stopped_by_gpc else "")
        rows.append((p.value, s.explanation, basis, f"{s.retention.days} days", who))
    table("purpose", "meaning", "basis", "kept", "from age", rows=rows)


@app.command()
def grant(
    user: _User,
    purpose: _PurposeName,
    notice: Annotated[str, typer.Option(help="Version of the notice they read.")] = "1",
    age: Annotated[int | None, typer.Option(help="Their age, if you know that they are young.", min=0)] = None,
    guardian: Annotated[
        bool, typer.Option("--guardian", help="Said by somebody with parental responsibility.")
    ] = False,
) -> None:
    """Record that a person allows one purpose."""
    from aap.consent.age_rules import check_age
    from aap.consent.purposes import parse_purpose

    check_age(parse_purpose(purpose), age=age, by_guardian=guardian)
    _record(user, purpose, "given", notice=notice, said_by="a guardian" if guardian else "the person")


@app.command()
def withdraw(user: _User, purpose: _PurposeName) -> None:
    """Record that a person no longer allows one purpose; in force for every reader when this returns."""
    _record(user, purpose, "withdrawn", notice="1", said_by="the person")


@app.command()
def gpc(user: _User, state: Annotated[str, typer.Argument(help="on or off.")]) -> None:
    """Set or lift a person's Global Privacy Control: while it is on, no marketing and no sharing, whatever was granted."""
    if state not in ("on", "off"):
        raise typer.BadParameter(f"{state!r} is neither on nor off.")
    settings, desk, key = _open(user)
    now = _now(settings, desk)
    desk.set_gpc(key, on=state == "on", said_by="the person", indicated_at=now, received_at=now)
    console.print(
        f"Global Privacy Control: {state}." + (" What it stopped has to be granted anew." if state == "off" else "")
    )


@app.command()
def notice(
    version: Annotated[str, typer.Argument(help="The new notice's version.")],
    text: Annotated[Path, typer.Argument(help="File with its text.", exists=True, dir_okay=False)],
    material: Annotated[
        bool,
        typer.Option("--material", help="It differs materially: whoever agreed under an older one is asked again."),
    ] = False,
    purpose: Annotated[list[str] | None, typer.Option(help="Purpose it is about; all by default.")] = None,
) -> None:
    """Publish the notice that people are shown from now on."""
    from aap.consent.ledger.notices import Notice
    from aap.consent.purposes import Purpose, parse_purpose
    from aap.consent.service import open_desk

    settings = load_settings()
    about = tuple(parse_purpose(p) for p in purpose) if purpose else tuple(Purpose)
    desk, digest = open_desk(settings), sha256(text.read_bytes()).hexdigest()
    now = _now(settings, desk)
    people = desk.publish(Notice(version, about, digest, now, material), now=now)
    what = "older grants have ended" if material else "older grants stand"
    console.print(f"Notice {version} is published, SHA-256 {digest}: {what}; {people:,} people brought up to date.")


@app.command()
def show(user: _User, as_json: _Json = False) -> None:
    """Show what a person allows now, purpose by purpose, with the reason."""
    from aap.consent.purposes import Purpose

    settings, desk, key = _open(user)
    now = settings.now()
    _note(settings, "read what a person allows", key, at=now)
    decisions = [desk.decision(key, p, now=now) for p in Purpose]
    if as_json:
        print_json(
            {d.purpose: {"allowed": d.allowed, "reason": d.reason, "ledger_seq": d.ledger_seq} for d in decisions}
        )
        return
    table("purpose", "allowed", "reason", rows=[(d.purpose, "yes" if d.allowed else "no", d.reason) for d in decisions])


@app.command()
def history(user: _User, as_json: _Json = False) -> None:
    """Show everything a person chose, in the order it was recorded."""
    from aap.consent.ledger.records import fields_of

    settings, desk, key = _open(user)
    _note(settings, "read what a person chose", key, at=settings.now())
    records = desk.ledger.history(key)
    if as_json:
        print_json({"records": [fields_of(r.seq, r.entry, r.received_at) for r in records]})
        return
    rows = [
        (
            r.seq,
            r.entry.purpose,
            r.entry.status,
            f"{r.entry.indicated_at:%Y-%m-%d %H:%M}",
            r.entry.notice_version,
            r.entry.said_by,
            r.entry.method,
        )
        for r in records
    ]
    table("no.", "purpose", "status", "indicated", "notice", "by", "how", rows=rows, numbers=["no."])


def _open(user: str) -> tuple[Settings, ConsentDesk, str]:
    from aap.consent.service import open_desk
    from aap.security.pseudonyms import load_pseudonyms

    settings = load_settings()
    return settings, open_desk(settings), load_pseudonyms(Layout(settings.home)).user_key(user)


def _now(settings: Settings, desk: ConsentDesk) -> datetime:
    """The moment to date a choice by; raises `LedgerUnavailable` for a clock that lies before the ledger's last record."""
    from aap.consent.ledger.clock_check import require_clock

    now, head = settings.now(), desk.ledger.head()
    require_clock(now, ledger_at=head.signed_at if head else None)
    return now


def _note(settings: Settings, action: str, user_key: str, *, at: datetime) -> None:
    from aap.security.audit_log import note_once

    note_once(Layout(settings.home).audit, action, by="command line", at=at, about=[user_key])


def _record(user: str, purpose: str, status: str, *, notice: str, said_by: str) -> None:
    from aap.consent.policy import Status
    from aap.consent.purposes import parse_purpose

    named = parse_purpose(purpose)
    settings, desk, key = _open(user)
    now = _now(settings, desk)
    position = desk.record(
        key,
        named,
        Status(status),
        said_by=said_by,
        method="command line",
        indicated_at=now,
        received_at=now,
        notice_version=notice,
    )
    _note(settings, f"{status} {named}", key, at=now)
    console.print(f"{named}: {status}, ledger position {position}.")


def _pretty(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode()
