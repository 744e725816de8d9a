"""Decisions about many people at once, as arrays; each becomes an object only when somebody looks at it.

Five hundred people are read in about a millisecond; making five hundred objects would take half of that again, and most
readers only ask who is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from consent.policy import Decision, Reason, unavailable
from consent.purposes import Purpose, spec

__all__ = ["Decisions"]

_PURPOSES = tuple(Purpose)
_REASONS = tuple(Reason)


class Decisions(Sequence[Decision]):
    """One decision a person, in order; equal to any sequence of equal decisions.

    `table` is int64 `[n, 1 + 3 × purposes]`: ledger position, then (start, end, reason) a purpose. `which` is the place
    in `purposes` of the one decided about; None means the first, for everybody.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        purposes: tuple[Purpose, ...],
        table: np.ndarray,
        blobs: Sequence[bytes | None],
        *,
        sound: np.ndarray,
        allowed: np.ndarray,
        which: np.ndarray | None,
    ) -> None:
        self._purposes, self._table, self._which = purposes, table, which
        self._blobs, self._sound = blobs, sound
        self.allowed = allowed
        """bool `[n]`: who may be answered."""

    def __len__(self) -> int:
        return len(self.allowed)

    @overload
    def __getitem__(self, place: int) -> Decision: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Decision]: ...

    def __getitem__(self, place: int | slice) -> Decision | Sequence[Decision]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        purpose = self._purposes[0 if self._which is None else int(self._which[place])]
        if self._blobs[place] is None:
            return Decision(False, purpose, Reason.NO_RECORD, -1)
        why = int(self._table[place, 3 + 3 * _PURPOSES.index(purpose)])
        seq = int(self._table[place, 0])
        if self.allowed[place]:
            held = Reason.GRANTED if spec(purpose).needs_consent else Reason.LEGITIMATE_INTEREST
            return Decision(True, purpose, held, seq)
        if self._sound[place] and 0 <= why < len(_REASONS):
            return Decision(False, purpose, _REASONS[why], seq)
        return unavailable(purpose)

    def __iter__(self) -> Iterator[Decision]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"Decisions({list(self)})"
