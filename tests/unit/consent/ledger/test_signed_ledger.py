"""Signed tree heads: a record that was changed, inserted, removed or moved is named, however well its leaf was forged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from aap.consent.errors import LedgerUnavailable, UnusableChoice
from aap.consent.ledger import merkle
from aap.consent.ledger.ledger import Entry, Ledger
from aap.consent.ledger.records import RECORDS, canonical
from aap.consent.ledger.signing import Signer
from aap.consent.ledger.verification import Round, continues, verify
from aap.consent.policy import Status
from aap.consent.purposes import Purpose

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
ME, OTHER = Signer(b"1" * 32), Signer(b"2" * 32)
COLUMNS = [c.name for c in RECORDS.c]


def entries(count: int, *, first: int = 0) -> list[Entry]:
    return [
        Entry(f"{i:032x}", Purpose.TRAIN_AI_SYSTEM, Status.REFUSED, NOW - timedelta(minutes=1), "them", "form")
        for i in range(first, first + count)
    ]


def filled(path: Path, *batches: int) -> Ledger:
    ledger, done = Ledger.at(path, signer=ME), 0
    for count in batches:
        ledger.append(entries(count, first=done), received_at=NOW)
        done += count
    return ledger


def forge(path: Path, change: Callable[[list[dict[str, Any]]], None], *, leaves: bool) -> None:
    """Rewrite the records as somebody would who has the file; with `leaves` they forge those as well."""
    with sqlite3.connect(path) as db:
        db.row_factory = sqlite3.Row
        for trigger in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {trigger[0]}")
        rows = [dict(r) for r in db.execute("SELECT * FROM consent_records ORDER BY seq")]
        change(rows)
        for seq, row in enumerate(rows, start=1):
            row["seq"] = seq
            if leaves:
                row["leaf"] = merkle.leaf_hash(canonical({c: row[c] for c in COLUMNS if c != "leaf"}))
        db.execute("DELETE FROM consent_records")
        marks = ", ".join(f":{c}" for c in COLUMNS)
        db.executemany(f"INSERT INTO consent_records ({', '.join(COLUMNS)}) VALUES ({marks})", rows)


def change(rows: list[dict[str, Any]]) -> None:
    rows[3]["status"] = "given"


def insert(rows: list[dict[str, Any]]) -> None:
    rows.insert(3, {**rows[0], "subject": "f" * 32})


def remove(rows: list[dict[str, Any]]) -> None:
    del rows[3]


def reorder(rows: list[dict[str, Any]]) -> None:
    rows[3], rows[4] = rows[4], rows[3]


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves forged", "leaves left"])
@pytest.mark.parametrize("crime", [change, insert, remove, reorder])
def test_the_record_is_named(tmp_path: Path, crime: Callable[[list[dict[str, Any]]], None], leaves: bool) -> None:
    ledger = filled(tmp_path / "ledger.db", 2, 1, 4)
    assert verify(ledger) == []
    forge(tmp_path / "ledger.db", crime, leaves=leaves)
    found = verify(Ledger.at(tmp_path / "ledger.db"), public_key=ME.public)
    assert found[0].first == found[0].last == 4, [str(f) for f in found]
    assert str(found[0]).startswith("Record 4 ")


def test_a_record_that_lies_elsewhere_is_said_to_have_been_moved(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.db", 7)
    forge(tmp_path / "ledger.db", reorder, leaves=False)
    assert [str(f) for f in verify(ledger)][:2] == [
        "Record 4 was moved here: it was recorded as 5.",
        "Record 5 was moved here: it was recorded as 4.",
    ]


def test_a_cut_off_end_and_an_unsigned_end_are_named(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.db", 7)
    forge(tmp_path / "ledger.db", lambda rows: rows.__delitem__(slice(5, None)), leaves=False)
    assert [str(f) for f in verify(ledger)] == ["Records 6 to 7 are missing at the end."]
    other = filled(tmp_path / "other.db", 3)
    Ledger.at(tmp_path / "other.db").append(entries(1, first=50), received_at=NOW)
    assert [str(f) for f in verify(other)] == [
        "Record 4 is in no signed tree head: inserted by somebody without the key."
    ]


def test_heads_signed_with_another_key_vouch_for_nothing(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.db", 3)
    assert [f.first for f in verify(ledger, public_key=OTHER.public)] == [1]


def test_in_a_large_batch_a_forged_record_is_named_by_the_hundred_it_lies_in(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.db", 1_234)

    def late(rows: list[dict[str, Any]]) -> None:
        rows[555]["status"] = "given"

    assert len(ledger.tree_heads()) == 13
    forge(tmp_path / "ledger.db", late, leaves=True)
    assert [(f.first, f.last) for f in verify(ledger)] == [(501, 600)]


def test_a_ledger_written_before_it_was_signed_is_covered_by_the_next_append(tmp_path: Path) -> None:
    Ledger.at(tmp_path / "ledger.db").append(entries(5), received_at=NOW)
    ledger = Ledger.at(tmp_path / "ledger.db", signer=ME)
    assert [str(f) for f in verify(ledger)] == ["Records 1 to 5 are in no signed tree head."]
    ledger.append(entries(1, first=5), received_at=NOW)
    assert verify(ledger) == []
    assert ledger.head() is not None


def test_a_ledger_that_was_never_signed_says_so_and_can_be_signed_as_it_is_once(tmp_path: Path) -> None:
    Ledger.at(tmp_path / "ledger.db").append(entries(5), received_at=NOW)
    ledger = Ledger.at(tmp_path / "ledger.db", signer=ME)
    with pytest.raises(
        LedgerUnavailable, match=r"^None of the consent ledger's 5 records is signed: .*`aap consent sign`"
    ):
        ledger.check()
    assert ledger.sign_all(at=NOW) == 5
    assert verify(ledger) == []
    ledger.check()
    Ledger.at(tmp_path / "ledger.db").append(entries(1, first=5), received_at=NOW)
    with pytest.raises(UnusableChoice, match="signed already"):
        ledger.sign_all(at=NOW)
    assert [f.first for f in verify(ledger)] == [6]


def copy(of: Path, to: Path) -> None:
    with closing(sqlite3.connect(of)) as held, closing(sqlite3.connect(to)) as made:
        held.backup(made)


def go_round(ledger: Ledger, looks: Round, *, steps: int) -> list[str]:
    """What so many steps of two records each say."""
    said, head = [], ledger.head()
    assert head is not None
    for _ in range(steps):
        try:
            looks.go_on(ledger, head=head, most=2)
        except LedgerUnavailable as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves forged", "leaves left"])
@pytest.mark.parametrize("crime", [change, insert, remove, reorder])
def test_who_looks_at_a_few_records_at_a_time_finds_it_within_a_round_and_until_it_is_gone(
    tmp_path: Path, crime: Callable[[list[dict[str, Any]]], None], leaves: bool
) -> None:
    ledger, looks = filled(tmp_path / "ledger.db", 7), Round()
    copy(tmp_path / "ledger.db", tmp_path / "sound.db")
    assert go_round(ledger, looks, steps=9) == []
    forge(tmp_path / "ledger.db", crime, leaves=leaves)
    assert go_round(ledger, looks, steps=8) != []
    assert len(go_round(ledger, looks, steps=4)) == 4, "it goes on being said"
    copy(tmp_path / "sound.db", tmp_path / "ledger.db")
    go_round(ledger, looks, steps=8)
    assert go_round(ledger, looks, steps=8) == []


def test_a_round_takes_in_what_is_added_meanwhile_and_another_ledger_in_its_place(tmp_path: Path) -> None:
    ledger, looks = filled(tmp_path / "ledger.db", 7), Round()
    assert go_round(ledger, looks, steps=2) == []
    ledger.append(entries(3, first=7), received_at=NOW)
    assert go_round(ledger, looks, steps=9) == []
    assert go_round(filled(tmp_path / "shorter.db", 3), looks, steps=9) == []


def test_a_frontier_that_was_altered_does_not_lead_the_next_head_astray(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.db", 5)
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("DROP TRIGGER consent_tree_heads_no_update")
        db.execute("UPDATE consent_tree_heads SET frontier = zeroblob(64) WHERE frontier IS NOT NULL")
    ledger.append(entries(2, first=5), received_at=NOW)
    assert verify(ledger) == []


@pytest.mark.parametrize("table", ["consent_records", "consent_tree_heads", "consent_notices"])
def test_the_database_refuses_to_change_anything_of_the_ledger(tmp_path: Path, table: str) -> None:
    from aap.consent.ledger.notices import Notice

    ledger = filled(tmp_path / "ledger.db", 2)
    ledger.publish(Notice("1", tuple(Purpose), "0" * 64, NOW, material=False))
    column = {"consent_records": "status", "consent_tree_heads": "signature", "consent_notices": "material"}[table]
    for statement in (f"UPDATE {table} SET {column} = '0'", f"DELETE FROM {table}"):
        with sqlite3.connect(tmp_path / "ledger.db") as db, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)


def test_a_kept_head_tells_a_ledger_that_grew_from_one_that_was_made_anew(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.db", 3)
    head = ledger.head()
    assert head is not None
    ledger.append(entries(6, first=3), received_at=NOW)
    assert continues(ledger, head, public_key=ME.public)
    rewritten = Ledger.at(tmp_path / "again.db", signer=ME)
    rewritten.append(entries(9, first=1), received_at=NOW)
    assert verify(rewritten) == [], "sound in itself, and signed with the stolen key"
    assert not continues(rewritten, head, public_key=ME.public)


trees = st.lists(st.binary(max_size=4), min_size=1, max_size=40)


@given(trees, st.data())
def test_inclusion_proofs_hold_for_their_own_leaf_place_and_tree_only(
    content: list[bytes], data: st.DataObject
) -> None:
    leaves = [merkle.leaf_hash(c) for c in content]
    index = data.draw(st.integers(0, len(leaves) - 1))
    path, root = merkle.inclusion_proof(leaves, index), merkle.root(leaves)

    def holds(**changed: Any) -> bool:
        said = {"leaf": leaves[index], "index": index, "size": len(leaves), "path": path, "root": root, **changed}
        leaf, place, size = said.pop("leaf"), said.pop("index"), said.pop("size")
        return merkle.proves_inclusion(leaf, place, size, **said)

    assert holds()
    assert not holds(leaf=merkle.leaf_hash(b"another one"))
    assert not holds(root=merkle.leaf_hash(b"another root"))
    assert not holds(index=len(leaves))
    assert not holds(size=2 * len(leaves)), "the signed size is a part of what is proved"
    assert not holds(path=[*path, root])
    if path:
        assert not holds(path=path[:-1])
        assert not holds(path=[merkle.leaf_hash(b"x"), *path[1:]])


@given(trees, st.data())
def test_consistency_proofs_hold_for_beginnings_only(content: list[bytes], data: st.DataObject) -> None:
    leaves = [merkle.leaf_hash(c) for c in content]
    first = data.draw(st.integers(1, len(leaves)))
    path = merkle.consistency_proof(leaves, first)

    def holds(old: list[bytes], new: list[bytes]) -> bool:
        return merkle.proves_consistency(
            first, len(new), first_root=merkle.root(old), second_root=merkle.root(new), path=path
        )

    assert holds(leaves[:first], leaves)
    assert not holds([merkle.leaf_hash(b"changed"), *leaves[1:first]], leaves)
    if first < len(leaves):
        assert not holds(leaves[:first], [merkle.leaf_hash(b"changed"), *leaves[1:]])


@given(trees)
def test_a_frontier_grows_to_the_same_root_and_survives_being_kept(content: list[bytes]) -> None:
    tree, leaves = merkle.Frontier(), [merkle.leaf_hash(c) for c in content]
    for done, leaf in enumerate(leaves, start=1):
        tree = merkle.Frontier.from_bytes(tree.size, tree.to_bytes())
        tree.append(leaf)
        assert tree.root() == merkle.root(leaves[:done])


said = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(list(Status)), st.integers(0, 20)), min_size=1, max_size=8)


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said, st.randoms(use_true_random=False))
def test_messages_out_of_order_and_twice_leave_the_same_state(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, Status, int]], random: Any
) -> None:
    messages = [
        Entry(f"{who:032x}", Purpose.ANALYTICS_REPORTING, status, NOW - timedelta(minutes=minute), "them", "form")
        for who, status, minute in rows
    ]
    shuffled = messages * 2
    random.shuffle(shuffled)
    folder = tmp_path_factory.mktemp("orders")
    one, other = Ledger.at(folder / "a.db", signer=ME), Ledger.at(folder / "b.db", signer=ME)
    one.append(messages, received_at=NOW)
    for message in shuffled:
        other.append([message], received_at=NOW)
    assert one.standing() == other.standing()
    assert one.size() == other.size()
    assert verify(other) == []
