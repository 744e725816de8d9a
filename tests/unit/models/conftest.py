"""The made-up shop of the modeling tests, and models fitted on it, for the tests of the project's own models."""

from __future__ import annotations

from tests.unit.modeling.conftest import cases, empty_store, fitted, registry, settings, shop  # noqa: F401 - fixtures
