"""Who allows a purpose now, read person by person, is what the standing of everybody says, whatever was chosen."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings as hypothesis_settings, strategies as st

from aap.consent.ledger.ledger import Entry, Ledger
from aap.consent.ledger.notices import Notice
from aap.consent.ledger.records import GPC_METHOD
from aap.consent.ledger.tombstones import Tombstones
from aap.consent.policy import Status
from aap.consent.purposes import Purpose

BEGAN = datetime(2024, 1, 1, tzinfo=UTC)
PURPOSES = (Purpose.TRAIN_AI_SYSTEM, Purpose.THIRD_PARTY_SHARING, Purpose.ESSENTIAL_FRAUD_DETECTION)
people = st.sampled_from(["a" * 32, "b" * 32, "c" * 32])
days = st.integers(0, 500).map(lambda d: BEGAN + timedelta(days=d))
choices = st.lists(
    st.builds(
        lambda who, purpose, status, at, version, signal: Entry(
            who, purpose, status, at, "them", GPC_METHOD if signal else "form", version
        ),
        people,
        st.sampled_from(PURPOSES),
        st.sampled_from(list(Status)),
        days,
        st.sampled_from(["1", "2"]),
        st.booleans(),
    ),
    max_size=12,
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(choices, st.dictionaries(people, days, max_size=2), st.none() | days, days)
def test_it_names_whom_standing_names_and_since_when(
    said: list[Entry], erased: dict[str, datetime], replaced: datetime | None, at: datetime
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tombstones = Tombstones(Path(folder) / "tombstones.db")
        for who, moment in erased.items():
            tombstones.add(who, erased_at=moment)
        ledger = Ledger.at(Path(folder) / "ledger.db", tombstones=tombstones)
        if replaced is not None:
            for version, published in (("1", BEGAN), ("2", replaced)):
                ledger.publish(Notice(version, PURPOSES, "0" * 64, published, material=True))
        ledger.append(said, received_at=BEGAN + timedelta(days=501))
        standing = ledger.standing()
        for purpose in PURPOSES:
            held = {who: [g.start for g in by[purpose][0] if g.start <= at < g.end] for who, by in standing.items()}
            assert ledger.in_force(purpose, at=at) == {who: starts[0] for who, starts in held.items() if starts}
