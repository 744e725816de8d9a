"""What can go wrong at the guarded doors.

SecurityError
├── ApiKeyError     a key can't be made or revoked as asked
└── IdMapDamaged    an entry of the encrypted id map was altered
"""

from __future__ import annotations

__all__ = ["ApiKeyError", "IdMapDamaged", "SecurityError"]


class SecurityError(Exception):
    """Anything that goes wrong here; the message is one sentence for a person and never holds a secret or an id."""


class ApiKeyError(SecurityError, ValueError):
    """A key can't be made or revoked as asked."""


class IdMapDamaged(SecurityError):
    """An entry of the encrypted id map was altered, or sealed under another key."""
