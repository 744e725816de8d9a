"""Every notebook runs from top to bottom on a small shop, tells its story, and is kept without its outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from aap.config import Settings
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.full

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def executed(path: Path, settings: Settings) -> Any:
    """The notebook after running every cell in order; a cell that fails ends the test with its traceback."""
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "AAP_HOME": str(settings.home)}
    client = NotebookClient(notebook, timeout=int(PATIENCE_S), kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    client.execute(env=environment)
    return notebook


def outputs(notebook: Any, kind: str) -> list[Any]:
    return [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == kind]


@every_notebook
def test_it_runs_on_another_shop_and_draws_what_it_promises(path: Path, with_champion: Settings) -> None:
    notebook = executed(path, with_champion)
    pictures = [
        o for o in outputs(notebook, "display_data") + outputs(notebook, "execute_result") if "image/png" in o.data
    ]
    assert len(pictures) >= 2
    printed = "".join(o.text for o in outputs(notebook, "stream") if o.name == "stdout")
    assert "client-" not in printed  # people appear by pseudonym alone, and here not even so


@every_notebook
def test_it_is_kept_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@every_notebook
def test_it_reads_like_a_story(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].cell_type == "markdown"
    assert "?" in cells[0].source.splitlines()[0]
    assert cells[-1].source.startswith("## What this shows")
    assert all(len(c.source.splitlines()) <= 25 for c in cells if c.cell_type == "code")
