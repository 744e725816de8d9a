"""What a service reads online: its columns among what was read of a view, and what is computed of them at the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from types import MappingProxyType

import numpy as np
import redis

from aap.features.datasets import Vectors
from aap.features.declarations import Service
from aap.features.online import reader
from aap.features.views import View, reading

__all__ = ["vectors", "vectors_of"]


def vectors(
    client: redis.Redis,
    view: View,
    asked: Service,
    user_keys: Sequence[str],
    *,
    now: datetime,
    request: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Vectors:
    """What `asked` reads of `view` for `user_keys` at `now`; raises `OnlineStoreUnavailable`, `RequestIncomplete`."""
    read = reader.read(client, view, user_keys, purposes=asked.answering_purposes, now=now)
    return vectors_of(read, view, asked, request=request)


def vectors_of(
    read: reader.OnlineValues,
    view: View,
    asked: Service,
    *,
    request: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Vectors:
    """The columns of `asked` among what was read of `view`, and what is computed of them; raises `RequestIncomplete`."""
    values, status, told = read.values, read.status, {}
    if asked.features != view.names:
        how = reading(asked, view.names)
        picked = _places(how.stored, view.names)
        values, status = values.take(picked, axis=1), status.take(picked, axis=1)
        if how.computed:
            told = how.request(request, rows=len(read.values), where="the request")
            values, status = how.assemble(values, status, told)
    lists = {f.name: read.sequences[i] for i, f in enumerate(view.sequences) if f.name in asked.sequences}
    return Vectors(asked.features, values, status, read.decisions, lists, read.as_of, read.grant_start, told)


@cache
def _places(names: tuple[str, ...], among: tuple[str, ...]) -> np.ndarray:
    """Where each of `names` is `among` others."""
    return np.array([among.index(name) for name in names], dtype=np.intp)
