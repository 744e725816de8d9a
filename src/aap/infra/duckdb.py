"""DuckDB: connections in memory, which put what doesn't fit there where only this process's owner can look.

Left to itself DuckDB writes such spills to `.tmp` below the folder a process happens to run in, for all to read who may look
there. Here they lie in a private folder of the process below the system's temporary one; they go with the connection, and the
folder goes with the process. They are not encrypted: DuckDB 1.5 does that safely only with an extension that has to be
downloaded, and says itself of the cipher it has built in that it is unsafe to use.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import duckdb

__all__ = ["open_duckdb"]

_numbers = itertools.count()


def open_duckdb() -> duckdb.DuckDBPyConnection:
    """A database of its own in memory, which draws no progress bars; closing it deletes what it spilled."""
    spills = str(_private(os.getpid()) / str(next(_numbers)))
    connection = duckdb.connect(config={"temp_directory": spills})
    drawn = connection.execute("SELECT current_setting('enable_progress_bar')").fetchone()
    if drawn == (True,):  # a notebook without widgets draws none, and refuses even to be told so
        connection.execute("SET enable_progress_bar = false")
    return connection


@cache
def _private(process: int) -> Path:
    """A folder of this process alone; a forked one makes its own."""
    folder = Path(tempfile.mkdtemp(prefix=f"aap-spill-{process}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
