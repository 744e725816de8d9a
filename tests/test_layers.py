"""The shape of the code base: imports point one way, and a module is named for a noun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    *("settings", "storage", "security", "consent", "events", "feature_repo"),
    *("models", "experiments", "privacy", "serving", "pipelines", "cli", "benchmarks"),
)


def test_imports_point_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    broken = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert not broken, capsys.readouterr().out


def test_importing_the_consent_policy_loads_no_store_and_no_network() -> None:
    loaded = "import sys, aap.consent.policy; print(' '.join({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"redis", "sqlalchemy", "sqlite3", "duckdb", "pyarrow", "socket"} & set(done.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_a_drawer_for_everything(package: str) -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    assert not [path for path in (ROOT / package).rglob("*.py") if path.stem in drawers]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is(package: str) -> None:
    bare = [
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        if path.stat().st_size and not path.read_text(encoding="utf-8").lstrip().startswith('"""')
    ]
    assert not bare
