"""What can go wrong with consent.

ConsentError
├── UnusableChoice          a choice with a value that can't be recorded
├── UnusableKey             a file that holds no public key
├── UnusableReceipt         a receipt or tree head that can't be read
├── LedgerUnavailable       the ledger can't be read or written
└── NotYetInForce           recorded in the ledger, but the projection beside the features could not be written
"""

from __future__ import annotations

__all__ = [
    "ConsentError",
    "LedgerUnavailable",
    "NotYetInForce",
    "UnusableChoice",
    "UnusableKey",
    "UnusableReceipt",
]


class ConsentError(Exception):
    """Anything that goes wrong with consent; the message is one sentence for a person."""


class UnusableChoice(ConsentError, ValueError):
    """A choice with a value that can't be recorded."""


class UnusableKey(ConsentError, ValueError):
    """A file that holds no public key."""


class UnusableReceipt(ConsentError, ValueError):
    """A receipt or tree head that can't be read."""


class LedgerUnavailable(ConsentError):
    """The ledger can't be read or written."""


class NotYetInForce(ConsentError):
    """The ledger has the choice, but readers may not see it yet; so it is not acknowledged."""
