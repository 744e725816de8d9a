"""DuckDB's spills: where only their owner can look, and gone with the connection."""

from __future__ import annotations

import threading
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from aap.infra.duckdb import open_duckdb
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[3]
_LARGE = "CREATE TABLE t AS SELECT hash(i)::VARCHAR || repeat('x', 40) AS s FROM range(600000) r(i) ORDER BY s"


def test_what_does_not_fit_into_memory_lies_in_a_private_folder_and_goes_with_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open_duckdb() as connection:
        connection.execute("SET memory_limit = '40MB'")
        connection.execute("SET threads = 1")
        (place,) = map(Path, connection.execute("SELECT current_setting('temp_directory')").fetchone() or ())
        seen: set[str] = set()
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                seen.update(f.name for f in place.rglob("*"))

        watcher = threading.Thread(target=watch)
        watcher.start()
        connection.execute(_LARGE)
        done.set()
        watcher.join()
    assert [name for name in seen if name.endswith(".tmp")], "it did spill"
    assert place.parent.stat().st_mode & 0o077 == 0
    assert list(place.parent.rglob("*.tmp")) == []
    assert list(tmp_path.iterdir()) == [], "the folder it runs in holds nothing"


def test_two_connections_spill_to_two_places() -> None:
    with open_duckdb() as one, open_duckdb() as other:
        places = {c.execute("SELECT current_setting('temp_directory')").fetchone() for c in (one, other)}
    assert len(places) == 2


def test_no_package_opens_duckdb_by_another_way() -> None:
    packages = ("src/aap", "feature_repo", "models", "pipelines", "serving")
    files = [f for package in packages for f in (ROOT / package).rglob("*.py")]
    opening = [str(f.relative_to(ROOT)) for f in files if "duckdb.connect(" in f.read_text(encoding="utf-8")]
    assert opening == ["src/aap/infra/duckdb.py"]


def test_no_progress_bars_are_drawn_into_what_a_command_prints() -> None:
    with open_duckdb() as connection:
        assert connection.execute("SELECT current_setting('enable_progress_bar')").fetchone() == (False,)


def test_a_notebook_may_open_one_though_it_has_no_widgets_to_draw_bars_with() -> None:
    cell = nbformat.v4.new_code_cell(
        "from aap.infra.duckdb import open_duckdb\nprint(open_duckdb().execute('SELECT 42').fetchone())"
    )
    client = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), timeout=int(PATIENCE_S), kernel_name="python3")
    client.execute()
    assert [output.text for output in cell.outputs] == ["(42,)\n"]
