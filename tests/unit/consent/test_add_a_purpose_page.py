"""docs/add-a-purpose.md, followed to the letter, on a copy of the code with people who chose before it was added."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from aap.config import Settings
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_desk
from aap.infra.redis.connection import connect
from tests.docs.pages import DOCS, ROOT, blocks
from tests.waiting import PATIENCE_S

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
ANA = "a" * 32

_AFTERWARDS = """
from datetime import UTC, datetime, timedelta
from aap.consent import redis_projection
from aap.consent.service import open_desk
from aap.consent.policy import Status
from aap.consent.purposes import Purpose, spec
from aap.config import load_settings
from aap.infra.redis.connection import connect

settings, now, ana = load_settings(), datetime(2024, 6, 1, 12, tzinfo=UTC), "a" * 32
client, desk = connect(settings), open_desk(settings)

def told(purpose, now=now):
    decision = redis_projection.decisions([client.get(redis_projection.consent_key(ana))], purpose=purpose, now=now)[0]
    return f"{purpose} {decision.allowed} {decision.reason}"

assert list(Purpose)[-1] is Purpose.COMMUNITY_REVIEWS, list(Purpose)
assert spec(Purpose.COMMUNITY_REVIEWS).needs_consent
print("before:", told(Purpose.TRAIN_AI_SYSTEM), told(Purpose.COMMUNITY_REVIEWS), sep="; ")
desk.catch_up(now=now)
print("projected:", told(Purpose.TRAIN_AI_SYSTEM), told(Purpose.COMMUNITY_REVIEWS), sep="; ")
later = now + timedelta(minutes=1)
desk.record(ana, Purpose.COMMUNITY_REVIEWS, Status.GIVEN, said_by="her", method="form", indicated_at=later, received_at=later)
print("asked:", told(Purpose.COMMUNITY_REVIEWS, later), sep="; ")

from aap.features.declarations import Aggregate, Op
from aap.features.views import make_views
made = make_views([Aggregate(event="product_purchased", op=Op.COUNT, window="7d", description="Lines.", unit="lines",
                             purposes=frozenset({Purpose.COMMUNITY_REVIEWS}))])
print("view:", made[0].name)
"""


def edited(copy: Path) -> None:
    """Steps 2 and 3, as a person would do them."""
    member, meaning = blocks(DOCS / "add-a-purpose.md", "python")
    path = copy / "src" / "aap" / "consent" / "purposes.py"
    source = path.read_text(encoding="utf-8")
    last = '    THIRD_PARTY_SHARING = "third_party_sharing"\n'
    assert last in source
    source = source.replace(last, last + member)
    head, closing, rest = source.partition("\n}\n\n\ndef spec(")
    assert closing
    path.write_text(f"{head}\n{meaning}}}\n\n\ndef spec({rest}", encoding="utf-8")


def test_the_page_s_purpose_is_denied_to_all_until_asked_and_the_others_keep_what_was_said(
    settings: Settings, tmp_path: Path
) -> None:
    open_desk(settings).record(
        ANA, Purpose.TRAIN_AI_SYSTEM, Status.GIVEN, said_by="her", method="form", indicated_at=NOW, received_at=NOW
    )
    open_desk(settings).catch_up(now=NOW)
    connect(settings).close()
    shutil.copytree(ROOT / "src", tmp_path / "copy" / "src", ignore=shutil.ignore_patterns("__pycache__"))
    edited(tmp_path / "copy")
    done = subprocess.run(
        [sys.executable, "-c", _AFTERWARDS], cwd=tmp_path / "copy", capture_output=True, text=True, timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "copy" / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "before:; train_ai_system False consent_unavailable; community.reviews False consent_unavailable",
        "projected:; train_ai_system True granted; community.reviews False not_granted",
        "asked:; community.reviews True granted",
        "view: user__community_reviews",
    ]
