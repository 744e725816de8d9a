"""What can go wrong in a pipeline.

PipelineError
└── StepFailed    a step of the retrain failed; run the command again to go on from there
"""

from __future__ import annotations

__all__ = ["PipelineError", "StepFailed"]


class PipelineError(Exception):
    """Anything that goes wrong in a pipeline; the message is one sentence for a person."""


class StepFailed(PipelineError):
    """A step of the retrain failed."""
