"""The drift report: have the features of the people we may report on changed since four weeks ago?

Evidently compares each feature's distribution now with the one `weeks` ago, by the population stability index (a feature
has drifted above 0.2, the usual mark for a significant shift; Siddiqi, Credit Risk Scorecards, 2006). Only people whose
consent for a service holds now are in it, at most 5,000 drawn by a seed. Left out, and named, are columns without values
and times since a first event, which grow by four weeks for everyone in four weeks.
"""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aap.features.declarations import Aggregate, Entity, Op
from aap.features.retrieval import Retrieval
from aap.features.views import services, view_for
from aap.infra.atomic_files import write_atomically

__all__ = ["PSI_THRESHOLD", "DriftReport", "report_drift"]

WEEKS = 4
MOST_PEOPLE = 5_000
PSI_THRESHOLD = 0.2
_FEWEST_VALUES = 30
"""Below so many values on either side a distribution says nothing."""


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What drifted. `html` and `json` are the pages, one a service."""

    drifted: dict[str, dict[str, float]]
    """By service: feature → population stability index, for those above the mark."""
    compared: dict[str, int]
    """By service: features compared."""
    left_out: dict[str, list[str]]
    """By service: features with too few values to compare, or that age by themselves."""
    html: list[Path]
    json: list[Path]


def report_drift(retrieval: Retrieval, *, folder: Path, as_of: datetime, seed: int) -> DriftReport:
    """Compare now (`as_of`) with four weeks before, for every service; write one HTML and one JSON page each."""
    report = DriftReport({}, {}, {}, [], [])
    for name in services():
        before = _values(retrieval, name, at=as_of - timedelta(weeks=WEEKS), used_at=as_of, seed=seed)
        now = _values(retrieval, name, at=as_of, used_at=as_of, seed=seed)
        ageing = _ageing(name)
        columns = [
            c for c in now if c not in ageing and min(now[c].notna().sum(), before[c].notna().sum()) >= _FEWEST_VALUES
        ]
        report.left_out[name] = [c for c in now if c not in columns]
        report.compared[name] = len(columns)
        report.drifted[name] = _compare(now[columns], before[columns], stem=folder / f"drift-{name}", report=report)
    return report


def _ageing(service_name: str) -> set[str]:
    """Features that tell the time since something first happened."""
    view = view_for(Entity.USER, services()[service_name].purpose)
    return {f.name for f in view.numbers if isinstance(f, Aggregate) and f.op is Op.SINCE_FIRST}


def _values(retrieval: Retrieval, service: str, *, at: datetime, used_at: datetime, seed: int) -> pd.DataFrame:
    people = retrieval.people(service, as_of=used_at)
    if len(people) > MOST_PEOPLE:
        chosen = np.random.default_rng(seed).choice(len(people), MOST_PEOPLE, replace=False)
        people = [people[i] for i in sorted(chosen)]
    labels = pd.DataFrame({"user_key": people, "as_of": pd.Series([at] * len(people), dtype="datetime64[us, UTC]")})
    frame = retrieval.training_frame(labels, service=service, as_of=used_at)
    return frame.data[list(frame.features)]


def _compare(now: pd.DataFrame, before: pd.DataFrame, *, stem: Path, report: DriftReport) -> dict[str, float]:
    """Run Evidently over columns that have values, and keep its pages."""
    if now.empty or before.empty or not len(now.columns):
        return {}
    logging.getLogger("evidently").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, about constant columns, inside Evidently
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(numerical_columns=list(now.columns))
        preset = DataDriftPreset(num_method="psi", num_threshold=PSI_THRESHOLD)
        snapshot = Report([preset]).run(
            Dataset.from_pandas(now, data_definition=definition),
            Dataset.from_pandas(before, data_definition=definition),
        )
    found: dict[str, Any] = json.loads(snapshot.json())
    html, page = stem.with_suffix(".html"), stem.with_suffix(".json")
    write_atomically(html, snapshot.get_html_str(as_iframe=False).encode(), durable=False)
    write_atomically(page, json.dumps(found).encode(), durable=False)
    report.html.append(html)
    report.json.append(page)
    return _above_threshold(found)


def _above_threshold(found: dict[str, Any]) -> dict[str, float]:
    scores = {
        metric["config"]["column"]: float(metric["value"])
        for metric in found["metrics"]
        if "column" in metric.get("config", {}) and isinstance(metric["value"], int | float)
    }
    return {name: round(score, 4) for name, score in sorted(scores.items()) if score >= PSI_THRESHOLD}
