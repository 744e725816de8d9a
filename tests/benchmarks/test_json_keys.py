"""What `aap bench NAME --json` prints keeps its keys: they are only added, and json_keys.txt holds those promised so far.

Those that take seconds are run by the tests of online and offline, which check the keys of what they measured.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import cli as bench, consent_withdrawal, feature_build, model_swap, models, serving, streaming
from benchmarks.support.load_generator import Figures
from benchmarks.support.report_keys import REPORT_KEYS, UndeclaredKeys, check_keys

_LIST = Path(__file__).with_name("json_keys.txt")
"""One key a line, after the benchmark's name. A line is added with a key, and never taken out."""


def _promised() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for line in _LIST.read_text(encoding="utf-8").splitlines():
        name, _, key = line.partition(": ")
        found[name].add(key)
    return found


def test_every_promised_key_is_declared_and_every_declared_key_is_promised() -> None:
    assert {name: set(keys) for name, keys in REPORT_KEYS.items()} == _promised()


def test_every_benchmark_has_its_keys_declared() -> None:
    command = typer.main.get_command(bench.app)
    assert set(REPORT_KEYS) == set(command.commands)  # type: ignore[attr-defined]


def _live() -> dict[str, Any]:
    cpu = {"producer": 1.0, **dict.fromkeys(("server", "archive", "workers"), 1.0)}
    return streaming.LiveReport(
        streaming.Steady(1, 1.0, 1.0), streaming.Burst(1, 0, 0, 1, cpu), streaming.Kill(0, 0, 3), machine=""
    ).to_dict()


def _models() -> dict[str, Any]:
    fitted = dict.fromkeys(models.FITTED, 1.0)
    asked = dict.fromkeys([f"top 10, {strategy}" for strategy in models.STRATEGIES], 1.0) | dict.fromkeys(
        ("churn, booster alone", "churn, with its columns and calibration", "churn, reasons"), 1.0
    )
    return models.Costs(fitted, fitted, 1.0, asked, asked, asked, machine="").to_dict()


def _build(*, spark: bool = True) -> dict[str, Any]:
    line = feature_build.Line(1, 1, 1.0, 1.0, 1, 1)
    return feature_build.BuildReport("", line, line if spark else None, line).to_dict()


def _withdraw() -> dict[str, Any]:
    return consent_withdrawal.WithdrawReport(1, 0, 1.0, 1.0, 1, 1, 0, 0, 0, 0, machine="").to_dict()


def _swap() -> dict[str, Any]:
    return model_swap.SwapReport(20, 10_000, 0, 0, 1.0, 4, 0).to_dict()


def _serve(*, soak: bool = False) -> dict[str, Any]:
    names = ("churn", "churn_100_users", "recommendations", "mounted_noop", "straight_noop", "fastapi_noop", "mlflow")
    figures = Figures([0.1], 0, 0.1, 0.1).to_dict()
    lasting = serving.Soak(1.0, 1, 1.0, 1.0, 1.0, 1.0, 0.0)
    soaked = dict.fromkeys(("churn", "mounted_noop", "straight_noop", "fastapi_noop"), lasting) if soak else {}
    return serving.ServeReport("", {name: {"c1": figures, "c16": figures} for name in names}, soaked).to_dict()


@pytest.mark.parametrize(
    ("name", "report"),
    [
        pytest.param("live", _live, id="live"),
        pytest.param("models", _models, id="models"),
        pytest.param("build", _build, id="build"),
        pytest.param("build", lambda: _build(spark=False), id="build without Spark"),
        pytest.param("withdraw", _withdraw, id="withdraw"),
        pytest.param("swap", _swap, id="swap"),
        pytest.param("serve", _serve, id="serve"),
        pytest.param("serve", lambda: _serve(soak=True), id="serve with a soak"),
    ],
)
def test_the_report_of_a_long_benchmark_has_the_declared_keys(name: str, report: Callable[[], dict[str, Any]]) -> None:
    check_keys(name, json.loads(json.dumps(report())))


def test_a_benchmark_prints_the_declared_keys(home: Path, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("a,b,odd\n" + "".join(f"{i % 7},{i % 5},{int(i % 20 == 0)}\n" for i in range(100)))
    done = CliRunner().invoke(bench.app, ["anomaly", str(table), "--label", "odd", "--json"])
    assert done.exception is None, done.exception
    check_keys("anomaly", json.loads(done.stdout.strip().splitlines()[-1]))


def test_a_benchmark_whose_keys_are_not_the_declared_ones_prints_its_figures_and_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = _swap()
    report["wrong_answers"] = report.pop("bad_answers")
    with pytest.raises(UndeclaredKeys, match="bad_answers is missing, wrong_answers is not declared"):
        bench._print_json("swap", report)
    assert json.loads(capsys.readouterr().out)["wrong_answers"] == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": {"10": {"with_p50_ms": 1.0, "without_p50_ms": 1.0}}}, "rows.10.added_percent is missing"),
        ({"rows": [1]}, "rows is no object"),
        ({"people": {"many": 1}}, "people.many is not declared"),
    ],
)
def test_a_difference_below_the_top_is_found(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UndeclaredKeys, match=told):
        check_keys("consent", {"machine": "", "people": 1, "rows": {}, **change})


def test_what_could_not_be_measured_is_null() -> None:
    check_keys("consent", {"machine": "", "people": 1, "rows": None})
