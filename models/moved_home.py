"""A home that was moved or copied: where MLflow says a run's files are follows it.

MLflow keeps the absolute place of every run's files, so that a moved home would have lost its models, and a copied one
would read, and erase, those of the home it is a copy of.
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


def follow(database: Path, *, experiment: str, root: Path) -> bool:
    """Make every place in MLflow's SQLite file that lies below the files of `experiment` lie below `root`.

    Returns whether there was anything to do. What hinders it (a file that is no database, say) is for MLflow itself to tell.
    """
    here, known = root.resolve().as_uri(), "SELECT artifact_location FROM experiments WHERE name = ?"
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as store,
    ):
        found = store.execute(known, [experiment]).fetchone()
        if found is None or found[0] == here:
            return False
        with store:
            for table, column in _PLACES:
                store.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column} || '/', 1, ?) = ?",
                    [here, len(found[0]) + 1, len(found[0]) + 1, found[0] + "/"],
                )
        return True
    return False
