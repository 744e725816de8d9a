"""The keys of the JSON object that each `aap bench NAME --json` prints: they keep their names, and are only added to.

A key is a path of names with dots between. `*` stands for names that the run decides (how many people were read at once),
a name that ends in `?` is there only when it was asked for. An object may be null where it could not be measured; its
keys are then missed by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["REPORT_KEYS", "UndeclaredKeys", "check_keys"]

_CONNECTIONS = ("c1", "c16")
_CONTENDERS = (
    "churn",
    "churn_100_users",
    "recommendations",
    "mounted_noop",
    "straight_noop",
    "fastapi_noop",
    "mlflow",
)
_SOAKED = ("churn", "mounted_noop", "straight_noop", "fastapi_noop")
_FITTED = ("recommendation", "churn", "segments", "anomaly")
_ASKED = (
    "top 10, buy_again",
    "top 10, discover",
    "churn, booster alone",
    "churn, with its columns and calibration",
    "churn, reasons",
)


def _under(*levels: str | tuple[str, ...]) -> tuple[str, ...]:
    """Every path through the levels, each a name or several."""
    paths = [""]
    for level in levels:
        names = (level,) if isinstance(level, str) else level
        paths = [f"{path}.{name}" if path else name for path in paths for name in names]
    return tuple(paths)


REPORT_KEYS: dict[str, tuple[str, ...]] = {
    "online": (
        "machine",
        "people",
        *_under(
            "rows",
            "*",
            (
                *("ours_p50_ms", "ours_p99_ms", "feast_p50_ms", "feast_p99_ms", "bare_p50_ms", "bare_p99_ms"),
                *("vs_feast", "vs_bare"),
            ),
        ),
    ),
    "consent": ("machine", "people", *_under("rows", "*", ("with_p50_ms", "without_p50_ms", "added_percent"))),
    "anomaly": (
        *("rows", "marked", "features", "left_out", "gain_auc", "machine"),
        *_under(("forest", "mad_rule"), ("auc", "ap")),
    ),
    "models": (
        *("peak_gb", "machine"),
        *_under(("fit_s", "fit_cpu_s"), _FITTED),
        *_under(("one_p50_ms", "one_cpu_ms", "batch_ms"), _ASKED),
    ),
    "materialize": (
        *("machine", "people", "ours_rows_per_s", "ours_prepare_s", "ours_again_rows_per_s"),
        *("with_changes_rows_per_s", "feast_people", "feast_rows_per_s", "vs_feast"),
    ),
    "live": (
        "machine",
        *_under("steady", ("events_per_s", "p50_ms", "p99_ms")),
        *_under("burst", ("events_per_s", "lost", "double", "readable_events_per_s")),
        *_under("burst", "cpu_us", ("producer", "server", "archive", "workers")),
        *_under("kill", ("lost", "double", "killed")),
    ),
    "offline": (
        *("machine", "labels", "rows", "limit_s"),
        *_under(
            "depth",
            "*",
            (
                *("ours_s", "training_frame_s", "bare_s", "feast_duckdb_s", "feast_dask_s"),
                *("ours_cpu_s", "training_frame_cpu_s", "bare_cpu_s", "feast_duckdb_cpu_s", "feast_dask_cpu_s"),
                *("ours_peak_mb", "unfinished.duckdb?", "unfinished.dask?", "vs_bare", "vs_bare_cpu"),
            ),
        ),
    ),
    "build": (
        *("machine", "spark_skipped", "growth"),
        *_under(
            ("duckdb", "spark", "duckdb_x10"),
            ("events", "change_points", "seconds", "cpu_s", "events_per_s", "peak_mb"),
        ),
    ),
    "withdraw": (
        *("withdrawals", "uses_after_ack", "p50_ms", "p99_ms", "answers", "events"),
        *("answered_after", "rows_after", "recorded_after", "late_events_used", "machine"),
    ),
    "swap": (
        *("swaps", "requests", "failed", "half_loaded", "slowest_live_s", "bad_versions", "bad_answers"),
    ),
    "serve": (
        *("workers", "machine"),
        *_under(_CONTENDERS, _CONNECTIONS, ("p50_ms", "p99_ms", "rps", "cpu_ms", "requests", "failed")),
        *_under(
            "soak?", _SOAKED, ("rps", "requests", "p50_ms", "p99_ms", "rss_start_mb", "rss_end_mb", "stolen")
        ),
    ),
}  # fmt: skip
"""By the benchmark's name on the command line."""


class UndeclaredKeys(Exception):
    """A report has keys that are not declared here, or lacks some that are; the message names them."""


def check_keys(benchmark: str, report: Mapping[str, Any]) -> None:
    """Raise `UndeclaredKeys` unless `report` has exactly the keys that are declared for `benchmark`."""
    if benchmark not in REPORT_KEYS:
        raise UndeclaredKeys(f"The keys of `aap bench {benchmark} --json` are not declared in {__name__}.")
    if wrong := list(_differences(_tree(REPORT_KEYS[benchmark]), report, "")):
        raise UndeclaredKeys(f"`aap bench {benchmark} --json` printed other keys than {__name__}: {', '.join(wrong)}.")


_Tree = dict[str, Any]


def _tree(paths: tuple[str, ...]) -> _Tree:
    root: _Tree = {}
    for path in paths:
        at = root
        for name in path.split("."):
            at = at.setdefault(name, {})
    return root


def _differences(declared: _Tree, found: Any, at: str) -> Iterator[str]:
    if found is None:
        return
    if not isinstance(found, Mapping):
        if declared:
            yield f"{at.rstrip('.') or 'the report'} is no object"
        return
    by_name = {name.removesuffix("?"): below for name, below in declared.items() if name != "*"}
    for name in declared:
        if name != "*" and not name.endswith("?") and name not in found:
            yield f"{at}{name} is missing"
    for name, value in found.items():
        below = by_name.get(str(name), declared.get("*"))
        if below is None:
            yield f"{at}{name} is not declared"
        else:
            yield from _differences(below, value, f"{at}{name}.")
