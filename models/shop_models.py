"""The shop's models: each class with the function that judges it. Adding a model is a file and a line here."""

from __future__ import annotations

from models.anomaly import Anomaly
from models.anomaly_trial import evaluate as evaluate_anomaly
from models.churn import Churn
from models.churn_trial import compare as compare_churn, evaluate as evaluate_churn
from models.doing_anomaly import EventAnomaly, SessionAnomaly
from models.popularity import Popularity
from models.popularity_evaluation import evaluate as evaluate_popularity
from models.recommendation import RecommendationModel
from models.recommendation_trial import evaluate as evaluate_recommendation
from models.roster import ModelDeclaration
from models.segments import Segments
from models.segments_trial import evaluate as evaluate_segments

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
