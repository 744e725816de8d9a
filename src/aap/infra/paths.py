"""The folders and files under home: the one list of every place the platform writes to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aap.config import Settings

__all__ = ["Layout", "own_run"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below `home`. A property names a place; nothing is created by asking for it."""

    home: Path

    @property
    def redis(self) -> Path:
        """Embedded Redis: its data, log and password."""
        return self.home / "redis"

    @property
    def keys(self) -> Path:
        """Secret keys, readable by the owner alone."""
        return self.home / "keys"

    @property
    def ledger(self) -> Path:
        """Consent ledger (SQLite)."""
        return self.home / "consent" / "ledger.db"

    @property
    def id_map(self) -> Path:
        """Encrypted map from user_key to user id (SQLite)."""
        return self.home / "security" / "id_map.db"

    @property
    def api_keys(self) -> Path:
        """Hashed API keys (SQLite)."""
        return self.home / "security" / "api_keys.db"

    @property
    def audit(self) -> Path:
        """Who did or tried what at the guarded doors (JSON lines)."""
        return self.home / "security" / "audit"

    @property
    def archive(self) -> Path:
        """Event archive: `<event type>/day=YYYY-MM-DD/*.parquet`."""
        return self.home / "archive"

    @property
    def catalogue(self) -> Path:
        """Item catalogue (Parquet)."""
        return self.home / "catalogue" / "items.parquet"

    @property
    def rejected(self) -> Path:
        """Rejected rows and events with their reasons (SQLite)."""
        return self.home / "rejected" / "rejected.db"

    @property
    def features(self) -> Path:
        """Offline feature views: `<view>/*.parquet`."""
        return self.home / "features"

    @property
    def feast_registry(self) -> Path:
        """Feast's registry file."""
        return self.home / "feast" / "registry.db"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts."""
        return self.home / "mlflow"

    @property
    def tuning(self) -> Path:
        """Studies of `aap tune` (SQLite)."""
        return self.home / "tuning"

    @property
    def aggregates(self) -> Path:
        """Daily aggregates (Parquet)."""
        return self.home / "aggregates"

    @property
    def reports(self) -> Path:
        """HTML and JSON reports: drift, retrain summaries."""
        return self.home / "reports"

    @property
    def exposures(self) -> Path:
        """Experiment exposures (Parquet)."""
        return self.home / "exposures"

    @property
    def vitals(self) -> Path:
        """How fast and how soundly each variant answers, as sums (Parquet)."""
        return self.home / "vitals"

    @property
    def shadow(self) -> Path:
        """How challengers differ from champions on copies of calls, as sums (Parquet)."""
        return self.home / "shadow"

    @property
    def predictions(self) -> Path:
        """Prediction records (Parquet)."""
        return self.home / "predictions"

    @property
    def served(self) -> Path:
        """Sample of the feature vectors that were served (Parquet)."""
        return self.home / "served"

    @property
    def tombstones(self) -> Path:
        """Who was erased, as digests (SQLite)."""
        return self.home / "privacy" / "tombstones.db"

    @property
    def certificates(self) -> Path:
        """Signed certificates of erasures and corrections (JSON)."""
        return self.home / "privacy" / "certificates"

    @property
    def alerts(self) -> Path:
        """Alerts of unusual events, sessions and people (Parquet)."""
        return self.home / "alerts"

    @property
    def run(self) -> Path:
        """Lock files and the state of background processes."""
        return self.home / "run"

    @property
    def logs(self) -> Path:
        """Logs of background processes."""
        return self.home / "logs"


def own_run(settings: Settings) -> Path:
    """The folder of this machine's service: `run_dir`, where replicas share a home and each says for itself where it is."""
    return settings.run_dir.absolute() if settings.run_dir else Layout(settings.home).run
