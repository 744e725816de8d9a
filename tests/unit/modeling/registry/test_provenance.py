"""What a version was made of is signed with it; what is missing, altered or outdated is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from aap.consent.ledger.ledger import Entry, Ledger
from aap.consent.ledger.signing import Signer
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.features import views
from aap.features.datasets import Manifest
from aap.modeling.errors import UnsoundLineage
from aap.modeling.registry import lineage, provenance as provenance_module
from aap.modeling.registry.provenance import Ended, Provenance
from aap.modeling.registry.registry import ModelVersion, Registry
from tests.unit.modeling.conftest import AS_OF

PROFILE, TRAINING = Purpose.PERSONALIZE_PROFILING, Purpose.TRAIN_AI_SYSTEM
PEOPLE = ["a" * 32, "b" * 32, "c" * 32]
SERVICE = views.service("recommendation")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger.at(tmp_path / "ledger.db", signer=Signer(b"1" * 32))
    entries = [
        Entry(who, purpose, Status.GIVEN, AS_OF - timedelta(days=9), "them", "form")
        for who in PEOPLE
        for purpose in SERVICE.training_purposes
    ]
    made.append(entries, received_at=AS_OF)
    return made


@pytest.fixture
def provenance(registry: Registry, ledger: Ledger) -> Provenance:
    return Provenance(replace(registry, signer=lambda: Signer(b"1" * 32)), ledger)


@pytest.fixture
def register(provenance: Provenance, fitted) -> Callable[..., ModelVersion]:
    """A version of popularity, with the lineage that training leaves unless something is changed."""

    def make(signed: bool = True, **changes: object) -> ModelVersion:
        checkpoint = provenance.ledger.checkpoint()
        made = Manifest(
            SERVICE.name, SERVICE.purpose.value, tuple(p.value for p in SERVICE.training_purposes[1:]), (), AS_OF,
            checkpoint.size, checkpoint.root, 9, "00" * 32, {"withdrawn": 2},
        )  # fmt: skip
        manifest = lineage.pack_manifest(replace(made, **changes))  # type: ignore[arg-type]
        people = lineage.pack(PEOPLE)
        with provenance.registry.run("made") as run:
            run.log_bytes(manifest, path=lineage.MANIFEST)
            run.log_bytes(people, path=lineage.FILE)
            tags = lineage.made_of(manifest, people) if signed else {}
            return provenance.registry.register(fitted["popularity"], run=run, tags=tags)

    return make


def file_of(provenance: Provenance, version: ModelVersion, path: str) -> Path:
    uri = MlflowClient(tracking_uri=provenance.registry.tracking_uri).get_run(version.run_id).info.artifact_uri
    return Path(uri.removeprefix("file://")) / path


def refused(provenance: Provenance, version: ModelVersion, why: str) -> None:
    """It is neither checked nor loaded, in one sentence."""
    again = provenance.registry.version(version.name, version.version)
    for use in (provenance.check, provenance.load):
        with pytest.raises(UnsoundLineage, match=why) as told:
            use(again)
        assert "\n" not in str(told.value)


def test_a_version_whose_lineage_holds_is_loaded_and_says_what_it_was_made_of(provenance, register):
    version = register()
    assert provenance.load(version).name == "popularity"
    assert provenance.check(version).manifest["excluded"] == {"withdrawn": 2}


def test_files_and_ledger_are_read_once_for_all_that_is_asked_of_a_version(provenance, register, monkeypatch):
    version, read = register(), []
    for kind, name in ((Registry, "read"), (Ledger, "leaves")):
        whole = getattr(kind, name)
        monkeypatch.setattr(
            kind, name, lambda *a, _whole=whole, _name=name, **k: (read.append(_name), _whole(*a, **k))[1]
        )
    provenance.ended(version, now=AS_OF, checked=provenance.check(version))
    assert read == ["read", "read", "leaves"], "manifest, people, the ledger"
    provenance.load(version)
    assert read.count("leaves") == 1, "it hasn't grown"
    late = Entry("d" * 32, TRAINING, Status.GIVEN, AS_OF, "them", "form")
    provenance.ledger.append([late], received_at=AS_OF + timedelta(days=1))
    provenance.check(version)
    assert read.count("leaves") == 2


def test_the_ledger_may_grow_after_it(provenance, register):
    version = register()
    late = Entry("d" * 32, TRAINING, Status.GIVEN, AS_OF, "them", "form")
    provenance.ledger.append([late], received_at=AS_OF + timedelta(days=1))
    provenance.check(version)


def test_one_registered_without_a_manifest_or_by_nobody_is_refused(provenance, register, registry):
    refused(provenance, register(signed=False), "has no signed manifest of what it was made of: retrain it")
    unsigned = replace(provenance, registry=registry)
    with provenance.registry.run("made") as run:
        version = unsigned.registry.register(provenance.load(register()), run=run, tags=lineage.made_of(b"{}", b""))
    refused(provenance, version, "has no signed manifest")


@pytest.mark.parametrize(
    ("path", "what"), [(lineage.MANIFEST, "The manifest"), (lineage.FILE, "The list of whom it was trained on")]
)
def test_a_file_of_it_that_is_gone_or_altered_is_named(provenance, register, path, what):
    version = register()
    file = file_of(provenance, version, path)
    held = file.read_bytes()
    file.write_bytes(held[:-1] + b" ")
    refused(provenance, version, f"{what} of popularity version 1 was altered")
    file.unlink()
    refused(provenance, version, f"{what} of popularity version 1 is gone")


def test_whoever_alters_manifest_and_tags_together_lacks_the_key(provenance, register):
    version = register()
    file = file_of(provenance, version, lineage.MANIFEST)
    other = file.read_bytes().replace(b'"withdrawn":2', b'"withdrawn":0')
    file.write_bytes(other)
    client = MlflowClient(tracking_uri=provenance.registry.tracking_uri)
    told = lineage.made_of(other, lineage.pack(PEOPLE))[lineage.MADE_OF]
    client.set_model_version_tag(version.name, "1", lineage.MADE_OF, told)
    refused(provenance, version, "isn't what this platform signed")


def test_the_manifest_of_another_version_does_not_do(provenance, register):
    """The signature is over the model's own files too."""
    version = register()
    client = MlflowClient(tracking_uri=provenance.registry.tracking_uri)
    files = json.loads(version.tags[lineage.DIGESTS])
    client.set_model_version_tag(version.name, "1", lineage.DIGESTS, json.dumps(dict.fromkeys(files, "00" * 32)))
    refused(provenance, version, "isn't what this platform signed")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"purpose": "third_party_sharing"}, "was trained for third_party_sharing, but serves"),
        ({"purpose": "world.domination"}, "of which one is no more: retrain it"),
        ({"service": "fortune"}, "was trained for 'fortune' under .* of which one is no more"),
        ({"requires": ()}, "was trained without asking for train_ai_system, which it needs today"),
        ({"ledger_root": "00" * 32}, "was trained under other records of consent than the first 6"),
        ({"ledger_size": 99}, "was trained under 99 records of consent, but the ledger has 6"),
    ],
)
def test_purposes_that_are_not_today_s_and_another_ledger_are_refused(provenance, register, changes, why):
    refused(provenance, register(**changes), why)


def test_a_purpose_that_a_service_no_longer_has_is_refused_from_then_on(provenance, register, monkeypatch):
    version = register()
    provenance.check(version)
    narrower = replace(SERVICE, purpose=Purpose.ANALYTICS_REPORTING)
    monkeypatch.setattr(provenance_module, "service_called", lambda _: narrower)
    refused(provenance, version, "but serves analytics.reporting today: retrain it")


def test_those_whose_consent_ended_since_are_counted_though_they_said_yes_again(provenance, register):
    version, day = register(), timedelta(days=1)
    assert provenance.ended(version, now=AS_OF + day) == Ended(3, 0)
    said = [(PEOPLE[0], Status.WITHDRAWN, 2), (PEOPLE[1], Status.WITHDRAWN, 2), (PEOPLE[1], Status.GIVEN, 3)]
    entries = [Entry(who, TRAINING, status, AS_OF + n * day, "them", "form") for who, status, n in said]
    provenance.ledger.append(entries, received_at=AS_OF + 4 * day)
    assert provenance.ended(version, now=AS_OF + 5 * day) == Ended(3, 2)
    assert str(Ended(3, 2)) == "It was trained on 3 people; the consent of 2 of them ended since."
    assert provenance.ended(version, now=AS_OF + timedelta(days=400)).ended == 3, (
        "thirteen months on every grant is over"
    )
