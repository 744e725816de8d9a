"""Training frames joined by Spark: the very rows and values that one machine joins."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from aap.config import Settings
from aap.consent.purposes import Purpose
from aap.features.declarations import Entity
from aap.features.engines.base import Engine
from aap.features.errors import EngineUnavailable
from aap.features.offline.point_in_time_join import point_in_time_join
from aap.features.offline.spark_point_in_time_join import spark_join
from aap.features.online.reader import to_micros
from aap.features.retrieval import open_retrieval
from aap.features.views import view_for
from tests.unit.features.store_room import AS_OF, ASKED, CUSTOMERS, RETENTION, StoreRoom


@pytest.mark.spark
@pytest.mark.parametrize("entity", [Entity.USER, Entity.ITEM])
def test_spark_joins_the_same_bits_as_one_machine(
    room: StoreRoom, spark: Engine, random: np.random.Generator, entity: Entity
) -> None:
    values = room.built(view_for(entity, RETENTION if entity is Entity.USER else Purpose.PERSONALIZE_PROFILING))
    features = [f.name for f in values.view.numbers]
    known = pa.concat_tables([values.rows_of(piece) for piece in values.pieces])
    keys = [*known[values.view.key].to_pylist(), "stranger"]
    edges = known["valid_from"].cast(pa.int64()).to_numpy()
    some = random.integers(0, len(keys), size=400)
    at = random.choice(edges, size=400) + random.integers(-1, 2, size=400)
    at[:60] = to_micros(ASKED) - 1  # before anything was known of anybody
    asked = pa.array([keys[i] for i in some] + [None], pa.string())
    moments = np.append(at, to_micros(AS_OF))
    ours = point_in_time_join(values, keys=asked, moments=moments, features=features)
    theirs = spark_join("local[2]")(values, keys=asked, moments=moments, features=features)
    assert 50 < ours[1].sum() < 400
    for here, there in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(here, there)


@pytest.mark.spark
def test_a_setting_has_spark_join_training_frames_under_the_same_consent(room: StoreRoom, spark: Engine) -> None:
    people = (*CUSTOMERS, "no-training", "refuser", "stranger")
    labels = pd.DataFrame(
        {
            "user_key": [room.key(p) for p in people for _ in range(3)],
            "as_of": [ASKED + timedelta(days=d) for _ in people for d in (-1, 60, 150)],
        }
    )
    settings: Settings = room.settings.model_copy(update={"engine": "spark"})
    here = room.door().training_frame(labels, service="churn", as_of=AS_OF)
    there = open_retrieval(settings).training_frame(labels, service="churn", as_of=AS_OF)
    pd.testing.assert_frame_equal(here.data, there.data, check_exact=True)
    assert here.manifest == there.manifest
    assert len(here.data) == 2 * len(CUSTOMERS)


def test_a_spark_that_is_not_there_is_named_and_nothing_is_joined(
    room: StoreRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(room.settings.home))
    labels = pd.DataFrame({"user_key": [room.key(CUSTOMERS[0])], "as_of": [AS_OF]})
    door = open_retrieval(room.settings.model_copy(update={"engine": "spark"}))
    with pytest.raises(EngineUnavailable, match="Java 17"):
        door.training_frame(labels, service="churn", as_of=AS_OF)
