"""A home that was moved or copied: where MLflow says a run's files are follows it.

MLflow keeps the absolute place of every run's files, so that a moved home would have lost its models, and a copied one
would read those of the home it is a copy of, and write among them.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

__all__ = ["follow"]

_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
"""Where MLflow 3 keeps a place, by table and column."""


def follow(database: Path, *, experiment: str, root: Path) -> None:
    """Make every place in MLflow's SQLite file that lies below the files of `experiment` lie below `root`.

    What hinders it (a file that is no database, say) is for MLflow itself to tell.
    """
    here, known = root.resolve().as_uri(), "SELECT artifact_location FROM experiments WHERE name = ?"
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as store,
        store,
    ):
        found = store.execute(known, [experiment]).fetchone()
        if found is None or found[0] == here:
            return
        before = f"{found[0]}/"
        for table, column in _PLACES:
            store.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column} || '/', 1, ?) = ?",
                [here, len(before), len(before), before],
            )
