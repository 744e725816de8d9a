"""Log lines: nothing that is logged can look like another entry."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from aap.infra.logging import line_formatter

pytestmark = pytest.mark.fast

FORGED = 'he said "no"\r\n2026-01-01 ERROR aap: everything is lost\x1b[2K\u2028{"level": "error"} \\'


def line(as_json: bool, message: str, *args: Any, exc_info: Any = None) -> str:
    record = logging.LogRecord("aap.test", logging.WARNING, __file__, 1, message, args, exc_info)
    return line_formatter(as_json=as_json).format(record)


def test_a_line_of_json_says_what_was_logged_by_whom_and_when_in_utc() -> None:
    said = json.loads(line(True, "%s", FORGED))
    assert {k: said[k] for k in said if k != "time"} == {"level": "warning", "logger": "aap.test", "event": FORGED}
    assert abs((datetime.fromisoformat(said["time"]) - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize("as_json", [False, True])
def test_an_entry_is_one_line_whatever_is_in_it(as_json: bool) -> None:
    written = line(as_json, "%s", FORGED)
    assert len(written.splitlines()) == 1
    assert "\x1b" not in written


def test_a_plain_line_can_be_read() -> None:
    time, rest = line(False, "%s models", "no").split(" ", 1)
    assert rest == "WARNING aap.test: no models"
    assert datetime.fromisoformat(time).tzinfo == UTC


@pytest.mark.parametrize("as_json", [False, True])
def test_of_an_exception_its_type_alone_is_written(as_json: bool) -> None:
    try:
        raise ValueError("the secret of u-17")
    except ValueError:
        written = line(as_json, "it failed", exc_info=sys.exc_info())
    assert "ValueError" in written
    assert "u-17" not in written
    assert "Traceback" not in written
