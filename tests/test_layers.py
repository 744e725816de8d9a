"""The shape of the code base: imports point one way, a module is named for a noun, and the library has one name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src/aap", "clients/python/src", "feature_repo", "models", "serving", "pipelines", "benchmarks")
GONE = ("settings", "storage", "security", "consent", "events", "experiments", "privacy", "cli", "project")
"""Top-level packages of 0.1.0 that are below `src/aap` now."""
MOST_COMMANDS = 16


def test_imports_point_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    broken = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert not broken, capsys.readouterr().out


def test_importing_the_consent_policy_loads_no_store_and_no_network() -> None:
    loaded = "import sys, aap.consent.policy; print(' '.join({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"redis", "sqlalchemy", "sqlite3", "duckdb", "pyarrow", "socket"} & set(done.stdout.split())


def test_none_of_the_old_top_level_packages_is_left() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [name for name in listed if name.partition("/")[0] in GONE] == []
    assert {name for name in listed if name.startswith("feature_repo/")} == {
        "feature_repo/feature_store.yaml",
        "feature_repo/features.py",
        "feature_repo/repo.py",
    }


def test_commands_are_one_file_a_noun() -> None:
    commands = [path for path in (ROOT / "src/aap/cli/commands").glob("*.py") if path.stem != "__init__"]
    assert len(commands) <= MOST_COMMANDS


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_is_a_drawer_for_everything(folder: str) -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    assert not [path for path in (ROOT / folder).rglob("*.py") if path.stem in drawers]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_says_what_it_is(folder: str) -> None:
    bare = [
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*.py")
        if not path.read_text(encoding="utf-8").lstrip().startswith('"""')
    ]
    assert not bare
