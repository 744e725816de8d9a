"""A/A on the demo: a real year of purchases, people split by the real splitter into two arms that are treated the same."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from aap.config import Settings
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.experiments.analysis.outcomes import admitted
from aap.experiments.analysis.plan import Plan
from aap.experiments.analysis.results import check_split, compare
from aap.experiments.assignment.exposures import Exposures, read_exposures
from aap.experiments.flags.definition import slot_in
from aap.experiments.flags.store import Flags
from aap.infra.object_store import archive_folder
from aap.infra.paths import Layout
from aap.infra.redis import connection
from pipelines.demo.complete_journey import SHOP_CLOSES
from pipelines.demo.story import Story

NOW = SHOP_CLOSES + timedelta(hours=12)
DRAWS = 100


@pytest.mark.full
def test_of_a_hundred_splits_of_the_demos_people_at_most_five_ever_show_a_difference(tmp_path: Path) -> None:
    shift = NOW - datetime.now(UTC)
    settings = Settings(home=tmp_path / "home", clock_shift=shift)
    settings.home.mkdir()
    story = Story(settings)
    story.draw_choices(seed=7)
    for location, mapping in story.imports():
        if location.endswith(("choices.csv", "transactions.parquet")) or "transactions" in location:
            story.bring_in(location, mapping, progress=lambda *_: None)
    layout, ledger = Layout(settings.home), open_ledger(settings)
    entry = {"state": "ENABLED", "variants": {"a": "a", "b": "b"}, "defaultVariant": "a"}
    entry["targeting"] = {"fractional": [["a", 50], ["b", 50]]}
    source = tmp_path / "flags.json"
    source.write_text(json.dumps({"flags": {f"aa{i}": entry for i in range(DRAWS)}}))
    flags, log = Flags(source, checked=tmp_path / "run" / "flags.json"), Exposures(layout.exposures)
    for person in sorted(ledger.standing()):
        came = datetime(2017, 8, 1, tzinfo=UTC) + timedelta(days=60 * slot_in("came", user_key=person) / 1_000)
        log.log(person, flag="aa", variant="a", split="a:50,b:50", at=came)
    log.close()
    standing = ledger.standing(in_force_at=NOW)
    people = admitted(read_exposures(layout.exposures, flag="aa", until=NOW), standing=standing)
    assert len(people) > 1_000
    shown = blocked = 0
    for i in range(DRAWS):
        variants = np.array([flags.bucket(flags.get(f"aa{i}"), user_key=p) for p in people.user_keys], dtype=object)
        drawn = replace(people, variants=variants)
        archive, flag = Archive(archive_folder(settings)), flags.get(f"aa{i}")
        _, (found,) = compare(drawn, flag, Plan(), control="a", archive=archive, as_of=NOW)
        late = found.curve.people >= 200
        shown += bool(((found.curve.low > 0) | (found.curve.high < 0))[late].any())
        blocked += not check_split(drawn).sound
    flags.close()
    connection.stop(settings)
    assert shown <= 5
    assert blocked == 0
