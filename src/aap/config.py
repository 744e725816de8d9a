"""The settings of one process, read from `AAP_*` environment variables and `<home>/aap.env`.

`Settings` is the only place that names an environment variable. Everything else is handed the values it needs.
"""

from __future__ import annotations

import os
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["ProjectUnusable", "Settings", "SettingsError", "default_home", "load_settings", "project_root"]

# Evidently and BentoML report usage to their makers unless told not to; nobody here agreed to that.
for _name, _value in (("DO_NOT_TRACK", "1"), ("BENTOML_DO_NOT_TRACK", "True"), ("MLFLOW_DISABLE_TELEMETRY", "true")):
    os.environ.setdefault(_name, _value)


class SettingsError(ValueError):
    """A setting has a value that can't be used; the message names it."""


class ProjectUnusable(SettingsError):
    """There is no project where one was looked for, or it lacks something; the message says what to do."""


def project_root() -> Path:
    """The folder of the project: `AAP_PROJECT`, else the first one from the working directory upwards, else from `AAP_HOME`.

    A project is a folder whose `pyproject.toml` has a table `[tool.aap]`. Raises `ProjectUnusable` where there is none.
    """
    if named := os.environ.get("AAP_PROJECT"):
        if not _is_project(Path(named)):
            raise ProjectUnusable(
                f"AAP_PROJECT={named!r} is no project: name a folder whose pyproject.toml has a table [tool.aap]."
            )
        return Path(named).resolve()
    starts = [Path.cwd()] + ([Path(home).resolve()] if (home := os.environ.get("AAP_HOME")) else [])
    found = next((folder for start in starts for folder in (start, *start.parents) if _is_project(folder)), None)
    if found is None:
        raise ProjectUnusable(
            f"No project found from {starts[0]} upwards: run this within one, or name its folder by --project or AAP_PROJECT."
        )
    return found


def _is_project(folder: Path) -> bool:
    try:
        return "aap" in tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError):
        return False


def _found_project() -> Path | None:
    try:
        return project_root()
    except ProjectUnusable:
        return None


def _own_conf() -> Path:
    return (_found_project() or Path.cwd()) / "conf"


class Settings(BaseSettings):
    """Every setting with its default; `AAP_HOME=/data/aap` in the environment sets `home`, and so on."""

    model_config = SettingsConfigDict(env_prefix="AAP_", extra="ignore", frozen=True)

    home: Path = Field(default=Path("var"), description="Folder for all data; only data_uri may name another place.")
    data_uri: str | None = Field(
        default=None,
        description="Where archive and offline features are: a folder or s3://bucket/prefix; <home> by default.",
    )
    seal_archive: bool = Field(
        default=True, description="Encrypt the archive's files, with keys of this home; off: files are written open."
    )
    project: Path | None = Field(
        default_factory=_found_project,
        description="Folder of the project; found from the working directory or the home upwards by default.",
    )
    settings_dir: Path = Field(
        default_factory=_own_conf,
        description="Folder with training.yaml, flags.json and experiments.yaml; the project's conf/ by default.",
    )
    run_dir: Path | None = Field(
        default=None,
        description="Folder that says where this machine's service listens, for replicas of one home; <home>/run by default.",
    )
    redis_url: str | None = Field(
        default=None, description="Redis to use; without it a server is started under <home>/redis."
    )
    redis_cluster: bool = Field(
        default=False, description="Whether the server of redis_url is a node of a Redis Cluster; the others are found."
    )
    controller: str = Field(
        default="The operator of this platform",
        description="Who answers for the data, as receipts and certificates name it.",
    )
    ledger_url: str | None = Field(default=None, description="SQLAlchemy URL of the consent ledger; SQLite by default.")
    mlflow_url: str | None = Field(default=None, description="MLflow tracking URI; SQLite under <home> by default.")
    engine: Literal["duckdb", "spark"] = Field(
        default="duckdb", description="What computes features and joins training frames: duckdb (one machine) or spark."
    )
    spark_master: str = Field(
        default="local[2]",
        description="Spark's master: local[2], spark://host:7077, yarn, k8s://…, or sc://host:15002 for Spark Connect.",
    )
    clock_shift: timedelta = Field(
        default=timedelta(0),
        description="Added to the system clock, e.g. -3246d; lets a shop whose data ends in 2017 be run as of then.",
    )
    host: str = Field(default="127.0.0.1", description="Address the service listens on; loopback by default.")
    port: int = Field(default=0, ge=0, le=65535, description="Port of the service; 0 picks a free one.")
    mlflow_port: int = Field(default=0, ge=0, le=65535, description="Port of the MLflow page; 0 picks a free one.")
    feast_port: int = Field(default=0, ge=0, le=65535, description="Port of the Feast page; 0 picks a free one.")
    open_metrics: bool = Field(default=False, description="Serve /metrics without an API key.")
    open_docs: bool = Field(default=False, description="Serve /docs and /openapi.json without an API key.")
    max_users_per_call: int = Field(default=1_000, ge=1, description="Users one prediction call may name.")
    served_sample_rate: float = Field(
        default=0.01, ge=0, le=1, description="Share of served feature vectors kept to be recomputed and compared."
    )
    served_sample_days: int = Field(default=30, ge=1, description="Days a kept vector is kept.")
    shadow: float = Field(
        default=0.0, ge=0, le=1, description="Share of calls that challengers get a copy of, 0 to 1; none by default."
    )
    flagd_url: str | None = Field(
        default=None,
        description="flagd server that serves <home>/run/flags.json, e.g. grpc://localhost:8015; none by default.",
    )
    watch_minutes: float = Field(
        default=5.0,
        ge=0,
        description="Minutes between two looks at running experiments, by `aap live`; 0 for none.",
    )
    workers: int = Field(default=1, ge=1, le=64, description="Processes that answer, each with its own models.")
    rate_limit: int = Field(default=1_000, ge=0, description="Calls a minute one API key may make; 0 for no limit.")
    deadline_s: float = Field(default=10.0, gt=0, description="Seconds a call may take, its body's arrival included.")
    max_waiting: int = Field(
        default=256, ge=1, description="Calls in a worker at once; more are answered by 503 at once."
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM certificate chain; with it the service speaks TLS 1.3 only."
    )
    tls_key: Path | None = Field(default=None, description="PEM key of the certificate.")
    traces_url: str | None = Field(
        default=None, description="OpenTelemetry collector that gets traces (OTLP by HTTP), e.g. http://localhost:4318."
    )
    traces_share: float = Field(default=1.0, ge=0, le=1, description="Share of calls that are traced, 0 to 1.")
    log_json: bool = Field(default=False, description="Write logs as JSON lines.")

    def now(self) -> datetime:
        """The platform's clock, UTC. Only the doors (CLI, HTTP handlers, notebooks) call it."""
        return datetime.now(UTC) + self.clock_shift


def default_home() -> Path:
    """`AAP_HOME`, else `var` in the project (wherever in it a command is run), else `./var`."""
    named = os.environ.get("AAP_HOME")
    return Path(named).resolve() if named else (_found_project() or Path.cwd()) / "var"


def load_settings(home: Path | None = None) -> Settings:
    """Settings from the environment, then `<home>/aap.env`, then the defaults.

    Raises `SettingsError` with one sentence for each value that can't be used.
    """
    chosen = home.resolve() if home else default_home()
    try:
        return Settings(_env_file=chosen / "aap.env", home=chosen)  # type: ignore[call-arg]
    except ValidationError as error:
        problems = "; ".join(f"AAP_{e['loc'][0]!s}".upper() + f"={e['input']!r}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"Unusable setting: {problems}.") from None
