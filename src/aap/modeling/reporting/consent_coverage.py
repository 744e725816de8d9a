"""The price of consent: what a model loses when fewer people let it learn from them.

A model is fitted on the rows of those who agree, and judged on the same people each time, so that nothing changes but
what was learned from. Who agrees at 20 % agrees at 40 % too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from aap.features.datasets import Interactions, TrainingFrame
from aap.modeling.base import Parameters, Retrieval
from aap.modeling.catalog import evaluate, model_class
from aap.modeling.errors import OneClassOnly, TooFewRows
from aap.modeling.evaluation.plots import lines

__all__ = ["SHARES", "Agreeing", "agreeing", "plot", "price"]

SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)


@dataclass(frozen=True, slots=True)
class Agreeing:
    """The retrieval door, opened for some people only: the others might as well not be there."""

    door: Retrieval
    them: frozenset[str]

    def people(self, service: str, *, as_of: datetime) -> list[str]:
        """Those of them who may be used."""
        return [key for key in self.door.people(service, as_of=as_of) if key in self.them]

    def training_frame(self, labels: pd.DataFrame, *, service: str, as_of: datetime) -> TrainingFrame:
        """Their rows of `labels`, which has `user_key`."""
        return self.door.training_frame(labels[labels["user_key"].isin(self.them)], service=service, as_of=as_of)

    def interactions(
        self, service: str, *, as_of: datetime, since: datetime | None = None, until: datetime | None = None
    ) -> Interactions:
        """Their purchase lines."""
        found = self.door.interactions(service, as_of=as_of, since=since, until=until)
        theirs = pc.is_in(found.table["user_key"], value_set=pa.array(sorted(self.them), pa.string()))
        return Interactions(found.table.filter(theirs), found.manifest)

    def catalogue(self) -> pa.Table:
        """The same for everybody."""
        return self.door.catalogue()


def agreeing(people: Collection[str], share: float) -> frozenset[str]:
    """A `share` (0 to 1) of `people`, drawn by the SHA-256 of their keys, so that a smaller share is part of a larger."""
    drawn = sorted(people, key=lambda key: sha256(key.encode()).hexdigest())
    return frozenset(drawn[: round(share * len(drawn))])


def price(
    name: str,
    retrieval: Retrieval,
    *,
    cut: datetime,
    parameters: Parameters,
    seed: int,
    metrics: Sequence[str],
    consented: Collection[str] | None = None,
    shares: Sequence[float] = SHARES,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """`metrics` of the model called `name` at `cut`, by the percentage of people it learned from, as `{"100": {…}, …}`.

    Everybody whose data `retrieval` gives is judged on. With `consented`, those who said yes are a point of their own,
    `consented`, beside their `consented_percent`. Where too few agree for the model to be fitted, a metric is None.
    """
    tell = progress or (lambda stage: None)
    kind = model_class(name)
    until = cut + timedelta(days=parameters.horizon_days)
    everyone = retrieval.people(kind.service, as_of=until)
    groups = {f"{share:.0%}".rstrip("%"): agreeing(everyone, share) for share in shares}
    if consented is not None:
        groups["consented"] = frozenset(consented) & frozenset(everyone)
    whole = kind.examples(retrieval, until=cut, as_of=until, parameters=parameters)
    held_out = kind.held_out(retrieval, cut=cut, until=until, as_of=until, parameters=parameters)
    found: dict[str, Any] = {}
    for told, them in groups.items():
        tell(f"{name}, learned from {told}{' %' if told.isdigit() else ''}")
        try:
            past = kind.examples(Agreeing(retrieval, them), until=cut, as_of=until, parameters=parameters)
            model = kind.fit(past, parameters=parameters, seed=seed)
            made = evaluate(model, held_out=held_out, train=whole, parameters=parameters, seed=seed)
            found[told] = {metric: made.metrics[metric] for metric in metrics}
        except (TooFewRows, OneClassOnly):
            found[told] = dict.fromkeys(metrics)
    if consented is not None:
        found["consented_percent"] = 100 * len(groups["consented"]) / max(1, len(everyone))
    return found


def plot(found: Mapping[str, Any], *, title: str, metric: str, name: str) -> Figure:
    """How `metric` (called `name`) falls as fewer agree; who said yes is a point apart. `found` is what `price` gave."""
    shares = sorted(int(told) for told in found if told.isdigit() and found[told][metric] is not None)
    points = {}
    if found.get("consented", {}).get(metric) is not None:
        points["those who said yes"] = (found["consented_percent"], found["consented"][metric])
    curve = [(float(share), found[str(share)][metric]) for share in shares]
    return lines({"a share drawn by chance": curve}, points=points, title=title, across="people who agree, %", up=name)
