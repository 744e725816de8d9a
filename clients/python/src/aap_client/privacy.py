"""What the privacy endpoints take and give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from aap_client.requests import UserId

__all__ = ["ErasureRequest", "PersonRequest", "Receipts", "SignalRecorded", "SignalRequest"]


class PersonRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Whom it is about."""

    user_id: UserId


class SignalRequest(PersonRequest, forbid_unknown_fields=True, frozen=True):
    """A person's standing setting, whatever browser they come with."""

    signal: Literal["gpc"]
    on: Annotated[bool, msgspec.Meta(description="Set, or lift; lifting brings no grant back.")]


class ErasureRequest(PersonRequest, forbid_unknown_fields=True, frozen=True):
    """Whom to erase; `confirm` says that the call means it."""

    confirm: Literal["erase everything"]


@dataclass(frozen=True, slots=True)
class SignalRecorded:
    """The signal is in force."""

    signal: str
    on: bool
    ledger_seq: int


@dataclass(frozen=True, slots=True)
class Receipts:
    """One receipt a choice (ISO/IEC TS 27560:2023), and the key they are checked with."""

    receipts: list[dict[str, Any]]
    public_key: str
