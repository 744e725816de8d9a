"""Who said yes among the demo's people, as the drawn choices have it."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd

from aap.config import load_settings
from aap.infra.paths import Layout
from aap.security.pseudonyms import load_pseudonyms
from pipelines.demo.full_consent import CUT, who_said_yes

FRAUD = "essential.fraud_detection"


def test_who_said_yes_gave_every_purpose_and_took_none_back(tmp_path, monkeypatch):
    monkeypatch.setenv("AAP_HOME", str(tmp_path))
    settings = load_settings(tmp_path)
    them = who_said_yes(settings, at=CUT)
    choices = pd.read_csv(tmp_path / "choices.csv", dtype=str)
    choices = choices[pd.to_datetime(choices["indicated_at"], format="ISO8601") <= CUT]
    keys = load_pseudonyms(Layout(settings.home)).user_keys(choices["household_id"].tolist())
    choices = choices.assign(key=keys)
    assert not them("churn") & set(choices["key"][choices["status"].isin(["refused", "withdrawn"])
                                   & choices["purpose"].isin(["marketing.retention", "train_ai_system"])])  # fmt: skip
    everyone = set(choices["key"])
    assert 0.4 < len(them("churn")) / len(everyone) < 0.7
    objectors = set(choices["key"][choices["purpose"] == FRAUD])
    assert objectors
    assert them("anomaly") == everyone - objectors


def test_before_anybody_was_asked_nobody_has_said_yes(tmp_path, monkeypatch):
    monkeypatch.setenv("AAP_HOME", str(tmp_path))
    them = who_said_yes(load_settings(tmp_path), at=datetime(2016, 11, 1, tzinfo=UTC))
    assert them("recommendation") == frozenset()
