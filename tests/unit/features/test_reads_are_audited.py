"""Every read of what is known about people leaves one entry, by whichever door, and it names no person."""

from __future__ import annotations

import getpass
from datetime import timedelta

import pandas as pd

from aap.consent.purposes import Purpose
from aap.features.declarations import Entity
from aap.features.feast.store import apply, materialize
from aap.features.purpose_context import purpose_in_force
from aap.features.retrieval import open_retrieval
from aap.features.views import services, view_for
from aap.security.audit_log import read_audit, reads_of, verify_audit
from tests.unit.features.store_room import AS_OF, CUSTOMERS, RETENTION, StoreRoom

EVERYBODY = (*CUSTOMERS, "refuser", "stranger")
WHO = f"account {getpass.getuser()}"


def entries(room: StoreRoom) -> list[tuple[str, str, int]]:
    return [(e["action"], e["by"], e["count"]) for e in read_audit(room.layout.audit, days=9)]


def test_a_notebook_s_reads_are_as_many_entries_with_how_many_people_and_for_what(room: StoreRoom) -> None:
    room.put_online(RETENTION)
    door, asked = room.door(), room.keys(*EVERYBODY)
    labels = pd.DataFrame({"user_key": asked * 2, "as_of": [AS_OF - timedelta(days=9)] * (2 * len(asked))})
    frame = door.training_frame(labels, service="churn", as_of=AS_OF)
    lines = door.interactions("recommendation", as_of=AS_OF)
    door.online_vectors(asked, service="churn", now=AS_OF)
    assert entries(room) == [
        (f"read a training frame for churn, {RETENTION}", WHO, frame.data["user_key"].nunique()),
        (
            f"read purchases for recommendation, {Purpose.PERSONALIZE_PROFILING}",
            WHO,
            len(lines.table["user_key"].unique()),
        ),
        (f"read online vectors for churn, {RETENTION}", WHO, len(CUSTOMERS)),
    ]
    written = b"".join(f.read_bytes() for f in room.layout.audit.glob("*.jsonl"))
    assert not any(key.encode() in written for key in asked)
    assert verify_audit(room.layout.audit).problems == ()


def test_feast_s_own_api_leaves_an_entry_a_read_too(room: StoreRoom) -> None:
    store, view = apply(room.settings), view_for(Entity.USER, RETENTION)
    materialize(room.settings, as_of=AS_OF)
    refs = [f"{view.name}:{name}" for name in services()["churn"].features]
    keys = room.keys("customer-0", "refuser", "stranger", "customer-0")
    before = len(entries(room))
    with purpose_in_force(RETENTION):
        store.get_online_features(features=refs, entity_rows=[{"user_key": k} for k in keys[:3]])
        moments = pd.DataFrame({"user_key": keys, "event_timestamp": [AS_OF - timedelta(days=9)] * 4})
        store.get_historical_features(entity_df=moments, features=refs).to_df()
    assert entries(room)[before:] == [(f"read {view.name} through Feast, {RETENTION}", WHO, 1)] * 2


def test_a_read_that_nobody_allowed_and_one_that_its_opener_notes_leave_none(room: StoreRoom) -> None:
    room.put_online(RETENTION)
    room.door().online_vectors(room.keys("refuser", "stranger"), service="churn", now=AS_OF)
    open_retrieval(room.settings, audited=False).online_vectors(room.keys("customer-0"), service="churn", now=AS_OF)
    assert entries(room) == []


def test_each_person_finds_the_reads_of_them_and_of_nobody_else(room: StoreRoom) -> None:
    store, view = apply(room.settings), view_for(Entity.USER, RETENTION)
    materialize(room.settings, as_of=AS_OF)
    one, other, refuser = room.keys("customer-0", "customer-1", "refuser")
    labels = pd.DataFrame({"user_key": [one, refuser], "as_of": [AS_OF - timedelta(days=9)] * 2})
    room.door().training_frame(labels, service="churn", as_of=AS_OF)
    room.door().online_vectors([other, refuser], service="churn", now=AS_OF)
    room.door().interactions("recommendation", as_of=AS_OF)
    with purpose_in_force(RETENTION):
        feature = f"{view.name}:{services()['churn'].features[0]}"
        store.get_online_features(features=[feature], entity_rows=[{"user_key": one}])

    def told(key: str) -> list[str]:
        return [e["action"] for e in reads_of(room.layout.audit, key)]

    frame, lines, vectors, feast = (
        f"read a training frame for churn, {RETENTION}",
        f"read purchases for recommendation, {Purpose.PERSONALIZE_PROFILING}",
        f"read online vectors for churn, {RETENTION}",
        f"read {view.name} through Feast, {RETENTION}",
    )
    assert told(one) == [frame, lines, feast]
    assert told(other) == [vectors, lines]
    assert told(refuser) == []
