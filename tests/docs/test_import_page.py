"""docs/import.md: its examples are mappings that work, and it explains every key there is."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aap.config import Settings
from aap.events.importing.mapping import Consent, ConsentTable, Lookup, Mapping, StatedGrant, Value, load_mapping
from aap.infra.object_store import archive_folder
from aap.jobs.ingest import import_source
from tests.docs.pages import DOCS, ROOT, blocks

PAGE = DOCS / "import.md"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
EXAMPLES = {re.match(r"# (\S+)\n", text)[1]: text for text in blocks(PAGE, "yaml")}  # type: ignore[index]


def written(folder: Path, name: str, rows: list[list[object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / name


def mapping(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(EXAMPLES[name])
    return folder / name


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_is_a_mapping(name: str, tmp_path: Path) -> None:
    assert isinstance(load_mapping(mapping(tmp_path, name)), Mapping)


@pytest.mark.parametrize("part", [Mapping, Value, Lookup, ConsentTable, StatedGrant, Consent])
def test_every_key_is_explained(part: type) -> None:
    said = PAGE.read_text()
    missing = [key for key in part.model_fields if not re.search(rf"[`{{ ,(]{key}[`:, )}}]", said)]
    assert missing == []


def test_the_readme_shows_a_mapping_that_works(tmp_path: Path) -> None:
    examples = blocks(ROOT / "README.md", "yaml")
    assert examples
    for i, text in enumerate(examples):
        (tmp_path / f"{i}.yaml").write_text(text)
        assert load_mapping(tmp_path / f"{i}.yaml").event == "product_purchased"


def test_the_whole_example_takes_a_french_shop_in(tmp_path: Path, settings: Settings) -> None:
    shop = tmp_path / "shop"
    sales: list[list[object]] = [
        ["Commande", "Client", "Article", "Nombre", "Prix", "Date", "Rayon"],
        ["C1", "anne", "pull", 2, "19.90", "03/05/2026 18:05", "laine"],
        ["C2", "anne", "pull", -1, "19.90", "04/05/2026 10:00", "laine"],
        ["C3", "bob", "gant", 1, "9.00", "03/05/2026 12:00", ""],
        ["C4", "", "gant", 1, "9.00", "03/05/2026 12:00", ""],
        ["C5", "anne", "gant", "deux", "9.00", "03/05/2026 12:00", ""],
    ]
    answers: list[list[object]] = [
        ["qui", "pourquoi", "reponse", "quand"],
        ["anne", "marketing.retention", "oui", "01/05/2026"],
        ["bob", "marketing.retention", "non", "01/05/2026"],
        ["bob", "essential.fraud_detection", "fini", "01/05/2026"],
    ]
    table = written(shop, "ventes.csv", sales)
    written(shop, "accords.csv", answers)
    report = import_source(settings, str(table), mapping=mapping(shop, "boutique.yaml"), now=NOW)
    assert report.accepted == {"product_purchased": 1, "product_returned": 1}
    assert report.refused == {"refused": 1, "no_subject": 1}
    assert report.rejected.total() == 1


def test_values_come_from_columns_products_sums_constants_and_lookups(tmp_path: Path, settings: Settings) -> None:
    import duckdb

    from aap.events.archive import Archive

    shop = tmp_path / "shop"
    choices = written(
        shop, "c.csv", [["customer", "purpose", "answer", "day"], ["7", "marketing.retention", "yes", "2026-01-01"]]
    )
    import_source(settings, str(choices), mapping=mapping(shop, "choices.yaml"), now=NOW)
    written(shop, "products.csv", [["article_number", "aisle"], ["m1", "dairy"]])
    head = ["customer", "receipt", "sku", "sold_at", "unit_price", "pieces", "coupon", "coupon_match"]
    rows = written(shop, "till.csv", [head, ["7", "r1", "m1", 1777629600, "1.25", "3", "0.50", ""]])
    assert import_source(settings, str(rows), mapping=mapping(shop, "values.yaml"), now=NOW).accepted.total() == 1
    with duckdb.connect() as connection:
        archived = Archive(archive_folder(settings)).sql("product_purchased", on=connection)
        found = connection.execute(f"SELECT quantity, amount, coupon_discount, department FROM {archived}").fetchall()
    assert found == [(1, 375, 50, "dairy")]


def test_what_came_before_a_stated_grant_is_kept_for_fraud_detection_alone(tmp_path: Path, settings: Settings) -> None:
    from aap.features.retrieval import open_retrieval

    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "stated.yaml").write_text(EXAMPLES["stated.yaml"].replace("2024-01-01", "2026-01-01"))
    rows = [["customer", "time", "receipt", "article", "pieces", "total"]]
    rows += [["anna", f"{day} 09:00", f"r-{day}", "milk", 1, "1.25"] for day in ("2025-12-31", "2026-02-01")]
    report = import_source(settings, str(written(shop, "s.csv", rows)), mapping=shop / "stated.yaml", now=NOW)
    assert (report.choices, report.accepted.total()) == (4, 2)
    retrieval = open_retrieval(settings)
    assert retrieval.interactions("anomaly", as_of=NOW).table.num_rows == 2
    assert retrieval.interactions("recommendation", as_of=NOW).table.num_rows == 1
