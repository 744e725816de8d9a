"""What can go wrong with a model.

ModelError
├── BadParameters      training.yaml says something that can't be used
├── UnknownModel       no model has this name
├── UnusableModel      a model declared with no purpose, or to tell what nobody may tell
├── TooFewRows         not enough to learn from, or to judge on
├── OneClassOnly       every label is the same
├── Leak               what was to be learned from knows the future
├── UnusableTable      a table of somebody's that can't be judged on
├── SchemaMismatch     the features given are not the ones the model was fitted on
├── UnknownStrategy    a recommendation strategy that does not exist
├── CorruptArtifact    a stored model is not what was stored
├── UnsoundLineage     nobody vouches for what a version was made of, or it may not be used any more
├── NoChampion         nothing has been promoted, or there is nothing to roll back to
├── UnknownVersion     the registry has no such version
└── StoreUnavailable   the registry can't be reached
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BadParameters",
    "CorruptArtifact",
    "Leak",
    "ModelError",
    "NoChampion",
    "OneClassOnly",
    "SchemaMismatch",
    "StoreUnavailable",
    "TooFewRows",
    "UnknownModel",
    "UnknownStrategy",
    "UnknownVersion",
    "UnsoundLineage",
    "UnusableModel",
    "UnusableTable",
]


class ModelError(Exception):
    """Any failure of this package; the message is one sentence for a person."""


class BadParameters(ModelError, ValueError):
    """training.yaml is missing, unreadable, or holds a value that can't be used."""


class UnknownModel(ModelError, KeyError):
    """No model has this name."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnusableModel(ModelError, ValueError):
    """A model with no purpose behind it, or that would tell what this platform refuses to know."""


class TooFewRows(ModelError, ValueError):
    """There is less data than the model needs."""

    def __init__(self, what: str, *, found: int, needed: int, advice: str = "import more history") -> None:
        super().__init__(f"{what}: found {found}, need at least {needed}; {advice}.")


class OneClassOnly(ModelError, ValueError):
    """Every label is the same, so there is nothing to tell apart."""

    def __init__(self, label: str, *, value: object, rows: int) -> None:
        super().__init__(
            f"Every one of {rows} rows has {label}={value}; choose another horizon or import more history."
        )


class Leak(ModelError, ValueError):
    """What a model was to learn from holds something that could not be known then."""


class UnusableTable(ModelError, ValueError):
    """A table that was named can't be read, or lacks what is needed to judge on it."""


class SchemaMismatch(ModelError, ValueError):
    """The features given are not those the model was fitted on, in the same order."""

    def __init__(self, model: str, *, expected: Sequence[str], given: Sequence[str]) -> None:
        missing = [name for name in expected if name not in given]
        extra = [name for name in given if name not in expected]
        detail = f"missing {missing}, unexpected {extra}" if missing or extra else "the same names in another order"
        super().__init__(
            f"Model {model} expects {len(expected)} features, was given {len(given)} ({detail}); retrain it."
        )


class UnknownStrategy(ModelError, ValueError):
    """A recommendation strategy that does not exist."""


class CorruptArtifact(ModelError):
    """A stored model's files are not the ones that were registered."""


class UnsoundLineage(ModelError):
    """What a version was made of is missing, altered, for a purpose that changed, or not under this ledger."""


class NoChampion(ModelError, LookupError):
    """No version of the model has been promoted, or none came before the champion."""


class UnknownVersion(ModelError, LookupError):
    """The registry has no such version."""


class StoreUnavailable(ModelError, ConnectionError):
    """The registry's database or artifact folder can't be reached."""
