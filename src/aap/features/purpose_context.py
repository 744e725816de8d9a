"""The purpose in force: what a store is being read for. Without one, reading is refused.

Feast's own API has no word for it, so it is set around a call and checked inside our stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from aap.consent.purposes import Purpose
from aap.features.errors import NoPurposeInForce

__all__ = ["purpose_in_force", "require_purpose"]

_IN_FORCE: ContextVar[Purpose | None] = ContextVar("purpose_in_force", default=None)


@contextmanager
def purpose_in_force(purpose: Purpose) -> Iterator[None]:
    """Read for `purpose` inside the `with` block."""
    token = _IN_FORCE.set(purpose)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


def require_purpose(purpose: Purpose, *, what: str) -> None:
    """Raise `NoPurposeInForce` unless `purpose` is what we read for."""
    held = _IN_FORCE.get()
    if held is None:
        raise NoPurposeInForce(f"Reading {what} needs a purpose: use `with purpose_in_force(Purpose(...))`.")
    if held is not purpose:
        raise NoPurposeInForce(f"{what} holds values for {purpose}; they can't be read for {held}.")
