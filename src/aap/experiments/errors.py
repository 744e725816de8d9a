"""What can go wrong with experiments.

ExperimentError
├── FlagsUnusable     flags.json has a mistake; the message says where
├── PlanUnusable      experiments.yaml has a mistake; the message says where
├── UnknownFlag       nobody declared a flag of that name
├── UnknownMetric     nobody declared a metric of that name, or it may not be counted
└── MissingUser       an assignment was asked for nobody
"""

from __future__ import annotations

__all__ = ["ExperimentError", "FlagsUnusable", "MissingUser", "PlanUnusable", "UnknownFlag", "UnknownMetric"]


class ExperimentError(Exception):
    """Anything that goes wrong with experiments; the message is one sentence for a person."""


class FlagsUnusable(ExperimentError, ValueError):
    """The flag file can't be used."""


class PlanUnusable(ExperimentError, ValueError):
    """The plan of an experiment can't be used."""


class UnknownFlag(ExperimentError, ValueError):
    """A flag that is not in the file."""


class UnknownMetric(ExperimentError, ValueError):
    """A metric that is not declared."""


class MissingUser(ExperimentError, ValueError):
    """No user was named: bucketing nobody would silently send everyone to one arm."""
