"""Receipts: what a person can take home and check without us, in the shape of ISO/IEC TS 27560:2023.

A receipt says in that standard's sections (header, processing, parties, event) what one ledger record says, and carries the
record itself with the proof that it is in the ledger: its Merkle path to a signed tree head. The whole is signed too.
`check` needs the receipt and the public key, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aap.consent.errors import UnusableReceipt
from aap.consent.ledger import merkle
from aap.consent.ledger.ledger import Ledger
from aap.consent.ledger.records import Record, canonical, fields_of
from aap.consent.ledger.signed_tree_heads import TreeHead
from aap.consent.ledger.signing import PublicKey, Signer
from aap.consent.policy import LONGEST_GRANT, Status
from aap.consent.purposes import Purpose, spec

__all__ = ["KIND", "Checked", "check", "make_receipt", "make_receipts"]

KIND = "consent receipt"
_SCHEMA = "https://w3id.org/dpv/schema/iso-27560#receipt"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether a receipt holds, and every reason why not."""

    holds: bool
    problems: tuple[str, ...]


def make_receipts(ledger: Ledger, subject: str, *, signer: Signer, controller: str) -> list[dict[str, Any]]:
    """One receipt for each choice of `subject`, in ledger order."""
    head = ledger.head()
    if head is None:
        return []
    leaves = ledger.leaves(up_to=head.size)
    return [
        make_receipt(r, leaves=leaves, head=head, signer=signer, controller=controller)
        for r in ledger.history(subject)
        if r.seq <= head.size
    ]


def make_receipt(
    record: Record, *, leaves: list[bytes], head: TreeHead, signer: Signer, controller: str
) -> dict[str, Any]:
    """The receipt of one record, JSON-ready."""
    fields = fields_of(record.seq, record.entry, record.received_at)
    content = {
        **_sections(fields, controller=controller),
        "proof": {
            "record": fields,
            "leaf_index": record.seq - 1,
            "inclusion_path": [step.hex() for step in merkle.inclusion_proof(leaves, record.seq - 1)],
            "tree_head": head.to_dict(),
            "key_id": signer.public.id,
        },
    }
    return {**content, "signature": signer.sign(KIND, content).hex()}


def check(receipt: Mapping[str, Any], *, public_key: PublicKey) -> Checked:
    """Check a receipt offline. Raises `UnusableReceipt` for what has not the shape of one."""
    try:
        return _check(dict(receipt), public_key)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UnusableReceipt(f"This is no receipt of this platform ({type(error).__name__}: {error}).") from None


def _check(receipt: dict[str, Any], key: PublicKey) -> Checked:
    signature = bytes.fromhex(receipt.pop("signature"))
    proof = receipt["proof"]
    fields, head = proof["record"], TreeHead.from_dict(proof["tree_head"])
    controller = receipt["party_identification"]["controller"]["party_name"]
    told = {k: v for k, v in receipt.items() if k != "proof"}
    problems = []
    if proof["key_id"] != key.id:
        problems.append("It was signed with another key than this one.")
    if not key.signed(KIND, receipt, signature=signature):
        problems.append("The receipt's signature doesn't fit: something in it was changed.")
    if not head.holds(key):
        problems.append("The tree head's signature doesn't fit.")
    if told != _sections(fields, controller=controller):
        problems.append("What it says is not what its ledger record says.")
    if fields["seq"] != proof["leaf_index"] + 1 or not merkle.proves_inclusion(
        merkle.leaf_hash(canonical(fields)),
        proof["leaf_index"],
        head.size,
        path=[bytes.fromhex(step) for step in proof["inclusion_path"]],
        root=bytes.fromhex(head.root),
    ):
        problems.append("The record is not in the ledger that the tree head vouches for.")
    return Checked(not problems, tuple(problems))


def _sections(fields: Mapping[str, Any], *, controller: str) -> dict[str, Any]:
    """The standard's sections, made of nothing but the record, what its purpose means, and the controller's name."""
    purpose, status = Purpose(fields["purpose"]), Status(fields["status"])
    meaning, indicated = spec(purpose), _moment(fields["indicated_at"])
    expires = _moment(fields["expires_at"]) if fields["expires_at"] is not None else indicated + LONGEST_GRANT
    return {
        "receipt_metadata": {"schema_version": _SCHEMA, "receipt_id": f"ledger-{fields['seq']}"},
        "record_header": {"record_id": str(fields["seq"]), "pii_principal_id": fields["subject"]},
        "pii_processing": {
            "privacy_notice": {"version": fields["notice_version"], "sha256": fields["notice_hash"]},
            "purposes": [
                {
                    "purpose": purpose.value,
                    "purpose_description": meaning.explanation,
                    "lawful_basis": meaning.legal_basis.value,
                    "pii_information": [{"pii_type": c.value} for c in sorted(meaning.categories)],
                    "retention_period": f"P{meaning.retention.days}D",
                    "withdrawal_method": "The same door as granting it; one step, in force when acknowledged.",
                }
            ],
        },
        "party_identification": {"controller": {"party_name": controller, "party_role": "pii_controller"}},
        "event": {
            "event_type": "explicit" if meaning.needs_consent else "objection",
            "event_state": status.value,
            "event_time": indicated.isoformat(),
            "received_time": _moment(fields["received_at"]).isoformat(),
            "validity_end": expires.isoformat() if status.permits and meaning.needs_consent else None,
            "indicated_by": fields["said_by"],
            "indication_method": fields["method"],
        },
    }


def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
