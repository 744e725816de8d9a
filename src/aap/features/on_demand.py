"""Request-time features: numbers worked out when they are asked for, from what the asker knows and what is stored.

A value of the request is something only the moment knows: what lies in the basket, say. The function is pure and is given
whole columns, the same way for a training frame (where the request's values are columns of the labels) and online; so
the two can't differ. It belongs to one purpose like any value, and reads only features stored for that purpose.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aap.consent.purposes import Purpose
from aap.features.datasets import Status
from aap.features.declarations import check_name, check_purposes, check_topic
from aap.features.errors import RequestIncomplete, UnusableDeclaration

__all__ = ["OnRequest", "Reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnRequest:
    """A feature computed by `function` from columns float64 `[n]`: those of the request, then stored features.

    The function's parameters are called exactly as `request` and `features` say, in that order. It answers float64
    `[n]`, NaN where the value is null, each row from that row's inputs alone.
    """

    name: str
    function: Callable[..., np.ndarray]
    request: tuple[str, ...]
    features: tuple[str, ...]
    purposes: frozenset[Purpose]
    description: str
    unit: str

    def __post_init__(self) -> None:
        check_name(self.name)
        check_purposes(self.name, self.purposes)
        check_topic(self.name, self.description, told=False)
        inputs = (*self.request, *self.features)
        if not self.request:
            raise UnusableDeclaration(
                f"Feature {self.name!r} reads nothing of the request; a `Ratio` or an `Aggregate` is stored and faster."
            )
        if len(set(inputs)) < len(inputs):
            raise UnusableDeclaration(f"Feature {self.name!r} names an input twice: {', '.join(inputs)}.")
        takes = tuple(inspect.signature(self.function).parameters)
        if takes != inputs:
            raise UnusableDeclaration(
                f"Feature {self.name!r}: its function takes {', '.join(takes) or 'nothing'}, "
                f"but {', '.join(inputs)} is declared; the two must be the same."
            )


@dataclass(frozen=True, slots=True)
class Reading:
    """How the numbers of a service come about: which are stored, which are computed on request, in what order."""

    features: tuple[str, ...]
    stored: tuple[str, ...]
    """What is read from the store: features of the service, and inputs of those computed."""
    computed: tuple[OnRequest, ...]

    @classmethod
    def of(cls, features: Sequence[str], computed: Sequence[OnRequest]) -> Reading:
        """The reading of a service's `features`, of which those in `computed` are worked out on request."""
        made = {c.name for c in computed}
        inputs = [name for c in computed for name in c.features]
        return cls(
            tuple(features), tuple(dict.fromkeys([*(f for f in features if f not in made), *inputs])), tuple(computed)
        )

    def request(self, given: Mapping[str, Sequence[float]], *, rows: int, where: str) -> dict[str, np.ndarray]:
        """The values of the request that are read, float64 `[rows]` by name.

        Raises `RequestIncomplete` for one that is missing, isn't numbers, or is not as long as there are rows; `where`
        says what was looked in.
        """
        columns: dict[str, np.ndarray] = {}
        for feature in self.computed:
            for name in feature.request:
                if name not in given:
                    raise RequestIncomplete(f"Feature {feature.name!r} needs {name!r}, which {where} doesn't have.")
                try:
                    columns[name] = np.asarray(given[name], dtype=np.float64)
                except (TypeError, ValueError):
                    raise RequestIncomplete(f"{name!r} in {where} holds something that is no number.") from None
                if columns[name].shape != (rows,):
                    raise RequestIncomplete(f"{name!r} in {where} must have one value for each of the {rows} rows.")
        return columns

    def assemble(
        self, values: np.ndarray, status: np.ndarray, request: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values and status `[n, n_features]` in the service's order, from those of `stored`."""
        columns = {name: (values[:, i], status[:, i]) for i, name in enumerate(self.stored)}
        for feature in self.computed:
            columns[feature.name] = _evaluate(feature, request, columns)
        picked = [columns[name] for name in self.features]
        return np.column_stack([v for v, _ in picked]), np.column_stack([s for _, s in picked])


def _evaluate(
    feature: OnRequest, request: Mapping[str, np.ndarray], stored: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Values and status of `feature`. Where an input is denied, not found or expired, so is the result.

    An infinite result is null: no model is to meet one.
    """
    inputs = {name: request[name] for name in feature.request} | {name: stored[name][0] for name in feature.features}
    rows = len(next(iter(inputs.values())))
    with np.errstate(all="ignore"):
        found = np.array(feature.function(**inputs), dtype=np.float64)
    if found.shape != (rows,):
        raise UnusableDeclaration(
            f"Feature {feature.name!r}: its function answered shape {found.shape} for {rows} rows; "
            "it must give one value a row."
        )
    found[~np.isfinite(found)] = np.nan
    status = np.isnan(found).astype(np.uint8) * Status.NULL
    for name in feature.features:
        status = np.where(stored[name][1] > Status.NULL, np.maximum(stored[name][1], status), status)
    found[status != Status.PRESENT] = np.nan
    return found, status.astype(np.uint8)
