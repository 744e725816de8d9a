"""Sampling what is served: a share of the vectors handed out is kept, to be recomputed and compared later.

It is done here, in the process that serves, and not in the door to the features: there notebooks and reports read too,
nobody is there to start and stop a writer, and the fast path of reading would pay. Here only a vector that is drawn
costs anything before the answer; rows are written in the background, and dropped and counted when there is no room.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import log
from pathlib import Path
from typing import Protocol

from aap.features.datasets import Vectors
from aap.features.quality.served_vectors import SCHEMA, rows_of
from aap.infra.parquet_writer import Batches

__all__ = ["SampledFeatures", "ServedSample"]

_ROOM = 20_000


class Features(Protocol):
    """What is needed of `aap.features.retrieval.Retrieval`."""

    def online_vectors(
        self, user_keys: Sequence[str], *, service: str, now: datetime, **request: Mapping[str, Sequence[float]]
    ) -> Vectors: ...


class ServedSample:
    """The sample under `folder`: each vector is kept with probability `rate`; written every few seconds."""

    def __init__(self, folder: Path, *, rate: float, every_s: float = 2.0) -> None:
        self._batches = Batches(folder, SCHEMA, every_s=every_s, room=_ROOM)
        self._rate = rate
        self._random = random.Random()
        self._lock = threading.Lock()
        self._until_next = self._gap()

    @property
    def dropped(self) -> int:
        """Drawn vectors lost for want of room."""
        return self._batches.dropped

    def offer(self, user_keys: Sequence[str], vectors: Vectors, *, service: str, now: datetime) -> None:
        """Keep those of `vectors` that are drawn."""
        places = self._draw(len(user_keys))
        if places:
            self._batches.add(rows_of(vectors, user_keys, places=places, service=service, now=now))

    def flush(self) -> None:
        """Write what is waiting."""
        self._batches.flush()

    def close(self) -> None:
        """Write what is waiting and stop."""
        self._batches.close()

    def _draw(self, count: int) -> list[int]:
        """Which of `count` vectors are kept. The gap to the next is drawn, not each vector: most calls only subtract."""
        with self._lock:
            places = []
            while self._until_next < count:
                places.append(int(self._until_next))
                self._until_next += 1 + self._gap()
            self._until_next -= count
        return places

    def _gap(self) -> float:
        """Vectors let pass before the next is kept: geometric, so that each is kept with the same probability."""
        if self._rate <= 0:
            return float("inf")
        if self._rate >= 1:
            return 0
        return int(log(1.0 - self._random.random()) / log(1.0 - self._rate))


class SampledFeatures:
    """The features behind it, with a share of what they give offered to `sample`."""

    def __init__(self, features: Features, sample: ServedSample) -> None:
        self._features, self._sample = features, sample

    def online_vectors(
        self,
        user_keys: Sequence[str],
        *,
        service: str,
        now: datetime,
        **request: Mapping[str, Sequence[float]],
    ) -> Vectors:
        """What the features behind it say."""
        found = self._features.online_vectors(user_keys, service=service, now=now, **request)
        self._sample.offer(user_keys, found, service=service, now=now)
        return found
