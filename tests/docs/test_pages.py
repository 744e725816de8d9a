"""Every page: its links lead somewhere, the commands and files it names are there, and it gives nothing of a machine away."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aap.cli.main import ENTRIES
from aap.config import Settings
from tests.docs.pages import DOCS, ROOT, blocks, pages
from tests.waiting import PATIENCE_S

every_page = pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    gone = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert gone == []


@every_page
def test_it_names_no_machine(page: Path) -> None:
    said = page.read_text()
    assert not re.search(r"/(?:work|home|root|tmp)/|(?:index|extra-index|registry)[-_]url|pypi\.", said)


@every_page
def test_commands_it_names_are_there(page: Path) -> None:
    named = set(re.findall(r"(?:^|`|bin/|\s)aap (?:--home \S+ )?([a-z]+)", page.read_text(), re.MULTILINE))
    assert named - set(ENTRIES) == set()


@every_page
def test_files_it_names_are_there(page: Path) -> None:
    folders = "src/aap|clients|conf|deploy|docs|feature_repo|models|notebooks|serving|pipelines|benchmarks|tests"
    named = set(re.findall(rf"(?<![\w./<>-])((?:{folders})/[\w./-]*\w)", page.read_text()))
    made_later = {"models/lapsed.py", "docs/campaigns"}  # by the reader; by the first campaign
    assert [name for name in sorted(named - made_later) if not (ROOT / name).exists()] == []


def test_the_readme_lists_every_setting() -> None:
    said = set(re.findall(r"`(AAP_[A-Z_]+)`", (ROOT / "README.md").read_text()))
    assert said >= {f"AAP_{name.upper()}" for name in Settings.model_fields}


def test_the_readme_opens_with_what_it_is_in_five_lines() -> None:
    first = (ROOT / "README.md").read_text().split("\n\n")[1]
    assert len(first.splitlines()) == 5


def test_decisions_are_numbered_and_tell_context_decision_and_consequences() -> None:
    found = sorted((DOCS / "adr").glob("*.md"))
    assert [path.name[:4] for path in found] == [f"{n:04}" for n in range(1, len(found) + 1)]
    for path in found:
        said = path.read_text()
        assert said.startswith(f"# {int(path.name[:4])}. ")
        assert [said.index(f"**{part}.**") for part in ("Context", "Decision", "Consequences")]


def test_a_page_about_adding_something_has_at_most_eight_steps() -> None:
    for path in DOCS.glob("add-a*.md"):
        assert len(re.findall(r"^\d+\. ", path.read_text(), re.MULTILINE)) <= 8


def test_compose_is_sound_and_sets_nothing_that_is_not_a_setting() -> None:
    composed = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert set(composed["services"]) == {"serve", "redis", "postgres"}
    names = {f"AAP_{name.upper()}" for name in Settings.model_fields}
    assert {n for n in composed["services"]["serve"]["environment"] if n.startswith("AAP_")} <= names
    assert (ROOT / composed["services"]["serve"]["build"]["dockerfile"]).is_file()
    assert not re.search(r"PASSWORD: *[\"']?\w", (ROOT / "compose.yaml").read_text())


def test_the_subcommands_of_the_schedule_page_say_help() -> None:
    lines = [line.split() for block in blocks(DOCS / "schedule.md", "sh") for line in block.splitlines()]
    wanted = {tuple(words[1:3]) for words in lines if words[:2] == ["aap", "models"]}
    assert wanted
    for words in sorted(wanted):
        command = [sys.executable, "-m", "aap.cli.main", *words, "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
