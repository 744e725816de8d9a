"""Erasure: nothing is left, nothing comes back, and what learned from the person becomes what it would have been without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from aap.config import Settings
from aap.consent.ledger.signing import Signer, load_signer
from aap.consent.ledger.verification import verify
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.redis_projection import assignments_key, consent_key, decisions
from aap.events.dead_letter import Rejected
from aap.events.streaming.event_log import LoggedEvent
from aap.experiments.assignment.exposures import Exposures
from aap.features.online import reader
from aap.features.retrieval import open_retrieval
from aap.infra.errors import LockHeld
from aap.infra.locks import hold
from aap.infra.object_store import features_folder
from aap.infra.parquet_writer import Batches
from aap.infra.paths import Layout
from aap.infra.redis import connection
from aap.jobs.ingest import import_source
from aap.jobs.streaming.alerts import SCHEMA as ALERTS, Alert
from aap.modeling.registry.registry import open_registry
from aap.modeling.train_and_promote import training_settings
from aap.modeling.training import train
from aap.privacy.certificates import check_certificate
from aap.privacy.data_inventory import places
from aap.privacy.erasure import erase
from aap.privacy.errors import ErasureIncomplete, UnusableCertificate
from aap.security.audit_log import reads_of, verify_audit
from tests.shop import CLOSES
from tests.unit.privacy.town import WHO, build_only, files_that_hold, holdings, key_of, models_of, open_shop, publish

LATER = CLOSES + timedelta(hours=1)
AGAIN = CLOSES + timedelta(hours=2)


@dataclass(frozen=True)
class Erased:
    """A shop after somebody was erased, and what there was before."""

    settings: Settings
    key: str
    certificate: dict[str, Any]
    before: dict[str, int]
    online_before: int


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Erased]:
    left = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AAP_")}
    settings = open_shop(tmp_path_factory.mktemp("erase") / "home")
    publish(settings)
    held, key = holdings(settings), key_of(settings)
    train("popularity", retrieval=open_retrieval(settings), registry=held.registry, settings=training_settings(settings),
          as_of=CLOSES)  # fmt: skip
    leave_traces(settings, key)
    before = {p.name: p.count() for p in places(held, key)}
    online_before = len(list(held.client.scan_iter(f"*{key}*")))
    certificate = erase(held, key, now=LATER, settle_s=0)
    yield Erased(settings, key, certificate, before, online_before)
    connection.stop(settings)
    os.environ.update(left)


def leave_traces(settings: Settings, key: str) -> None:
    """What a running service writes of somebody."""
    layout, held = Layout(settings.home), holdings(settings)
    held.log.append([LoggedEvent("web", "1", "product_viewed", key, 1, 1, {"item_id": "ART-001"})])
    held.rejected.add([Rejected("collector", "product_viewed", "item_id is missing", key, {"page": "x"}, CLOSES)])
    held.client.set(assignments_key(key), "1\nrecommendation_strategy discover\n")
    exposures = Exposures(layout.exposures)
    for who in (key, "f" * 32):
        exposures.log(
            who, flag="recommendation_strategy", variant="discover", split="buy_again:50,discover:50", at=CLOSES
        )
    exposures.close()
    alerts = Batches(layout.alerts, ALERTS, every_s=60)
    alerts.add([Alert(CLOSES, "event", key, "web 1", CLOSES, 0.9, 0.8, ("amount",), "event_anomaly", "1", 1).to_row()])
    alerts.close()


def test_every_place_held_something_and_holds_nothing_now(erased: Erased) -> None:
    empty = {"prediction records", "served samples", "reports, logs and model files"}
    assert {name for name, count in erased.before.items() if not count} == empty
    held = holdings(erased.settings)
    assert {p.name: p.count() for p in places(held, erased.key)} == dict.fromkeys(erased.before, 0)
    assert {p["place"]: p["before"] for p in erased.certificate["places"]} == erased.before
    assert {p["after"] for p in erased.certificate["places"]} == {0}
    assert erased.online_before > 3
    assert [k.decode() for k in held.client.scan_iter(f"*{erased.key}*")] == [f"{{u:{erased.key}}}:c"]


def test_from_the_erasure_on_redis_and_the_ledger_say_no_to_every_purpose(erased: Erased) -> None:
    """The tombstone stops builds and imports; a late writer and the collector ask the projection."""
    held = holdings(erased.settings)
    blob: Any = held.client.get(consent_key(erased.key))
    assert [p for p in Purpose if decisions([blob], purpose=p, now=AGAIN)[0].allowed] == []
    last = {r.entry.purpose: r.entry.status for r in held.desk.ledger.history(erased.key)}
    assert last == dict.fromkeys(Purpose, Status.WITHDRAWN)


def test_no_file_of_the_platform_holds_them_in_clear_but_the_ledger(erased: Erased) -> None:
    connection.stop(erased.settings)
    holding = [f for f in files_that_hold(erased.settings.home, erased.key) if not f.startswith("redis/")]
    assert [f.rpartition("/")[0] for f in holding] == ["consent"] * len(holding)
    assert files_that_hold(erased.settings.home, f'"{WHO}"') == []


def test_nobody_can_tell_any_more_who_read_what_of_them_and_the_audit_log_is_whole(erased: Erased) -> None:
    """Training read everybody, them too; what is left of that in the log is about nobody that could be named."""
    audit = Layout(erased.settings.home).audit
    assert erased.before["audit log"] == 1
    assert reads_of(audit, erased.key) == []
    assert reads_of(audit, key_of(erased.settings, "client-5")) != []
    assert verify_audit(audit).problems == ()


def test_nobody_else_lost_anything(erased: Erased) -> None:
    held = holdings(erased.settings)
    assert sum(p.count() for p in places(held, key_of(erased.settings, "client-5"))) > 3
    tables = [pq.read_table(f, partitioning=None) for f in held.layout.exposures.rglob("*.parquet")]
    assert [row["user_key"] for table in tables for row in table.to_pylist()] == ["f" * 32]
    assert verify(held.desk.ledger) == []


def test_the_certificate_is_signed_names_nobody_and_tells_of_a_change(erased: Erased) -> None:
    public = load_signer(Layout(erased.settings.home)).public
    assert check_certificate(erased.certificate, public_key=public)
    assert erased.key not in str(erased.certificate)
    assert WHO not in str(erased.certificate)
    changed = {**erased.certificate, "models": []}
    assert not check_certificate(changed, public_key=public)
    assert not check_certificate(erased.certificate, public_key=Signer(b"1" * 32).public)
    with pytest.raises(UnusableCertificate):
        check_certificate({"kind": "receipt", "signature": "00"}, public_key=public)
    assert len(list(Layout(erased.settings.home).certificates.glob("*.json"))) == 1


def test_the_versions_trained_on_them_are_marked_and_not_rolled_back_to(erased: Erased) -> None:
    registry = open_registry(erased.settings)
    (version,) = registry.versions("popularity")
    assert version.tainted
    assert erased.certificate["models"] == [{"model": "popularity", "version": 1, "aliases": []}]
    assert registry.trained_on("popularity", "f" * 32) == []


def test_importing_their_history_again_brings_nothing_back(erased: Erased) -> None:
    settings = erased.settings
    shop = settings.home / "shop"
    report = import_source(settings, str(shop / "ventes.csv"), mapping=shop / "boutique.yaml", now=AGAIN)
    assert report.accepted.total() == 0
    assert report.refused["withdrawn"] > 10
    build_only(settings, now=AGAIN)
    assert {p.count() for p in places(holdings(settings), erased.key)} == {0}


def test_not_even_an_older_copy_of_the_ledger_brings_them_back(erased: Erased, tmp_path: Path) -> None:
    """A ledger restored from before the erasure still grants everything; the tombstone stands above it."""
    from aap.consent.ledger.ledger import Ledger
    from aap.consent.ledger.records import Entry

    held = holdings(erased.settings)
    older = Ledger.at(tmp_path / "older.db", tombstones=held.tombstones)
    plain = Ledger.at(tmp_path / "older.db")
    at = CLOSES - timedelta(days=9)
    older.append([Entry(erased.key, p, Status.GIVEN, at, "them", "form") for p in Purpose], received_at=CLOSES)
    assert all(plain.standing(in_force_at=AGAIN)[erased.key][p][0] for p in Purpose)
    assert not any(older.standing(in_force_at=AGAIN)[erased.key][p][0] for p in Purpose)


@pytest.mark.full
def test_a_model_trained_after_the_erasure_is_the_one_of_a_world_without_them(erased: Erased, tmp_path: Path) -> None:
    other = open_shop(tmp_path / "other", without=WHO, keys_of=erased.settings.home)
    try:
        build_only(other, now=AGAIN)
        build_only(erased.settings, now=AGAIN)
        assert models_of(erased.settings, tmp_path / "a") == models_of(other, tmp_path / "b")
        assert values_of(erased.settings) == values_of(other)
    finally:
        connection.stop(other)


def values_of(settings: Settings) -> dict[str, bytes]:
    """Every file of offline values, by name; all but the records, which name files of the archive."""
    folder = features_folder(settings)
    return {f.name: folder.read(f.name) for f in folder.files()}


def test_a_build_carries_on_after_the_erasure_and_leaves_what_one_from_nothing_would(erased: Erased) -> None:
    build_only(erased.settings, now=AGAIN)
    folder, made = features_folder(erased.settings), {}
    for anew in (False, True):
        built = build_only(erased.settings, now=AGAIN, anew=anew)
        made[anew] = {f.name: folder.read(f.name) for f in (*folder.files(), *folder.files(suffix=".json"))}
        assert [b.why for b in built] == [""] * len(built)
        assert any(b.computed for b in built) is anew
    assert made[False] == made[True]


def test_whoever_comes_back_starts_afresh(erased: Erased) -> None:
    held = holdings(erased.settings)
    at = AGAIN + timedelta(hours=1)
    held.desk.record(erased.key, Purpose.MARKETING_RETENTION, Status.GIVEN, said_by="them", method="form",
                     indicated_at=at, received_at=at)  # fmt: skip
    (grant,) = held.desk.ledger.standing(in_force_at=at)[erased.key][Purpose.MARKETING_RETENTION][0]
    assert grant.start == at
    again = erase(held, erased.key, now=at + timedelta(hours=1), settle_s=0)
    assert {p["before"] for p in again["places"]} == {0}


def test_somebody_nobody_knows_is_certified_too_and_leaves_no_record(erased: Erased) -> None:
    held = holdings(erased.settings)
    size = held.desk.ledger.size()
    certificate = erase(held, "e" * 32, now=AGAIN, settle_s=0)
    assert {p["before"] for p in certificate["places"]} == {0}
    assert held.desk.ledger.size() == size


def test_while_an_import_runs_nothing_is_erased(erased: Erased, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aap.privacy.erasure._PATIENCE_S", 0.0)
    layout = Layout(erased.settings.home)
    kept = len(list(layout.certificates.glob("*.json")))
    with hold(layout.run / "import.lock", what="an import"), pytest.raises(LockHeld):
        erase(holdings(erased.settings), key_of(erased.settings, "client-6"), now=AGAIN, settle_s=0)
    assert len(list(layout.certificates.glob("*.json"))) == kept


def test_a_place_that_keeps_something_is_told_and_nothing_is_certified(
    erased: Erased, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = holdings(erased.settings)
    key = key_of(erased.settings, "client-7")
    monkeypatch.setattr(type(held.archive), "erase", lambda self, user_key: {})
    kept = len(list(held.layout.certificates.glob("*.json")))
    with pytest.raises(ErasureIncomplete, match=r"^\d+ items of the person are left in event archive: erase again"):
        erase(held, key, now=AGAIN, settle_s=0)
    assert len(list(held.layout.certificates.glob("*.json"))) == kept
    monkeypatch.undo()
    assert erase(held, key, now=AGAIN + timedelta(minutes=1), settle_s=0)["places"][0]["before"] > 0


def test_a_late_writer_of_values_computed_before_writes_nothing(erased: Erased) -> None:
    from aap.features.declarations import Entity
    from aap.features.views import view_for

    held, view = holdings(erased.settings), view_for(Entity.USER, Purpose.MARKETING_RETENTION)
    grant = reader.to_micros(CLOSES - timedelta(days=300))
    row = reader.OnlineRow(erased.key, b"x" * 64, b"", reader.to_micros(CLOSES), grant)
    assert reader.write(held.client, view, [row]) == (0, 1)
