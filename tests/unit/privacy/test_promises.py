"""`docs/privacy.md` names, for each promise and each fault, the tests that check it; they are there, and they test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
TESTS = sorted(set(re.findall(r"`(tests/[\w/.]+)`", PAGE)))


def rows() -> list[list[str]]:
    """The cells of every row of every table, but headings."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("|---")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] not in ("promise", "fault")]


def test_every_promise_names_its_tests() -> None:
    assert len(rows()) > 50
    assert [row[0] for row in rows() if "`tests/" not in row[-1]] == []


@pytest.mark.parametrize("named", TESTS)
def test_what_is_named_is_there_and_tests(named: str) -> None:
    place = ROOT / named
    assert place.exists()
    if place.suffix == ".py":
        assert re.search(r"^def test_", place.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_decision_and_module_it_refers_to_is_there() -> None:
    linked = re.findall(r"\((adr/[\w-]+\.md)\)", PAGE)
    assert linked
    assert [link for link in linked if not (ROOT / "docs" / link).exists()] == []
    modules = re.findall(r"`((?:src/aap|clients|conf|serving|pipelines|feature_repo|models)/[\w/]+\.\w+)`", PAGE)
    assert modules
    assert [module for module in modules if not (ROOT / module).exists()] == []
