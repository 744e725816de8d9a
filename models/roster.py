"""Every model there is, by name. Adding one is a file and a line here."""

from __future__ import annotations

from models.anomaly import Anomaly
from models.churn import Churn
from models.contract import AnyModel
from models.declared import check_declared
from models.doing_anomaly import EventAnomaly, SessionAnomaly
from models.errors import UnknownModel
from models.popularity import Popularity
from models.recommendation import RecommendationModel
from models.segments import Segments

__all__ = ["MODELS", "model_class"]

MODELS: dict[str, type[AnyModel]] = {
    model.name: check_declared(model)
    for model in (Popularity, RecommendationModel, Churn, Segments, Anomaly, EventAnomaly, SessionAnomaly)
}


def model_class(name: str) -> type[AnyModel]:
    """The model called `name`; raises `UnknownModel` naming the ones there are."""
    if name not in MODELS:
        raise UnknownModel(f"No model {name!r}; choose one of: {', '.join(sorted(MODELS))}.")
    return MODELS[name]
