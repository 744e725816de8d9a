"""The shop's models: each class with the function that judges it. Adding a model is a file and a line here."""

from __future__ import annotations

from aap.modeling.catalog import ModelDeclaration
from models.anomaly.customers import Anomaly
from models.anomaly.evaluation import evaluate as evaluate_anomaly
from models.anomaly.transactions import EventAnomaly, SessionAnomaly
from models.churn.evaluation import compare as compare_churn, evaluate as evaluate_churn
from models.churn.model import Churn
from models.popularity.evaluation import evaluate as evaluate_popularity
from models.popularity.model import Popularity
from models.recommendation.evaluation import evaluate as evaluate_recommendation
from models.recommendation.model import RecommendationModel
from models.segments.evaluation import evaluate as evaluate_segments
from models.segments.model import Segments

__all__ = ["MODELS"]

MODELS = (
    ModelDeclaration(Popularity, evaluate=evaluate_popularity),
    ModelDeclaration(RecommendationModel, evaluate=evaluate_recommendation),
    ModelDeclaration(Churn, evaluate=evaluate_churn, compare=compare_churn),
    ModelDeclaration(Segments, evaluate=evaluate_segments),
    ModelDeclaration(Anomaly, evaluate=evaluate_anomaly),
    ModelDeclaration(EventAnomaly, evaluate=evaluate_anomaly),
    ModelDeclaration(SessionAnomaly, evaluate=evaluate_anomaly),
)
