"""Decisions about many people at once, as arrays; each becomes an object only when somebody looks at it.

Five hundred people are read in about a millisecond; making five hundred objects would take half of that again, and most
readers only ask who is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from aap.consent.policy import Decision, Reason, unavailable
from aap.consent.purposes import Purpose, spec

__all__ = ["Decisions"]

_PURPOSES = tuple(Purpose)
_REASONS = tuple(Reason)
_PERMITTING = (Reason.GRANTED, Reason.LEGITIMATE_INTEREST)


class Decisions(Sequence[Decision]):
    """One decision a person, in order; equal to any sequence of equal decisions.

    `table` is int64 `[n, words]`: projections (`projection.ROW`), which begin with the ledger position and a byte a purpose
    for the reason. `which` is the place in `purposes` of the one decided about; None means the first, for everybody.
    `known` says who has a projection, `sound` whose has the right shape; None means everybody.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        purposes: tuple[Purpose, ...],
        table: np.ndarray,
        *,
        allowed: np.ndarray,
        which: np.ndarray | None = None,
        known: np.ndarray | None = None,
        sound: np.ndarray | None = None,
    ) -> None:
        self._purposes, self._table, self._which = purposes, table, which
        self._known, self._sound = known, sound
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
        if self._known is not None and not self._known[place]:
            return Decision(False, purpose, Reason.NO_RECORD, -1)
        seq = int(self._table[place, 0])
        if self.allowed[place]:
            held = Reason.GRANTED if spec(purpose).needs_consent else Reason.LEGITIMATE_INTEREST
            return Decision(True, purpose, held, seq)
        why = int(self._table[place].tobytes()[8 + _PURPOSES.index(purpose)])
        if (self._sound is None or self._sound[place]) and why < len(_REASONS) and _REASONS[why] not in _PERMITTING:
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
