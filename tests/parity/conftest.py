"""The shop of the feature tests, with live events beside its imported history."""

from __future__ import annotations

from tests.unit.events.conftest import redis_url, running  # noqa: F401 - fixtures
from tests.unit.features.conftest import filled_home, room  # noqa: F401 - fixtures
