"""Tables are made by whoever comes first; who comes at the same moment finds them."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from aap.infra.sql import make_tables

pytestmark = pytest.mark.fast


def test_tables_that_another_process_makes_in_between_are_no_failure(tmp_path: Path) -> None:
    metadata = sa.MetaData()
    for name in ("keys", "people"):
        sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True))
    url, others = (
        f"sqlite:///{tmp_path / 'shared.db'}",
        ["CREATE TABLE people (id INTEGER)", "CREATE TABLE keys (id INTEGER)"],
    )

    @sa.event.listens_for(metadata, "before_create")
    def somebody_else_comes_in_between(*_: object, **__: object) -> None:
        if others:
            with sa.create_engine(url).begin() as connection:
                connection.exec_driver_sql(others.pop())

    engine = sa.create_engine(url)
    make_tables(metadata, engine)
    assert set(sa.inspect(engine).get_table_names()) == {"keys", "people"}
    assert others == []
