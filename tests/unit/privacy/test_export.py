"""Access, portability and correction: all is handed over, another platform knows the same, a mistake leaves no trace."""

from __future__ import annotations

import csv
import getpass
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from aap.config import Settings, load_settings
from aap.consent.ledger.signing import Signer, load_signer
from aap.consent.purposes import Purpose
from aap.events.dead_letter import Rejected
from aap.experiments.assignment.exposures import Exposures
from aap.features.declarations import Entity
from aap.features.offline.store import built_view
from aap.features.retrieval import open_retrieval
from aap.features.views import all_views
from aap.infra.object_store import features_folder
from aap.infra.paths import Layout
from aap.infra.redis import connection
from aap.privacy.data_inventory import places
from aap.privacy.errors import UnusableCorrection, UnusableExport
from aap.privacy.export import collect, write_export
from aap.privacy.import_export import check_export, take_in
from aap.privacy.rectification import rectify
from aap.security.api_keys import ApiKeys, Scope
from aap.security.audit_log import Audit, note_once
from tests.shop import CLOSES, write_shop
from tests.unit.privacy.town import WHO, build_only, holdings, key_of, leave_out, open_shop, publish

LATER = CLOSES + timedelta(hours=1)


@dataclass(frozen=True)
class Exported:
    """A shop, and one person's export of it."""

    settings: Settings
    key: str
    folder: Path
    told: dict[str, Any]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    left = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AAP_")}
    root = tmp_path_factory.mktemp("export")
    settings = open_shop(root / "home", customers=30)
    publish(settings)
    held, key = holdings(settings), key_of(settings)
    exposures = Exposures(held.layout.exposures)
    exposures.log(key, flag="recommendation_strategy", variant="discover", split="buy_again:50,discover:50", at=CLOSES)
    exposures.close()
    held.rejected.add([Rejected("collector", "product_viewed", "item_id is missing", key, {"page": "<b>"}, CLOSES)])
    told = write_export(held, key, into=root / "mine", now=CLOSES)
    yield Exported(settings, key, root / "mine", told)
    connection.stop(settings)
    os.environ.update(left)


def test_it_holds_what_every_place_counts(exported: Exported) -> None:
    counts = {p.name: p.count() for p in places(holdings(exported.settings), exported.key)}
    told = exported.told
    assert sum(map(len, told["events"].values())) == counts["event archive"] > 30
    assert len(told["rejected"]) == counts["rejected log"]
    assert len(told["exposures"]) == counts["experiment exposures"] == 1
    assert (told["user_id"], told["user_key"]) == (WHO, exported.key)
    assert len(told["consents"]) == len(holdings(exported.settings).desk.ledger.history(exported.key)) > 6


def test_nobody_else_is_in_it(exported: Exported) -> None:
    content = b"".join(f.read_bytes() for f in exported.folder.rglob("*") if f.suffix in (".json", ".html"))
    others = {f"client-{i}" for i in range(30)} - {WHO}
    assert not [
        who for who in others if f'"{who}"'.encode() in content or key_of(exported.settings, who).encode() in content
    ]
    for file in exported.folder.rglob("*.parquet"):
        assert set(pq.read_table(file)["user_key"].to_pylist()) == {exported.key}


def test_it_says_who_read_what_of_them_for_what_and_when_in_all_three_forms(exported: Exported) -> None:
    settings, key = exported.settings, exported.key
    held, door = holdings(settings), open_retrieval(settings)
    other = key_of(settings, "client-5")
    caller = ApiKeys(held.layout.api_keys)
    caller.create("the shop's page", scopes=[Scope.PREDICT], now=CLOSES)
    (known,) = caller.list()
    note_once(held.layout.audit, "read what a person allows", by="command line", at=LATER, about=[key])
    door.online_vectors([key], service="churn", now=LATER)
    door.online_vectors([other], service="segments", now=LATER)
    service = Audit(held.layout.audit)
    service.note("read for churn, marketing.retention", by=known.id, outcome="answered", at=LATER, about=[key, other])
    service.flush()
    into = exported.folder.with_name("reads")
    reads = write_export(held, key, into=into, now=LATER)["reads"]
    mine = [r for r in reads if r["time"] >= LATER.isoformat() or "online vectors" in r["what"]]
    account = f"account {getpass.getuser()}"
    assert [(r["who"], r["what"], r["purpose"]) for r in mine] == [
        ("command line", "read what a person allows", None),
        (account, "read online vectors for churn", "marketing.retention"),
        ('API key "the shop\'s page"', "read for churn", "marketing.retention"),
    ]
    assert json.loads((into / "data.json").read_text())["reads"] == reads
    table = pq.read_table(into / "reads.parquet").drop_columns("user_key").to_pylist()
    assert table == reads
    page = (into / "report.html").read_text()
    assert "<h2>Who read your data</h2>" in page
    assert "read online vectors for churn" in page
    assert "read online vectors for segments" not in page


def test_every_value_says_what_it_means_and_what_for(exported: Exported) -> None:
    present = {(f["name"], f["purpose"]): f for f in exported.told["features"] if f["status"] == "present"}
    spent = present["amount_sum_ever", "marketing.retention"]
    assert spent["means"] == "Money spent, ever."
    assert (spent["unit"], spent["value"] > 0) == ("currency", True)
    assert json.loads((exported.folder / "data.json").read_text()) == json.loads(json.dumps(exported.told))
    schema = json.loads((exported.folder / "schema.json").read_text())
    assert set(exported.told) - {"format", "exported_at", "controller", "user_id", "user_key"} == set(
        schema["data.json"]
    )
    assert set(exported.told["events"]) <= set(schema["events"])


def test_the_page_can_be_read_loads_nothing_and_runs_nothing(exported: Exported) -> None:
    page = (exported.folder / "report.html").read_text()
    for heading in ("What you allow", "What happened", "What is worked out from it", "Experiments"):
        assert f"<h2>{heading}</h2>" in page
    assert "Money spent, last 90 days." in page
    assert "<script" not in page
    assert "<b>" not in page.replace("<body>", "")
    assert "http://" not in page
    assert "https://" not in page


def test_the_files_are_the_owner_s_alone_and_signed(exported: Exported, tmp_path: Path) -> None:
    assert all(f.stat().st_mode & 0o077 == 0 for f in exported.folder.rglob("*") if f.is_file())
    public = load_signer(Layout(exported.settings.home)).public
    assert check_export(exported.folder, public_key=public)["user_id"] == WHO
    with pytest.raises(UnusableExport, match="not signed with this key"):
        check_export(exported.folder, public_key=Signer(b"1" * 32).public)


@pytest.mark.parametrize("spoil", ["data.json", "events/product_purchased.parquet", "manifest.json", ""])
def test_an_export_that_was_changed_or_is_none_is_refused(exported: Exported, tmp_path: Path, spoil: str) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(exported.folder, copy)
    if spoil:
        (copy / spoil).write_bytes((copy / spoil).read_bytes()[:-1] + b"!")
    else:
        shutil.rmtree(copy)
    with pytest.raises(UnusableExport):
        check_export(copy)


def values(settings: Settings, key: str) -> dict[str, list[dict[str, Any]]]:
    """All offline values of a person, without the name they go by here."""
    found: dict[str, list[dict[str, Any]]] = {}
    for view in (v for v in all_views() if v.entity is Entity.USER):
        built = built_view(features_folder(settings), view)
        for piece in built.pieces:
            rows = built.rows_of(piece).filter(pc.field("user_key") == key)
            found.setdefault(view.name, []).extend(rows.drop_columns(["user_key"]).to_pylist())
    return found


def test_an_empty_platform_that_takes_it_in_has_the_same_features(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    other = load_settings(tmp_path / "home")
    try:
        held = holdings(other)
        done = take_in(held, exported.folder, now=CLOSES)
        assert (done.choices, done.refused) == (len(exported.told["consents"]), 0)
        again = take_in(held, exported.folder, now=LATER)
        assert (again.choices, again.accepted.total(), again.duplicates) == (0, 0, done.accepted.total())
        build_only(other, now=CLOSES)
        there = key_of(other)
        assert there != exported.key, "another platform, another secret"
        assert values(other, there) == values(exported.settings, exported.key)
        theirs = collect(held, there, now=CLOSES)
        assert theirs["events"] == exported.told["events"]
        assert [d["allowed"] for d in theirs["decisions"]] == [d["allowed"] for d in exported.told["decisions"]]
    finally:
        connection.stop(other)


def test_what_no_grant_covers_is_not_taken_in(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    other = load_settings(tmp_path / "home")
    try:
        held, key = holdings(other), key_of(other)
        from aap.consent.ledger.records import Entry
        from aap.consent.policy import Status

        later = LATER - timedelta(minutes=1)
        held.desk.record_many(
            [Entry(key, p, Status.WITHDRAWN, later, "them", "form") for p in Purpose], received_at=LATER
        )
        done = take_in(held, exported.folder, now=LATER)
        assert done.accepted.total() == 0
        assert done.refused > 30
        assert held.archive.types() == []
    finally:
        connection.stop(other)


def test_a_corrected_event_leaves_features_as_if_it_had_always_been_right(tmp_path: Path) -> None:
    """One shop whose table has a mistake that is corrected, another whose table never had it."""
    made = []
    for name, right in (("wrong", False), ("right", True)):
        home = tmp_path / name
        home.mkdir()
        table, mapping = write_shop(home / "shop", customers=6)
        named(mapping)
        with table.open(newline="", encoding="utf-8") as source:
            rows = list(csv.DictReader(source))
        for number, row in enumerate(rows):
            row["Ligne"] = f"L{number}"
        theirs = next(r for r in rows if r["Client"] == WHO and r["Date"][3:10] == "11/2023" and int(r["Nombre"]) > 0)
        if right:
            theirs["Prix"], theirs["Nombre"] = "123.45", "1"
        with table.open("w", newline="", encoding="utf-8") as target:
            writer = csv.DictWriter(target, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        settings = load_settings(home)
        import_shop(settings, table, mapping)
        made.append((settings, theirs["Ligne"]))
    (wrong, line), (right_, _) = made
    try:
        held, key = holdings(wrong), key_of(wrong)
        build_only(wrong, now=LATER)
        build_only(right_, now=LATER)
        assert values(wrong, key) != values(right_, key_of(right_))
        note = rectify(
            held, key, source="boutique", event_id=line, changes={"amount": "123.45", "quantity": 1}, now=LATER
        )
        assert (note["event"], note["fields"]) == ("product_purchased", ["amount", "quantity"])
        assert "123.45" not in json.dumps(note)
        build_only(wrong, now=LATER)
        assert values(wrong, key) == values(right_, key_of(right_))
        import_shop(wrong, wrong.home / "shop" / "ventes.csv", wrong.home / "shop" / "boutique.yaml")
        build_only(wrong, now=LATER)
        assert values(wrong, key) == values(right_, key_of(right_)), "the mistaken table doesn't bring the mistake back"
        moved = rectify(held, key, source="boutique", event_id=line, changes={}, occurred_at=CLOSES, now=LATER)
        assert moved["fields"] == ["occurred_at"]
        (row,) = [r for r in held.archive.of(key)["product_purchased"].to_pylist() if r["id"] == line]
        assert (row["occurred_at"], row["amount"]) == (CLOSES, 12345)
        for bad, why in (
            ({"changes": {"colour": "red"}}, "has no field 'colour'"),
            ({"changes": {"quantity": "many"}}, "quantity is not a number"),
            ({"changes": {"amount": None}}, "amount is missing"),
            ({"changes": {}}, "Nothing is to be corrected"),
            ({"changes": {}, "occurred_at": LATER + timedelta(days=1)}, "can't have occurred"),
            ({"changes": {"quantity": 2}, "event_id": "none"}, "has no archived event 'none'"),
        ):
            with pytest.raises(UnusableCorrection, match=why):
                rectify(held, key, **{"source": "boutique", "event_id": line, "now": LATER, **bad})  # type: ignore[arg-type]
        with pytest.raises(UnusableCorrection, match="has no archived event"):
            rectify(
                held, key_of(wrong, "client-5"), source="boutique", event_id=line, changes={"quantity": 2}, now=LATER
            )
    finally:
        connection.stop(wrong)
        connection.stop(right_)


def named(mapping: Path) -> None:
    """Give each row of the shop's table a name of its own."""
    mapping.write_text(mapping.read_text().replace("fields:\n", "id: [Ligne]\nfields:\n", 1))


def import_shop(settings: Settings, table: Path, mapping: Path) -> None:
    from aap.jobs.ingest import import_source

    import_source(settings, str(table), mapping=mapping, now=CLOSES)


def test_leaving_a_person_out_of_a_table_leaves_the_others(tmp_path: Path) -> None:
    table, _ = write_shop(tmp_path, customers=5)
    before = table.read_text().splitlines()
    leave_out(table, "Client", WHO)
    assert table.read_text().splitlines() == [line for line in before if f",{WHO}," not in line]
