"""Every command answers wrong input with one sentence on standard error and a non-zero exit, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aap.cli.commands import bench
from aap.cli.main import main
from aap.config import load_settings
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_desk
from aap.infra.redis import connection
from aap.project.loader import Project

_MAPPING = """\
source: s
event: product_purchased
user_id: who
occurred_at: at
fields: {basket_id: b, item_id: i, quantity: q, amount: m}
consent: {ledger: true}
"""
_ROW = "who,at,b,i,q,m\nana,2024-05-01,1,1,1,1\n"


@dataclass(frozen=True, slots=True)
class Aap:
    """Runs commands in this process, as the console script does."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def refusal(self, *arguments: str | Path, code: int | None = None) -> str:
        """What a command says as it fails, with `code` if one is named."""
        self.monkeypatch.setattr(sys, "argv", ["aap", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code not in (0, None)
        assert code in (None, ended.value.code)
        said = self.capsys.readouterr().err
        assert "Traceback" not in said
        (sentence,) = [line for line in said.splitlines() if line.startswith("Error:")]
        return sentence


@pytest.fixture
def aap(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Aap]:
    """The command line, on an empty home."""
    yield Aap(capsys, monkeypatch)
    connection.stop(load_settings(home))


@pytest.fixture
def files(home: Path, tmp_path: Path) -> Path:
    """A folder with a table, its mapping, and several broken ones."""
    (tmp_path / "ok.csv").write_text(_ROW)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "mixed.csv").write_bytes(_ROW.replace("\n", "\r\n").encode() * 50 + b"1,2,3,4,5,6\n")
    (tmp_path / "ok.yaml").write_text(_MAPPING)
    (tmp_path / "unknown.yaml").write_text(_MAPPING.replace("product_purchased", "product_eaten"))
    (tmp_path / "no_consent.yaml").write_text(_MAPPING.replace("consent: {ledger: true}\n", ""))
    (tmp_path / "columns.yaml").write_text(_MAPPING.replace("item_id: i", "item_id: article"))
    (tmp_path / "torn.yaml").write_text("source: [")
    return tmp_path


@pytest.mark.parametrize(
    ("table", "mapping", "said"),
    [
        ("missing.csv", "ok.yaml", "no file"),
        ("empty.csv", "ok.yaml", "empty"),
        ("torn.parquet", "ok.yaml", "can't be read"),
        ("mixed.csv", "ok.yaml", "one kind of line ending"),
        ("ok.csv", "missing.yaml", "can't be read"),
        ("ok.csv", "torn.yaml", "not YAML"),
        ("ok.csv", "unknown.yaml", "Unknown event type 'product_eaten'"),
        ("ok.csv", "no_consent.yaml", "consent"),
        ("ok.csv", "columns.yaml", "no column 'article'"),
    ],
)
def test_an_import_that_cannot_be_done_says_why(files: Path, aap: Aap, table: str, mapping: str, said: str) -> None:
    assert said in aap.refusal("import", files / table, "--mapping", files / mapping)


def test_training_before_there_is_data_says_what_to_do(aap: Aap) -> None:
    assert "import more history" in aap.refusal("train", "churn")


def test_an_unknown_model_feature_or_purpose_is_answered_with_the_known_ones(aap: Aap) -> None:
    assert "churn" in aap.refusal("train", "crystal-ball")
    assert "aap features list" in aap.refusal("features", "show", "shoe_size")
    assert "train_ai_system" in aap.refusal("consent", "grant", "ana", "world.domination")


def test_a_rollback_with_nothing_to_roll_back_to_says_so(aap: Aap) -> None:
    assert "no previous champion" in aap.refusal("models", "rollback", "churn")


def test_a_redis_that_is_not_there_is_named_without_its_password(home: Path, aap: Aap) -> None:
    home.mkdir()
    (home / "aap.env").write_text("AAP_REDIS_URL=redis://:secret@127.0.0.1:1/0\n")
    said = aap.refusal("consent", "show", "ana")
    assert "127.0.0.1:1" in said
    assert "secret" not in said


def test_a_missing_model_store_is_named(home: Path, aap: Aap) -> None:
    home.mkdir()
    (home / "aap.env").write_text("AAP_MLFLOW_URL=sqlite:////dev/null/mlflow.db\n")
    assert "model registry" in aap.refusal("models", "list")


def test_a_clock_before_the_last_choice_dates_no_choice(aap: Aap, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, now = open_desk(load_settings(home)), load_settings(home).now()
    desk.record("a" * 32, Purpose.TRAIN_AI_SYSTEM, Status.GIVEN, said_by="them", method="form", indicated_at=now,
                received_at=now)  # fmt: skip
    monkeypatch.setenv("AAP_CLOCK_SHIFT", "-1d")
    for words in (
        ("withdraw", "ana", "marketing.retention"),
        ("grant", "ana", "train_ai_system"),
        ("gpc", "ana", "on"),
    ):
        assert "but the consent ledger's last record is of" in aap.refusal("consent", *words)
    assert desk.ledger.size() == 1


def test_without_a_checkout_bench_says_where_the_benchmarks_are(
    aap: Aap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "current_project", lambda: Project(tmp_path))
    for words in (["bench"], ["bench", "online"], ["bench", "--help"]):
        assert aap.refusal(*words, code=2) == (
            "Error: Benchmarks live in the repository's checkout: run `aap bench` from there."
        )
