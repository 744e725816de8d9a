"""A planted leak is found, and named."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import timedelta

import pandas as pd
import pytest

from aap.features.datasets import TrainingFrame
from aap.modeling.errors import Leak
from aap.modeling.leakage import changed_columns, require_known, too_telling
from aap.modeling.temporal_split import global_split
from models.churn.model import LABEL, Churn
from models.recommendation.model import RecommendationModel
from tests.unit.modeling.conftest import AS_OF
from tests.unit.modeling.shop import Shop

LEAK = "days_to_next_purchase"


@dataclass(frozen=True, slots=True)
class LeakyShop(Shop):
    """A shop whose door hands out one feature from after the row's moment: the days until the next purchase."""

    def training_frame(self, labels: pd.DataFrame, *, service: str, as_of) -> TrainingFrame:
        frame = Shop.training_frame(self, labels, service=service, as_of=as_of)
        lines = (
            self.lines[["user_key", "occurred_at"]]
            .sort_values("occurred_at")
            .astype({"occurred_at": frame.data["as_of"].dtype})
        )
        rows = frame.data[["user_key", "as_of"]].assign(n=range(len(frame.data))).sort_values("as_of")
        nexts = pd.merge_asof(rows, lines, left_on="as_of", right_on="occurred_at", by="user_key", direction="forward")
        ahead = (nexts["occurred_at"] - nexts["as_of"]).dt.total_seconds() / 86_400
        data = frame.data.assign(**{LEAK: pd.Series(ahead.to_numpy(), index=nexts["n"]).sort_index().to_numpy()})
        return dataclasses.replace(frame, data=data, features=(*frame.features, LEAK))


def churn_frames(shop, parameters):
    cut = global_split(AS_OF, horizon_days=parameters.horizon_days).cut
    blind = dataclasses.replace(shop, lines=shop.lines[shop.lines["occurred_at"] <= cut])
    return cut, *(Churn.examples(door, until=cut, as_of=AS_OF, parameters=parameters) for door in (shop, blind))


def test_a_feature_from_after_the_cut_is_named_by_hiding_the_future(shop, settings):
    leaky = LeakyShop(shop.lines)
    _, seen, blind = churn_frames(leaky, settings.models["churn"])
    assert changed_columns(seen, blind) == (LEAK,)


def test_a_feature_that_has_seen_the_label_is_named_before_anything_is_fitted(shop, settings):
    parameters = settings.models["churn"]
    cut, seen, _ = churn_frames(LeakyShop(shop.lines), parameters)
    filled = dataclasses.replace(seen, data=seen.data.fillna({LEAK: 999.0}))
    assert too_telling(filled, label=LABEL) == (LEAK,)
    with pytest.raises(Leak, match=rf"^{LEAK} alone tells churned"):
        require_known(filled, cut=cut, horizon_days=parameters.horizon_days, label=LABEL)


def test_honest_features_pass_both_checks(shop, settings):
    cut, seen, blind = churn_frames(shop, settings.models["churn"])
    assert changed_columns(seen, blind) == ()
    require_known(seen, cut=cut, horizon_days=28, label=LABEL)


def test_a_label_that_was_not_known_yet_is_refused(shop, settings):
    cut, seen, _ = churn_frames(shop, settings.models["churn"])
    with pytest.raises(Leak, match=r"\d+ rows have labels of 28 days that were not known at the cut"):
        require_known(seen, cut=cut - timedelta(days=7), horizon_days=28, label=LABEL)


def test_purchase_lines_after_the_cut_are_refused(shop, settings):
    parameters = settings.models["recommendation"]
    cut = global_split(AS_OF, horizon_days=28).cut
    late = RecommendationModel.examples(shop, until=cut + timedelta(days=1), as_of=AS_OF, parameters=parameters)
    with pytest.raises(Leak, match=r"\d+ purchase lines are later than the cut"):
        require_known(late, cut=cut, horizon_days=28)
