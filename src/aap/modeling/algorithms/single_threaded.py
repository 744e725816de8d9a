"""One thread for linear algebra: the same sums in the same order everywhere, and no contention between workers.

With two busy cores, OpenBLAS's own threads made a batch of recommendations ten times slower than one thread: they spin
while they wait for each other, and these products are too small to share.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg
import sklearn.cluster  # noqa: F401  # loads the OpenMP that k-means uses
from threadpoolctl import ThreadpoolController

__all__ = ["one_thread"]


def one_thread() -> AbstractContextManager[Any]:
    """A block in which BLAS and OpenMP use one thread, for the whole process; entering costs microseconds."""
    return _controller().limit(limits=1)


@cache
def _controller() -> ThreadpoolController:
    """Finding the libraries is slow, so it is done once, after those that matter have been loaded."""
    scipy.linalg.cho_factor(np.eye(2))
    return ThreadpoolController()
