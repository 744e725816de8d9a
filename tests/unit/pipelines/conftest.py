"""The other shop, imported but not yet trained."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from aap.config import Settings
from aap.infra.redis import connection
from tests.shop import imported_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Its settings; no `AAP_*` variable of the caller's reaches it."""
    left = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AAP_")}
    settings = imported_shop(tmp_path_factory.mktemp("pipelines") / "home", customers=160)
    yield settings
    connection.stop(settings)
    os.environ.update(left)
