"""The price of consent: who is learned from, who is judged on, and what is told when too few agree."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from aap.modeling.reporting.consent_coverage import Agreeing, agreeing, plot, price
from aap.modeling.reporting.model_report import judged
from models.anomaly.customers import Anomaly
from tests.unit.modeling.conftest import AS_OF

CUT = AS_OF - timedelta(days=28)


def asked(settings, name="anomaly", **changes):
    return dataclasses.replace(settings.models[name], **changes)


def test_a_smaller_share_is_part_of_a_larger_one_and_everyone_is_everyone():
    people = [f"person-{n}" for n in range(50)]
    shares = [agreeing(people, share) for share in (0.2, 0.4, 1.0)]
    assert [len(s) for s in shares] == [10, 20, 50]
    assert shares[0] < shares[1] < shares[2] == set(people)
    assert agreeing(people[::-1], 0.2) == shares[0]


def test_nothing_of_those_who_did_not_agree_comes_through_the_door(shop, settings):
    everyone = shop.people("churn", as_of=AS_OF)
    them = agreeing(everyone, 0.3)
    door = Agreeing(shop, them)
    assert set(door.people("churn", as_of=AS_OF)) == them
    assert set(door.interactions("recommendation", as_of=AS_OF).table["user_key"].to_pylist()) <= them
    frame = Anomaly.examples(door, until=CUT, as_of=AS_OF, parameters=asked(settings))
    assert set(frame.data["user_key"]) == them


def test_with_everybody_it_is_the_figure_of_the_report_and_who_said_yes_is_a_point_of_their_own(shop, settings):
    parameters, everyone = asked(settings), shop.people("anomaly", as_of=AS_OF)
    found = price(
        "anomaly", shop, cut=CUT, parameters=parameters, seed=3, metrics=("roc_auc",), shares=(1.0, 0.5),
        consented=agreeing(everyone, 0.5),
    )  # fmt: skip
    plain = judged("anomaly", shop, cut=CUT, parameters=parameters, seed=3)
    assert found["100"]["roc_auc"] == plain.metrics["roc_auc"]
    assert found["50"] == found["consented"] != found["100"]
    assert found["consented_percent"] == pytest.approx(50.0, abs=0.5)


def test_too_few_who_agree_is_no_figure_and_no_point_in_the_plot(shop, settings):
    parameters = asked(settings, min_rows=200)
    found = price("anomaly", shop, cut=CUT, parameters=parameters, seed=3, metrics=("roc_auc",), shares=(1.0, 0.1))
    assert found["10"] == {"roc_auc": None}
    axes = plot(found, title="t", metric="roc_auc", name="n").axes[0]
    assert axes.lines[0].get_xdata().tolist() == [100.0]
    assert axes.get_xlabel() == "people who agree, %"
