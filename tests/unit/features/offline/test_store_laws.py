"""The law of both offline doors: each row is answered once, in its place, with what its moment could know, and no more."""

from __future__ import annotations

from collections import Counter

import duckdb
import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings, strategies as st

from aap.events.archive import Archive
from aap.events.schema import event_type
from aap.features.declarations import Entity
from aap.features.feast.store import apply
from aap.features.online.reader import to_micros
from aap.features.purpose_context import purpose_in_force
from aap.features.views import service, view_for
from aap.infra.object_store import archive_folder
from tests.unit.features.brute_force import Happened, value_at
from tests.unit.features.store_room import AS_OF, ASKED, CUSTOMERS, RETENTION, StoreRoom

PEOPLE = view_for(Entity.USER, RETENTION)
CHURN = service("churn")
NAMES = CHURN.features
DECLARED = {f.name: f for f in PEOPLE.numbers}
ASKED_OF = (*CUSTOMERS[:3], "no-training", "refuser", "stranger")


def history(room: StoreRoom) -> dict[str, list[Happened]]:
    """Everything in the archive, by person."""
    found: dict[str, list[Happened]] = {}
    with duckdb.connect() as connection:
        archive = Archive(archive_folder(room.settings))
        for event in archive.types():
            fields = [f.name for f in event_type(event).fields]
            rows = connection.execute(
                f"SELECT user_key, epoch_us(occurred_at), epoch_us(available_at), {', '.join(fields)} "
                f"FROM {archive.sql(event, on=connection)}"
            ).fetchall()
            for key, occurred, available, *values in rows:
                told = dict(zip(fields, values, strict=True))
                found.setdefault(key, []).append(Happened(key, occurred, available, event, told))
    return found


def test_every_row_is_answered_once_in_its_place_with_what_could_be_known_then(room: StoreRoom) -> None:
    store, door, events = apply(room.settings), room.door(), history(room)
    around = sorted({t for happened in events.values() for e in happened for t in (e.occurred, e.available)})
    ends = to_micros(AS_OF)
    edges = st.sampled_from([t for t in around if to_micros(ASKED) < t < ends])
    moments = st.one_of(
        st.builds(lambda t, by: t + by, edges, st.sampled_from([-1, 0, 1])),
        st.integers(to_micros(ASKED) - 10, ends),
    )
    rows = st.lists(st.tuples(st.sampled_from(ASKED_OF), moments), min_size=1, max_size=12)

    @settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(rows, st.booleans())
    def law(drawn: list[tuple[str, int]], doubled: bool) -> None:
        drawn = drawn * 2 if doubled else drawn
        labels = pd.DataFrame(
            {
                "user_key": [room.key(who) for who, _ in drawn],
                "event_timestamp": pd.to_datetime([t for _, t in drawn], unit="us", utc=True),
                "label": range(len(drawn)),
            }
        )
        refs = [f"{PEOPLE.name}:{name}" for name in NAMES]
        with purpose_in_force(RETENTION):
            historical = store.get_historical_features(entity_df=labels, features=refs).to_df()
        assert historical["label"].tolist() == list(range(len(drawn))), "none lost, none doubled, none moved"
        assert historical["user_key"].tolist() == labels["user_key"].tolist()
        frame = door.training_frame(labels.rename(columns={"event_timestamp": "as_of"}), service="churn", as_of=AS_OF)
        trained = frame.data.set_index("label")
        assert Counter(trained.index) == {
            place: 1 for place, (who, t) in enumerate(drawn) if _may_be_trained_on(who, t)
        }
        assert len(trained) + sum(frame.manifest.excluded.values()) == len(drawn)
        for place, (who, t) in enumerate(drawn):
            told = historical.loc[place, list(NAMES)].to_numpy(dtype=float)
            if not _allows(who, t):
                assert np.isnan(told).all()
                continue
            np.testing.assert_allclose(told, _meant(events.get(room.key(who), []), t), rtol=1e-9)
            if place in trained.index:
                np.testing.assert_array_equal(trained.loc[place, list(NAMES)].to_numpy(dtype=float), told)

    law()


def _allows(who: str, t: int) -> bool:
    return who in (*CUSTOMERS, "no-training") and t >= to_micros(ASKED)


def _may_be_trained_on(who: str, t: int) -> bool:
    return who in CUSTOMERS and t >= to_micros(ASKED)


def _meant(events: list[Happened], t: int) -> list[float]:
    values = (
        value_at(DECLARED[n], t, events=events, grant_start=to_micros(ASKED), features=PEOPLE.features) for n in NAMES
    )
    return [np.nan if v is None else v for v in values]
