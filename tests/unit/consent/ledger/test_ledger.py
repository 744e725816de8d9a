"""The ledger on a real SQLite file: append-only, complete, and honest about tampering."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aap.consent.errors import LedgerUnavailable, UnusableChoice
from aap.consent.ledger import merkle
from aap.consent.ledger.ledger import Entry, Ledger
from aap.consent.policy import LONGEST_GRANT, Reason, Status
from aap.consent.purposes import Purpose
from tests.waiting import PATIENCE_S

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
ANA, BOB = "a" * 32, "b" * 32


def entry(
    subject: str = ANA,
    *,
    purpose: Purpose = Purpose.TRAIN_AI_SYSTEM,
    status: Status = Status.GIVEN,
    minutes_ago: int = 10,
    expires_at: datetime | None = None,
) -> Entry:
    at = NOW - timedelta(minutes=minutes_ago)
    return Entry(subject, purpose, status, at, "the person", "web form", "2024-06", expires_at=expires_at)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "consent" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return Ledger.at(path)


def test_what_was_appended_is_read_back_exactly_and_numbered_from_one(ledger: Ledger) -> None:
    given, withdrawn = entry(), entry(status=Status.WITHDRAWN, minutes_ago=5)
    ledger.append([given], received_at=NOW)
    ledger.append([withdrawn, entry(BOB)], received_at=NOW + timedelta(microseconds=1))
    read = ledger.history(ANA)
    assert [r.seq for r in read] == [1, 2]
    assert (read[0].entry.indicated_at, read[0].entry.notice_version) == (given.indicated_at, "2024-06")
    assert read[1].received_at == NOW + timedelta(microseconds=1)
    assert ledger.size() == ledger.checkpoint().size == 3


def test_a_choice_already_recorded_adds_nothing_however_often_it_comes(ledger: Ledger) -> None:
    assert len(ledger.append([entry(), entry()], received_at=NOW)) == 1
    before = ledger.checkpoint()
    assert ledger.append([entry()], received_at=NOW + timedelta(days=1)) == []
    assert ledger.checkpoint() == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE consent_records SET status = 'given'",
        "DELETE FROM consent_records",
        "DELETE FROM consent_records WHERE seq = 1",
    ],
)
def test_the_database_itself_refuses_to_change_or_delete_a_record(ledger: Ledger, path: Path, statement: str) -> None:
    ledger.append([entry(status=Status.REFUSED)], received_at=NOW)
    with sqlite3.connect(path) as other, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute(statement)
    assert [r.entry.status for r in ledger.records()] == [Status.REFUSED]


def test_replacing_a_record_by_a_new_one_of_the_same_number_is_refused_too(ledger: Ledger, path: Path) -> None:
    ledger.append([entry(status=Status.REFUSED)], received_at=NOW)
    with sqlite3.connect(path) as other, pytest.raises(sqlite3.IntegrityError):
        other.execute(
            "INSERT OR REPLACE INTO consent_records SELECT seq, subject, purpose, 'given', said_by, method, indicated_at, "
            "received_at, expires_at, notice_version, notice_hash, leaf FROM consent_records"
        )
    assert [r.entry.status for r in ledger.records()] == [Status.REFUSED]


def tamper(path: Path, statement: str) -> None:
    """What somebody with the file and no respect for triggers would do."""
    with sqlite3.connect(path) as other:
        for trigger in other.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            other.execute(f"DROP TRIGGER {trigger[0]}")
        other.execute(statement)


@pytest.mark.parametrize(
    ("statement", "first"),
    [
        ("UPDATE consent_records SET status = 'given' WHERE seq = 2", 2),
        ("UPDATE consent_records SET status = 'sure' WHERE seq = 2", 2),
        ("UPDATE consent_records SET purpose = 'anything' WHERE seq = 3", 3),
        ("UPDATE consent_records SET subject = 'cccc' WHERE seq = 3", 3),
        ("UPDATE consent_records SET indicated_at = indicated_at - 1 WHERE seq = 3", 3),
        ("UPDATE consent_records SET received_at = received_at - 1 WHERE seq = 1", 1),
        ("UPDATE consent_records SET expires_at = 1 WHERE seq = 4", 4),
        ("UPDATE consent_records SET said_by = 'somebody' WHERE seq = 4", 4),
        ("UPDATE consent_records SET notice_hash = '' WHERE seq = 2", 2),
        ("UPDATE consent_records SET leaf = zeroblob(32) WHERE seq = 4", 4),
        ("DELETE FROM consent_records WHERE seq = 2", 2),
        ("UPDATE consent_records SET seq = 9 WHERE seq = 4", 4),
    ],
)
def test_the_first_record_that_was_tampered_with_is_named(
    ledger: Ledger, path: Path, statement: str, first: int
) -> None:
    ledger.append(
        [entry(minutes_ago=m, status=s) for m, s in enumerate([Status.WITHDRAWN, Status.REFUSED] * 2)], received_at=NOW
    )
    assert ledger.first_altered() is None
    before = ledger.checkpoint()
    tamper(path, statement)
    assert ledger.first_altered() == first
    rehashed = "leaf" in statement or "DELETE" in statement
    assert not rehashed or ledger.checkpoint() != before


def test_a_ledger_with_a_record_nobody_can_have_made_is_not_read_as_if_it_were_sound(
    ledger: Ledger, path: Path
) -> None:
    ledger.append([entry()], received_at=NOW)
    tamper(path, "UPDATE consent_records SET status = 'sure'")
    with pytest.raises(
        LedgerUnavailable, match=r"^Record 1 of the consent ledger was altered: 'sure' is not a valid Status\.$"
    ):
        ledger.standing()


def test_a_checkpoint_fixes_everything_before_it_and_tells_of_a_cut_off_end(ledger: Ledger, path: Path) -> None:
    ledger.append([entry(minutes_ago=m) for m in range(5)], received_at=NOW)
    before = ledger.checkpoint()
    assert before.root == merkle.root(r.leaf for r in ledger.records()).hex()
    tamper(path, "DELETE FROM consent_records WHERE seq = 5")
    assert (ledger.first_altered(), ledger.checkpoint().size) == (None, 4)
    assert ledger.checkpoint().root != before.root


_APPENDER = """
import sys
from datetime import datetime, timedelta, UTC
from pathlib import Path
from aap.consent.ledger.ledger import Entry, Ledger
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
path, subject = Path(sys.argv[1]), sys.argv[2] * 32
ledger, now = Ledger.at(path), datetime(2024, 6, 1, 12, tzinfo=UTC)
print("ready", flush=True)
sys.stdin.readline()
for i in range(40):
    at = now - timedelta(minutes=i + 1)
    ledger.append([Entry(subject, p, Status.GIVEN, at, "them", "test") for p in list(Purpose)[:2]], received_at=now)
"""


def test_two_processes_that_append_at_once_leave_no_gap_and_lose_nothing(ledger: Ledger, path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _APPENDER, str(path), who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for who in ("a", "b")
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    records = list(ledger.records())
    assert [r.seq for r in records] == list(range(1, 161))
    assert ledger.first_altered() is None
    assert {r.entry.subject for r in records} == {ANA, BOB}


def test_nothing_of_a_batch_is_appended_when_one_choice_in_it_cannot_be(ledger: Ledger) -> None:
    with pytest.raises(UnusableChoice, match=r"dated 2024-06-01T12:05:00\+00:00, after it was received\.$"):
        ledger.append([entry(), entry(BOB, minutes_ago=-5)], received_at=NOW)
    with pytest.raises(UnusableChoice, match="within 13 months"):
        ledger.append([entry(), entry(BOB, expires_at=NOW + LONGEST_GRANT)], received_at=NOW)
    assert ledger.size() == 0


def test_standing_tells_every_purpose_of_everyone_asked_for(ledger: Ledger) -> None:
    ledger.append([entry(), entry(BOB, status=Status.REFUSED)], received_at=NOW)
    everyone = ledger.standing()
    assert set(everyone) == {ANA, BOB}
    assert set(everyone[ANA]) == set(Purpose)
    assert [g.start for g in everyone[ANA][Purpose.TRAIN_AI_SYSTEM][0]] == [NOW - timedelta(minutes=10)]
    assert everyone[BOB][Purpose.TRAIN_AI_SYSTEM] == ([], Reason.REFUSED)
    assert ledger.standing(subjects=[BOB]) == {BOB: everyone[BOB]}


def _open(path: Path) -> object:
    return Ledger.at(path)


def _read(path: Path) -> object:
    return list(Ledger.at(path).records())


def test_standing_at_a_moment_has_only_the_grants_that_hold_then_and_says_why_there_is_none(ledger: Ledger) -> None:
    """Whoever withdrew has no grant left for any use now, of whatever past moment."""
    later, again = NOW + timedelta(days=10), NOW + timedelta(days=20)
    told = [(NOW, Status.GIVEN), (later, Status.WITHDRAWN), (again, Status.GIVEN)]
    entries = [Entry("a" * 32, Purpose.TRAIN_AI_SYSTEM, status, at, "them", "form") for at, status in told]
    ledger.append(entries, received_at=again)

    def held(at: datetime) -> tuple[list[datetime], Reason]:
        found, reason = ledger.standing(in_force_at=at)["a" * 32][Purpose.TRAIN_AI_SYSTEM]
        return [g.start for g in found], reason

    assert held(NOW + timedelta(days=1)) == ([NOW], Reason.GRANTED)
    assert held(later) == ([], Reason.WITHDRAWN)
    assert held(again) == ([again], Reason.GRANTED)


@pytest.mark.parametrize("use", [_open, _read])
def test_a_file_that_is_no_ledger_is_said_to_be_unavailable_in_one_sentence(
    path: Path, use: Callable[[Path], object]
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is not a database, it only has its name" * 100)
    with pytest.raises(
        LedgerUnavailable, match=rf"^The consent ledger at sqlite:///{path} can't be used: file is not a database\.$"
    ):
        use(path)


def test_a_ledger_damaged_in_the_middle_is_unavailable_and_not_half_read(ledger: Ledger, path: Path) -> None:
    ledger.append([entry(f"{i:032x}") for i in range(2_000)], received_at=NOW)
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = b"\xff" * (len(content) // 2 - len(content) // 3)
    path.write_bytes(bytes(content))
    with pytest.raises(LedgerUnavailable, match=r"malformed\.$"):
        Ledger.at(path).standing()


def test_a_ledger_url_that_cannot_be_used_is_told_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable) as told:
        Ledger(f"sqlite:///{tmp_path}/there/is/no/such/folder.db")
    assert "can't be used" in str(told.value)
    for url in ("nonsense://user:secret@host/db", "not a url at all"):
        with pytest.raises(LedgerUnavailable) as told:
            Ledger(url)
        assert "secret" not in str(told.value)
