"""`aap consent …` as a person types it: grant, look up, take a receipt away, check it elsewhere, verify."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from aap.config import Settings
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[4]


def aap(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aap.cli.main", "consent", *arguments],
        cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip


def test_from_a_grant_to_a_receipt_that_another_machine_checks(settings: Settings, tmp_path: Path) -> None:
    assert aap("grant", "ana", "marketing.retention").returncode == 0
    assert json.loads(aap("show", "ana", "--json").stdout)["marketing.retention"]["allowed"] is True
    assert aap("withdraw", "ana", "marketing.retention").returncode == 0
    history = json.loads(aap("history", "ana", "--json").stdout)["records"]
    assert [r["status"] for r in history] == ["given", "withdrawn"]
    assert "ana" not in json.dumps(history)

    assert aap("receipt", "ana", "--into", str(tmp_path / "mine")).returncode == 0
    assert aap("key", "--into", str(tmp_path / "platform.pem")).returncode == 0
    elsewhere = {"AAP_HOME": str(tmp_path / "elsewhere")}
    receipt = tmp_path / "mine" / "receipt-1.json"
    held = aap("check-receipt", str(receipt), "--key-file", str(tmp_path / "platform.pem"), **elsewhere)
    assert (held.returncode, held.stdout.split(" on ")[0]) == (0, "Record 1 holds: marketing.retention given")
    assert not (tmp_path / "elsewhere").exists(), "nothing but the key was needed, and nothing was made"
    receipt.write_text(receipt.read_text().replace('"given"', '"refused"'))
    broken = aap("check-receipt", str(receipt), "--key-file", str(tmp_path / "platform.pem"), **elsewhere)
    assert broken.returncode == 1
    assert "signature doesn't fit" in broken.stderr

    head = tmp_path / "head.json"
    head.write_text(aap("head").stdout)
    assert aap("verify", "--since", str(head)).returncode == 0
    with sqlite3.connect(settings.home / "consent" / "ledger.db") as db:
        db.execute("DROP TRIGGER consent_no_update")
        db.execute("UPDATE consent_records SET status = 'renewed' WHERE seq = 2")
    found = aap("verify")
    assert (found.returncode, found.stderr) == (1, "Error: Record 2 was changed.\n")


def test_wrong_input_is_one_sentence_and_leaves_no_record(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("[1]")
    for words in (
        ("grant", "ana", "world.domination"),
        ("grant", "ana", "marketing.retention", "--age", "15"),
        ("gpc", "ana", "maybe"),
        ("check-receipt", str(tmp_path / "no.json")),
        ("check-receipt", str(tmp_path / "no.json"), "--key-file", str(tmp_path / "no.json")),
        ("notice", "2", str(tmp_path / "missing.txt")),
    ):
        done = aap(*words)
        assert done.returncode == 2, (words, done.stderr)
        assert "Traceback" not in done.stderr
    assert not (settings.home / "consent" / "ledger.db").exists()
