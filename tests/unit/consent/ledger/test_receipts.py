"""Receipts: checked offline with the public key alone; every changed byte of meaning is noticed."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aap.config import Settings
from aap.consent.errors import UnusableChoice, UnusableReceipt
from aap.consent.ledger.ledger import Entry, Ledger
from aap.consent.ledger.notices import Notice
from aap.consent.ledger.receipts import check, make_receipts
from aap.consent.ledger.signing import Signer
from aap.consent.policy import Reason, Status
from aap.consent.purposes import Purpose
from aap.consent.service import ConsentDesk, open_desk

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
ANA, BOB = "a" * 32, "b" * 32
ME, OTHER = Signer(b"1" * 32), Signer(b"2" * 32)


@pytest.fixture
def receipt(tmp_path: Path) -> dict[str, Any]:
    ledger = Ledger.at(tmp_path / "ledger.db", signer=ME)
    for i, who in enumerate((BOB, ANA, BOB, BOB, BOB)):
        at = NOW - timedelta(minutes=9 - i)
        entry = Entry(who, Purpose.MARKETING_RETENTION, Status.GIVEN, at, "the person", "web form", "3")
        ledger.append([entry], received_at=NOW)
    (made,) = make_receipts(ledger, ANA, signer=ME, controller="A Shop")
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


def test_a_receipt_says_what_was_agreed_and_holds_with_the_public_key_alone(receipt: dict[str, Any]) -> None:
    assert check(receipt, public_key=ME.public).holds
    assert receipt["record_header"] == {"record_id": "2", "pii_principal_id": ANA}
    assert receipt["party_identification"]["controller"]["party_name"] == "A Shop"
    (purpose,) = receipt["pii_processing"]["purposes"]
    assert (purpose["purpose"], purpose["lawful_basis"]) == ("marketing.retention", "consent")
    assert receipt["event"]["event_state"] == "given"
    assert receipt["event"]["validity_end"] == (NOW - timedelta(minutes=8) + timedelta(days=396)).isoformat()
    assert receipt["pii_processing"]["privacy_notice"]["version"] == "3"


def test_a_receipt_of_another_platform_does_not_hold(receipt: dict[str, Any]) -> None:
    found = check(receipt, public_key=OTHER.public)
    assert not found.holds
    assert "another key" in found.problems[0]


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every leaf of a JSON document."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from places(value, (*path, key))
    else:
        yield path


def test_whatever_is_changed_in_a_receipt_it_no_longer_holds(receipt: dict[str, Any]) -> None:
    tried = 0
    for path in places(receipt):
        changed = copy.deepcopy(receipt)
        spot: Any = changed
        for step in path[:-1]:
            spot = spot[step]
        old = spot[path[-1]]
        spot[path[-1]] = old + 1 if isinstance(old, int) else f"{old}0" if old else "x"
        with contextlib.suppress(UnusableReceipt):
            assert not check(changed, public_key=ME.public).holds, path
        tried += 1
    assert tried > 35


def test_a_forger_with_another_record_is_caught_by_the_tree_even_if_the_signature_were_theirs(
    receipt: dict[str, Any],
) -> None:
    from aap.consent.ledger.receipts import KIND

    receipt["proof"]["record"]["status"] = "withdrawn"
    receipt["event"] |= {"event_state": "withdrawn", "validity_end": None}
    receipt.pop("signature")
    resigned = {**receipt, "signature": ME.sign(KIND, receipt).hex()}
    assert check(resigned, public_key=ME.public).problems == (
        "The record is not in the ledger that the tree head vouches for.",
    )


def test_a_receipt_that_says_something_else_than_its_record_does_not_hold_whoever_signed_it(
    receipt: dict[str, Any],
) -> None:
    from aap.consent.ledger.receipts import KIND

    receipt["pii_processing"]["purposes"][0]["purpose_description"] = "Anything we like."
    receipt.pop("signature")
    resigned = {**receipt, "signature": ME.sign(KIND, receipt).hex()}
    assert check(resigned, public_key=ME.public).problems == ("What it says is not what its ledger record says.",)


@pytest.mark.parametrize("content", [{}, {"signature": "zz"}, {"proof": []}, {"signature": 7, "proof": {}}])
def test_what_is_no_receipt_is_told_in_one_sentence(content: dict[str, Any]) -> None:
    with pytest.raises(UnusableReceipt, match="This is no receipt of this platform"):
        check(content, public_key=ME.public)


@pytest.fixture
def desk(settings: Settings) -> ConsentDesk:
    return open_desk(settings)


def grant(desk: ConsentDesk, purpose: Purpose, *, days: int, notice: str) -> None:
    at = NOW + timedelta(days=days)
    desk.record(
        ANA, purpose, Status.GIVEN, said_by="her", method="form", indicated_at=at, received_at=at, notice_version=notice
    )


def told(desk: ConsentDesk, purpose: Purpose, *, days: int) -> tuple[bool, Reason]:
    found = desk.decision(ANA, purpose, now=NOW + timedelta(days=days))
    return found.allowed, found.reason


def publish(desk: ConsentDesk, version: str, *purposes: Purpose, days: int, material: bool) -> None:
    at = NOW + timedelta(days=days)
    desk.publish(Notice(version, purposes or tuple(Purpose), "0" * 64, at, material), now=at)


REPORTING, TRAINING = Purpose.ANALYTICS_REPORTING, Purpose.TRAIN_AI_SYSTEM


def test_a_notice_that_differs_materially_ends_what_was_granted_under_older_ones(desk: ConsentDesk) -> None:
    publish(desk, "1", days=0, material=False)
    for purpose in (REPORTING, TRAINING):
        grant(desk, purpose, days=1, notice="1")
    publish(desk, "2", days=2, material=False)
    assert told(desk, REPORTING, days=2) == (True, Reason.GRANTED), "not every comma asks people again"
    publish(desk, "3", REPORTING, days=3, material=True)
    assert told(desk, REPORTING, days=3) == (False, Reason.NOTICE_CHANGED)
    assert told(desk, TRAINING, days=3) == (True, Reason.GRANTED), "the new notice is not about it"
    with pytest.raises(UnusableChoice, match=r"can't be granted under notice '1': it was replaced on 2024-06-04; show"):
        grant(desk, REPORTING, days=4, notice="1")
    grant(desk, REPORTING, days=4, notice="3")
    assert told(desk, REPORTING, days=4) == (True, Reason.GRANTED)


def test_an_old_yes_that_arrives_late_by_another_way_counts_until_the_notice_changed_and_not_after(
    desk: ConsentDesk,
) -> None:
    publish(desk, "2", days=3, material=True)
    entries = [Entry(ANA, REPORTING, Status.GIVEN, NOW + timedelta(days=d), "her", "import", "1") for d in (1, 5)]
    desk.record_many(entries, received_at=NOW + timedelta(days=6))
    (found,) = desk.ledger.standing()[ANA][REPORTING][0]
    assert (found.start, found.end) == (NOW + timedelta(days=1), NOW + timedelta(days=3))
    assert told(desk, REPORTING, days=6) == (False, Reason.NOTICE_CHANGED)


def test_a_notice_is_published_once(desk: ConsentDesk) -> None:
    publish(desk, "1", days=0, material=False)
    with pytest.raises(UnusableChoice, match="Notice '1' is published already"):
        publish(desk, "1", days=1, material=True)
