"""Tables of a database that several processes open at once, the first of which finds it empty."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["make_tables"]


def make_tables(metadata: sa.MetaData, engine: sa.Engine) -> None:
    """Make the tables that are not there yet; processes that do so at the same time all succeed.

    SQLAlchemy looks first and makes then, and another process may come in between, at most once for each table.
    """
    for _ in metadata.tables:
        try:
            metadata.create_all(engine)
        except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError):
            continue
        return
    metadata.create_all(engine)
