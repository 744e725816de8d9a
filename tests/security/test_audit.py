"""The audit log: who did what, counted, and never more than a flood is worth."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from security.audit import Audit, read_audit

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_the_same_thing_done_often_is_one_entry_with_a_count(tmp_path: Path) -> None:
    log = Audit(tmp_path / "audit")
    for _ in range(500):
        log.note("use scope consent", by="abc", outcome="refused", at=AT)
    log.note("withdraw marketing.retention", by="def", outcome="done", at=AT)
    log.flush()
    assert [(e["action"], e["by"], e["outcome"], e["count"]) for e in read_audit(tmp_path / "audit", days=1)] == [
        ("use scope consent", "abc", "refused", 500),
        ("withdraw marketing.retention", "def", "done", 1),
    ]
    assert (tmp_path / "audit").stat().st_mode & 0o077 == 0


def test_a_line_break_in_a_name_stays_in_its_entry(tmp_path: Path) -> None:
    log = Audit(tmp_path)
    log.note('make the key "a\n{}\r\n"', by="command line", outcome="done", at=AT)
    log.flush()
    assert len((tmp_path / "2026-03-01.jsonl").read_text().splitlines()) == 1
    assert [e["action"] for e in read_audit(tmp_path, days=1)] == ['make the key "a\n{}\r\n"']


def test_many_different_things_at_once_stay_bounded(tmp_path: Path) -> None:
    log = Audit(tmp_path)
    for i in range(5_000):
        log.note(f"thing {i}", by="k", outcome="refused", at=AT)
    log.flush()
    entries = list(read_audit(tmp_path, days=1))
    assert len(entries) <= 1_001
    assert sum(e["count"] for e in entries) == 5_000


def test_what_could_not_be_written_waits(unprivileged: Path) -> None:
    log = Audit(unprivileged / "audit")
    log.note("thing", by="k", outcome="done", at=AT)
    log.flush()
    assert sum(log._waiting.values()) == 1
