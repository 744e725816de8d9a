"""The audit log: who did what, counted, and never more than a flood is worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import pytest

from aap.security.audit_log import Audit, note_once, note_read, read_audit, reads_of, verify_audit
from aap.security.audit_subjects import Subjects

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
    assert log._about == {}
    log.note("read", by="k", outcome="done", at=AT, about=["a" * 32])
    log.flush()
    assert list(log._about.values()) == [{"a" * 32}]
    log.note("read", by="k", outcome="done", at=AT, keys=["b" * 32])
    log.flush()
    assert list(log._keys.values()) == [{"b" * 32}]
    assert list(log._about.values()) == [{"a" * 32}]


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


PEOPLE = [f"{n:032x}" for n in range(200)]


def test_a_person_finds_the_entries_about_them_and_no_key_stands_in_any(tmp_path: Path) -> None:
    note_once(tmp_path, "export a person", by="command line", at=AT, about=PEOPLE[:1])
    note_read(tmp_path, "a training frame", about=PEOPLE, at=AT)
    note_read(tmp_path, "vectors", about=PEOPLE[1:3], at=AT)
    note_once(tmp_path, "make a key", by="command line", at=AT)
    assert [e["action"] for e in reads_of(tmp_path, PEOPLE[0])] == ["export a person", "read a training frame"]
    assert [e["action"] for e in reads_of(tmp_path, PEOPLE[2])] == ["read a training frame", "read vectors"]
    assert [e["action"] for e in reads_of(tmp_path, PEOPLE[199])] == ["read a training frame"]
    assert reads_of(tmp_path, "f" * 32) == []
    log = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.suffix in (".jsonl", ".bin"))
    assert not [key for key in PEOPLE if key.encode() in log or bytes.fromhex(key) in log]
    assert verify_audit(tmp_path).problems == ()


def test_a_person_is_found_whether_they_were_named_by_their_id_or_by_their_key(tmp_path: Path) -> None:
    log = Audit(tmp_path, user_keys=lambda ids: [sha256(i.encode()).hexdigest()[:32] for i in ids])
    ann, bob = (sha256(name).hexdigest()[:32] for name in (b"ann", b"bob"))
    log.note("read", by="k", outcome="done", at=AT, about=["ann"])
    log.note("read", by="k", outcome="done", at=AT, keys=[bob])
    log.note("target", by="k", outcome="done", at=AT, keys=[ann])
    log.flush()
    assert [e["action"] for e in reads_of(tmp_path, ann)] == ["read", "target"]
    assert [e["action"] for e in reads_of(tmp_path, bob)] == ["read"]


def test_two_entries_about_the_same_person_have_nothing_in_common(tmp_path: Path) -> None:
    for _ in range(2):
        note_once(tmp_path, "export a person", by="command line", at=AT, about=PEOPLE[:1])
    one, other = (e["about"] for e in read_audit(tmp_path, days=1))
    assert (one["people"], other["people"]) == (1, 1)
    assert one["tags"] != other["tags"]
    assert one["name"] != other["name"]


def test_who_is_forgotten_can_be_told_by_nobody_and_the_chain_still_holds(tmp_path: Path) -> None:
    note_read(tmp_path, "a training frame", about=PEOPLE, at=AT)
    note_read(tmp_path, "vectors", about=PEOPLE[:2], at=AT)
    before = Subjects(tmp_path).about(PEOPLE[0])
    (secret,) = [before._secret]
    assert secret is not None
    assert secret in (tmp_path / "subjects.db").read_bytes()
    Subjects(tmp_path).forget(PEOPLE[0])
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and secret in f.read_bytes()]
    assert reads_of(tmp_path, PEOPLE[0]) == []
    assert len(reads_of(tmp_path, PEOPLE[1])) == 2
    assert verify_audit(tmp_path).problems == ()
    note_read(tmp_path, "vectors", about=PEOPLE[:1], at=AT)
    assert len(reads_of(tmp_path, PEOPLE[0])) == 1, "whoever comes back begins anew"


def test_entries_of_before_people_were_told_still_verify(tmp_path: Path) -> None:
    """Such a log lies in homes of earlier versions: no entry says about whom it is."""
    line = json.dumps(
        {"time": AT.isoformat(), "action": "read for churn", "by": "abc", "outcome": "answered", "count": 3}
    )
    digest = sha256(("0" * 64 + "\n" + json.dumps(json.loads(line), sort_keys=True)).encode()).hexdigest()
    (tmp_path / "2026-03-01.jsonl").write_text(line[:-1] + f', "hash": "{digest}"}}\n')
    note_read(tmp_path, "vectors", about=PEOPLE[:1], at=AT)
    found = verify_audit(tmp_path)
    assert (found.entries, found.problems) == (2, ())
    assert [e["action"] for e in reads_of(tmp_path, PEOPLE[0])] == ["read vectors"]


@pytest.mark.parametrize("harm", ["altered", "gone"])
def test_a_list_of_people_that_was_altered_or_taken_away_is_named(tmp_path: Path, harm: str) -> None:
    note_read(tmp_path, "a training frame", about=PEOPLE, at=AT)
    (file,) = (tmp_path / "people").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-8] + b"\0" * 8)
    (problem,) = verify_audit(tmp_path).problems
    assert problem == "2026-03-01.jsonl, line 1: the list of whom it is about is gone or altered."


def test_tags_taken_out_of_an_entry_show_in_the_chain(tmp_path: Path) -> None:
    note_read(tmp_path, "vectors", about=PEOPLE[:3], at=AT)
    file = tmp_path / "2026-03-01.jsonl"
    tags = json.loads(file.read_text())["about"]["tags"]
    file.write_text(file.read_text().replace(tags, tags[16:]))
    assert verify_audit(tmp_path).problems[0].startswith("2026-03-01.jsonl, line 1: altered")
