"""A sample of questions put to every engine: whose values of one view, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from aap.events.archive import Archive
from aap.features.offline.build import Standing
from aap.features.views import View

__all__ = ["Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Whose values of one view are asked for, and when. `keys[i]` at `moments[i]` (microseconds) is one question."""

    view: View
    keys: tuple[str, ...]
    moments: np.ndarray
    archive: Archive
    standing: Standing
    """Of the people asked about, and nobody else."""
    as_of: datetime
    """What had been received by then may count."""
