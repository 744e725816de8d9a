"""The ledger on a real PostgreSQL server: the same promises, kept by that database's own triggers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from aap.consent.errors import LedgerUnavailable
from aap.consent.ledger.ledger import Entry, Ledger
from aap.consent.ledger.signing import Signer
from aap.consent.ledger.verification import verify
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.infra.process.detached import free_port
from tests.waiting import PATIENCE_S

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
ME = Signer(b"1" * 32)


def _program(name: str) -> str | None:
    found = shutil.which(name)
    return found or next((str(p) for p in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), None)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    initdb, ctl = _program("initdb"), _program("pg_ctl")
    if initdb is None or ctl is None:
        pytest.skip("no PostgreSQL on this machine: install the package postgresql")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("no driver for PostgreSQL: install psycopg[binary]")
    root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp(prefix="aap-pg-"))
    as_nobody = {"user": 65534, "group": 65534} if root else {}  # the server refuses to run as root
    if root:
        os.chown(folder, 65534, 65534)
    port, data = free_port(), folder / "data"

    def run(*words: str) -> None:
        subprocess.run(words, check=True, capture_output=True, timeout=PATIENCE_S, cwd=folder, **as_nobody)  # type: ignore[call-overload]

    run(initdb, "-D", str(data), "-U", "aap", "--auth=trust", "--no-sync")
    run(ctl, "-D", str(data), "-w", "-l", str(folder / "log"), "-o", f"-p {port} -c listen_addresses=127.0.0.1 "
        f"-c unix_socket_directories={folder} -c fsync=off", "start")  # fmt: skip
    yield f"postgresql+psycopg://aap@127.0.0.1:{port}/postgres"
    run(ctl, "-D", str(data), "-w", "-m", "immediate", "stop")
    shutil.rmtree(folder, ignore_errors=True)


def entry(who: str, minutes: int, status: Status = Status.GIVEN) -> Entry:
    return Entry(who * 32, Purpose.TRAIN_AI_SYSTEM, status, NOW - timedelta(minutes=minutes), "them", "form")


def test_what_is_appended_stays_signed_ordered_and_refuses_to_be_changed(url: str) -> None:
    ledger = Ledger(url, signer=ME)
    ledger.append([entry("a", 9), entry("b", 8)], received_at=NOW)
    Ledger(url, signer=ME).append([entry("a", 5, Status.WITHDRAWN), entry("a", 9)], received_at=NOW)
    assert [r.seq for r in ledger.records()] == [1, 2, 3]
    assert verify(ledger) == []
    for statement in (
        "UPDATE consent_records SET status = 'given'",
        "DELETE FROM consent_records WHERE seq = 1",
        "TRUNCATE consent_records",
        "UPDATE consent_tree_heads SET size = 9",
        "DELETE FROM consent_notices",
    ):
        with sa.create_engine(url).begin() as connection, pytest.raises(sa.exc.DBAPIError, match="append-only"):
            connection.execute(sa.text(statement))
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("ALTER TABLE consent_records DISABLE TRIGGER ALL"))
        connection.execute(sa.text("UPDATE consent_records SET status = 'renewed' WHERE seq = 2"))
        connection.execute(sa.text("ALTER TABLE consent_records ENABLE TRIGGER ALL"))
    assert [str(f) for f in verify(ledger)] == ["Record 2 was changed."]


def test_a_server_that_is_away_is_told_without_the_password(url: str) -> None:
    with pytest.raises(LedgerUnavailable, match="can't be used") as told:
        Ledger(f"postgresql+psycopg://aap:s3cret@127.0.0.1:{free_port()}/postgres")
    assert "s3cret" not in str(told.value)
