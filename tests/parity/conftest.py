"""The shop of the feature tests, with live events beside its imported history."""

from __future__ import annotations

from tests.events.conftest import redis_url, running  # noqa: F401 - fixtures
from tests.feature_repo.conftest import filled_home, room  # noqa: F401 - fixtures
