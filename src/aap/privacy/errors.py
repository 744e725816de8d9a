"""What can go wrong with a person's rights.

PrivacyError
├── ErasureIncomplete    something of the person is left after an erasure
├── UnusableCertificate  a file that is no certificate
├── UnusableExport       a folder that is no export of ours, or one that was changed
└── UnusableCorrection   a correction that names no event, or a value the event can't have
"""

from __future__ import annotations

__all__ = ["ErasureIncomplete", "PrivacyError", "UnusableCertificate", "UnusableCorrection", "UnusableExport"]


class PrivacyError(Exception):
    """Anything that goes wrong here; the message is one sentence and names nobody."""


class ErasureIncomplete(PrivacyError):
    """Something of the person is left; erasing again goes on from there."""


class UnusableCertificate(PrivacyError, ValueError):
    """A file that is no certificate."""


class UnusableExport(PrivacyError, ValueError):
    """A folder that is no export of ours, or one that was changed since it was written."""


class UnusableCorrection(PrivacyError, ValueError):
    """A correction that names no event, or a value the event can't have."""
