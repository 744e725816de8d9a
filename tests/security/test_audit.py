"""The audit log: who did what, counted, and never more than a flood is worth."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest

from security.audit import Audit, note_once, read_audit, verify_audit

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


def written(folder: Path) -> Path:
    """A log of six entries of two days, the last file of it."""
    for day in (0, 1):
        for what in ("make a key", "export a person", "erase a person"):
            note_once(folder, what, by="command line", at=AT + timedelta(days=day))
    return folder / "2026-03-02.jsonl"


def test_an_untouched_log_is_whole_and_grows_from_its_newest_hash(tmp_path: Path) -> None:
    written(tmp_path)
    found = verify_audit(tmp_path)
    assert (found.entries, found.problems) == (6, ())
    note_once(tmp_path, "make a key", by="command line", at=AT + timedelta(days=1))
    later = verify_audit(tmp_path)
    assert (later.entries, later.problems) == (7, ())
    assert found.newest in (tmp_path / "2026-03-02.jsonl").read_text()
    assert later.newest != found.newest


@pytest.mark.parametrize(
    ("tampered", "line"),
    [
        (lambda lines: [lines[0].replace("make a key", "make a tea"), *lines[1:]], 1),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: [lines[0], lines[2], lines[1]], 2),
        (lambda lines: [lines[0], lines[0], *lines[1:]], 2),
        (lambda lines: [lines[0], '{"time": ', *lines[1:]], 2),
    ],
    ids=["altered", "removed", "moved", "added", "cut short"],
)
def test_what_was_altered_removed_moved_or_added_is_named(
    tmp_path: Path, tampered: Callable[[list[str]], list[str]], line: int
) -> None:
    file = written(tmp_path)
    file.write_text("".join(f"{one}\n" for one in tampered(file.read_text().splitlines())))
    problems = verify_audit(tmp_path).problems
    assert problems[0].startswith(f"2026-03-02.jsonl, line {line}: ")


def test_a_day_that_was_removed_shows(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "2026-03-01.jsonl").unlink()
    assert verify_audit(tmp_path).problems[0].startswith("2026-03-02.jsonl, line 1: ")


def test_an_entry_that_comes_late_is_at_the_end_of_the_chain(tmp_path: Path) -> None:
    file = written(tmp_path)
    note_once(tmp_path, "call", by="abc", at=AT)
    assert verify_audit(tmp_path).problems == ()
    assert '"call"' in file.read_text().splitlines()[-1]


def test_a_line_cut_short_by_a_crash_costs_itself_alone(tmp_path: Path) -> None:
    file = written(tmp_path)
    with file.open("a") as log:
        log.write('{"time": "2026-03-02T')
    note_once(tmp_path, "call", by="abc", at=AT + timedelta(days=1))
    assert [p.partition(":")[0] for p in verify_audit(tmp_path).problems] == ["2026-03-02.jsonl, line 4"]


def _note_many(folder: Path) -> None:
    for _ in range(50):
        note_once(folder, "call", by="abc", at=AT)


def test_processes_that_write_at_once_make_one_chain(tmp_path: Path) -> None:
    context = get_context("spawn")
    writers = [context.Process(target=_note_many, args=(tmp_path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    found = verify_audit(tmp_path)
    assert (found.entries, found.problems) == (150, ())
