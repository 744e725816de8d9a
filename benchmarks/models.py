"""What the models cost: fitting each on everything known at a cut, and answering one person from memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from aap.modeling.base import Retrieval
from aap.modeling.catalog import model_class
from aap.modeling.interactions import Purchases
from aap.modeling.training_config import TrainingSettings
from benchmarks.support.environment import describe_machine, percentile_ms
from models.churn.features import columns
from models.recommendation.model import STRATEGIES

__all__ = ["FITTED", "Costs", "run"]

FITTED = ("recommendation", "churn", "segments", "anomaly")
_PEOPLE = 300


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds and milliseconds, wall-clock and of CPU."""

    fit_s: dict[str, float]
    """By model: reading its examples and fitting it once."""
    fit_cpu_s: dict[str, float]
    peak_gb: float
    """Most memory the process held, at the end of all fits."""
    one_p50_ms: dict[str, float]
    """One person's answer, by what is asked."""
    one_cpu_ms: dict[str, float]
    """The same, mean CPU."""
    batch_ms: dict[str, float]
    """Per person, hundreds of people at once."""
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def run(
    retrieval: Retrieval, *, settings: TrainingSettings, cut: datetime, progress: Callable[[str], None] | None = None
) -> Costs:
    """Fit the four models on what was known at `cut` and ask them about people of then."""
    tell = progress or (lambda stage: None)
    wall, cpu = dict[str, float](), dict[str, float]()
    models, data = dict[str, Any](), dict[str, Any]()
    for name in FITTED:
        tell(f"fit {name}")
        kind, parameters = model_class(name), settings.models[name]
        began, spent = time.perf_counter(), time.process_time()
        data[name] = kind.examples(retrieval, until=cut, as_of=cut, parameters=parameters)
        models[name] = kind.fit(data[name], parameters=parameters, seed=settings.seed)
        wall[name], cpu[name] = time.perf_counter() - began, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    tell("answer")
    asked = _recommending(models["recommendation"], data["recommendation"], settings) | _churning(
        models["churn"], data["churn"].values[:_PEOPLE]
    )
    one = {name: [_timed(ask, [i]) for i in range(_PEOPLE)] for name, ask in asked.items()}
    batch = {name: _timed(ask, list(range(_PEOPLE)))[0] * 1_000 / _PEOPLE for name, ask in asked.items()}
    return Costs(
        fit_s={name: round(s, 1) for name, s in wall.items()},
        fit_cpu_s={name: round(s, 1) for name, s in cpu.items()},
        peak_gb=round(peak, 2),
        one_p50_ms={name: percentile_ms([w for w, _ in times], 50) for name, times in one.items()},
        one_cpu_ms={name: round(1_000 * float(np.mean([c for _, c in times])), 4) for name, times in one.items()},
        batch_ms={name: round(ms, 4) for name, ms in batch.items()},
        machine=describe_machine(),
    )


_Ask = Callable[[Sequence[int]], object]
"""Asks about the people at these places."""


def _recommending(model: Any, data: Any, settings: TrainingSettings) -> dict[str, _Ask]:
    limit: int = settings.models["recommendation"].sequence_length  # type: ignore[attr-defined]
    bought = Purchases.of(data)
    items, baskets = bought.sequences(limit=limit), bought.basket_sequences(limit=limit)
    people = list(items)[:: max(1, len(items) // _PEOPLE)]
    return {f"top 10, {strategy}": _top(model, items, baskets, people, strategy) for strategy in STRATEGIES}


def _top(
    model: Any, items: dict[str, list[str]], baskets: dict[str, list[str]], people: Sequence[str], strategy: str
) -> _Ask:
    def ask(places: Sequence[int]) -> object:
        some = [people[i % len(people)] for i in places]
        return model.recommend([items[k] for k in some], baskets=[baskets[k] for k in some], n=10, strategy=strategy)

    return ask


def _churning(model: Any, values: np.ndarray) -> dict[str, _Ask]:
    wide, _ = columns(values, model.features, horizon_days=model.horizon_days)
    return {
        "churn, booster alone": lambda rows: model.booster.inplace_predict(wide[rows], predict_type="margin"),
        "churn, with its columns and calibration": lambda rows: model.score(values[rows]),
        "churn, reasons": lambda rows: model.reasons(values[rows]),
    }


def _timed(ask: _Ask, places: Sequence[int]) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    began, spent = time.perf_counter(), time.process_time()
    ask(places)
    return time.perf_counter() - began, time.process_time() - spent
