"""Verification finds a value that engines don't agree on, and says how many it compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from aap.config import Settings
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.features.declarations import Entity
from aap.features.engines import batch_engine
from aap.features.engines.base import Engine, duckdb_engine
from aap.features.engines.spark import why_unavailable
from aap.features.errors import EngineUnavailable, NothingToVerify
from aap.features.offline.build import build_one
from aap.features.quality import engine_parity as verification
from aap.features.quality.engine_parity import BatchValues, Comparison, Sample, ValuesAt
from aap.features.views import all_views, view_for
from aap.infra.object_store import Folder, archive_folder
from tests.unit.features.store_room import AS_OF, REPORTING, StoreRoom

DUCKDB = BatchValues("duckdb", duckdb_engine)


@dataclass(frozen=True)
class OffBy:
    """DuckDB's values, one feature of every answer `factor` times as large."""

    factor: float
    feature: str = "amount_sum_90d"
    name: str = "off"
    forgets: bool = False

    def values(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        values, found = DUCKDB.values(sample)
        for column, feature in enumerate(sample.view.numbers):
            if feature.name == self.feature:
                values[:, column] *= self.factor
        return values, found & (not self.forgets)


def compared(room: StoreRoom, *engines: ValuesAt, people: int = 3, moments: int = 6) -> Comparison:
    return verification.verify(
        engines, archive=Archive(archive_folder(room.settings)), standing=open_ledger(room.settings).standing(), as_of=AS_OF,
        people=people, moments=moments, random=np.random.default_rng(0),
    )  # fmt: skip


def test_every_number_of_every_view_of_people_is_compared_at_every_question(room: StoreRoom) -> None:
    found = compared(room, DUCKDB, DUCKDB)
    numbers = [(v.name, f.name) for v in all_views() if v.key == "user_key" for f in v.numbers]
    assert [(f.view, f.feature) for f in found.features] == numbers
    assert {f.checked for f in found.features} == {18}
    assert (found.checked, found.mismatches, found.examples) == (18 * len(numbers), 0, ())


def test_a_value_off_by_a_billionth_passes_and_by_a_millionth_does_not(room: StoreRoom) -> None:
    assert compared(room, DUCKDB, OffBy(1 + 1e-10)).mismatches == 0
    found = compared(room, DUCKDB, OffBy(1 + 1e-6))
    wrong = {f.feature for f in found.features if f.mismatches}
    assert wrong == {"amount_sum_90d"}
    assert found.examples
    assert not any(room.key(user) in told for told in found.examples for user in ("customer-0", "customer-1"))


def test_a_count_must_be_equal_exactly(room: StoreRoom) -> None:
    assert compared(room, DUCKDB, OffBy(1 + 1e-10, "basket_count_90d")).mismatches > 0


def test_an_engine_that_knows_nothing_of_a_person_differs_in_every_value(room: StoreRoom) -> None:
    found = compared(room, DUCKDB, OffBy(1.0, forgets=True))
    assert found.mismatches > 0.9 * found.checked


def test_one_engine_has_nothing_to_be_compared_with(room: StoreRoom) -> None:
    with pytest.raises(NothingToVerify, match=r"^There is no second engine to compare with\."):
        compared(room, DUCKDB)


def test_an_engine_nobody_knows_is_told(settings: Settings) -> None:
    with pytest.raises(EngineUnavailable, match="'flink' is not an engine; choose from"):
        verification.engines(settings, asked=["flink"])
    with pytest.raises(EngineUnavailable, match="'flink' is not a batch engine; choose one of: duckdb, spark"):
        batch_engine(settings, name="flink")


def test_without_java_one_sentence_says_what_to_install(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'pyspark>=4.0,<4.1'")
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    sentence = (
        "Spark needs Java 17 or newer and this machine has none: install openjdk-17-jre-headless, or set JAVA_HOME."
    )
    assert why_unavailable("local[2]") == sentence
    with pytest.raises(EngineUnavailable, match="install openjdk-17-jre-headless"):
        batch_engine(settings, name="spark")
    assert verification.engines(settings)[1] == {"spark": sentence}


@pytest.mark.spark
def test_spark_builds_an_imported_shop_byte_for_byte_as_duckdb_does(room: StoreRoom, spark: Engine) -> None:
    archive, standing = Archive(archive_folder(room.settings)), open_ledger(room.settings).standing()
    for view in (view_for(Entity.USER, REPORTING), view_for(Entity.ITEM, Purpose.PERSONALIZE_PROFILING)):
        before = room.built(view)
        Folder.at(room.layout.features / view.name).clear()
        made = build_one(
            view, archive=archive, folder=room.layout.features, standing=standing, as_of=AS_OF, engine=spark
        )
        assert made.rows > 100
        assert room.built(view).pieces == before.pieces
        assert not [p for p in room.layout.features.iterdir() if p.name.startswith(".")]


@pytest.mark.spark
def test_spark_is_handed_a_sealed_archive_without_a_readable_copy_on_disk(
    room: StoreRoom, spark: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(archive_folder(room.settings))
    assert archive.sealed(archive.files())
    with spark() as batch:
        session = batch._session  # type: ignore[attr-defined]
        assert session.conf.get("spark.io.encryption.enabled") == "true"
        events = batch.events(archive, "product_purchased")
        assert session.table(events).count() == archive.count("product_purchased")
        # A session that would write the rows to an open file on their way is refused.
        monkeypatch.setattr(type(session.conf), "get", lambda *_: "false")
        with pytest.raises(EngineUnavailable, match=r"start it with spark\.io\.encryption\.enabled=true\.$"):
            batch.events(archive, "product_purchased")
