"""`aap keyring`: which keys there are, what lies under each, and a new one by hand."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from aap.cli.main import main
from aap.config import Settings
from aap.events.archive import Archive
from aap.events.schema import event_type
from aap.infra.object_store import archive_folder
from aap.security.id_map import open_id_map

KEY = "a" * 32


def run(*words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["aap", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def page_view(batch: str) -> dict[str, pa.Table]:
    at = datetime(2024, 5, 1, tzinfo=UTC)
    row = {"source": "s", "id": batch, "user_key": KEY, "occurred_at": at, "available_at": at, "page": "/"}
    declared = event_type("page_viewed").arrow
    columns = [pa.array([row.get(f.name)], f.type) for f in declared]
    return {"page_viewed": pa.table(columns, schema=pa.schema([f.with_nullable(True) for f in declared]))}


def test_a_new_key_takes_the_ids_and_new_files_and_old_files_keep_theirs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> list[dict[str, Any]]:
        code, out, _ = run("keyring", *words, "--json", monkeypatch=monkeypatch, capsys=capsys)
        assert code == 0
        keys: list[dict[str, Any]] = json.loads(out.splitlines()[-1])["keys"]
        return [{k: v for k, v in key.items() if k != "key"} for key in keys]

    archive = Archive(archive_folder(settings))
    archive.append_tables(page_view("one"), batch="one")
    open_id_map(settings).remember({KEY: "ana"})
    assert told("list") == [{"age_days": 0, "state": "seals", "archive_files": 1, "ids": 1}]
    assert told("rotate") == [
        {"age_days": 0, "state": "opens", "archive_files": 1, "ids": 0},
        {"age_days": 0, "state": "seals", "archive_files": 0, "ids": 1},
    ]
    archive.append_tables(page_view("two"), batch="two")
    assert [key["archive_files"] for key in told("list")] == [1, 1]
    assert open_id_map(settings).reveal(KEY) == "ana"


def test_a_key_that_is_gone_is_named_by_the_list_and_a_wrong_one_by_status(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Archive(archive_folder(settings)).append_tables(page_view("one"), batch="one")
    (file,) = Path(settings.home / "keys" / "ring").glob("*.key")
    content = file.read_bytes()
    file.write_bytes(b"x" * len(content))
    _, _, said = run("status", monkeypatch=monkeypatch, capsys=capsys)
    assert f"{file} can't be opened by" in " ".join(said.split())
    file.unlink()
    code, _, said = run("keyring", "list", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, f"The key file {file} is missing" in " ".join(said.split())) == (1, True)
