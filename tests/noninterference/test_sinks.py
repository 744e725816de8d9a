"""Every place that is written to is listed, and no byte of any of them tells what was planted where it may not go."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.features.views import all_views
from aap.privacy.data_inventory import FILES, KEYS, unlisted_file, unlisted_key
from tests.noninterference.test_two_worlds import redis_url  # noqa: F401 - the fixture
from tests.noninterference.world import World, purchase, two_worlds

NEVER = {"ghost": "in no record", "refuser": "said no to everything", "late": "said yes after it happened"}
PURPOSES = sorted({view.purpose for view in all_views()})


def planted(who: str) -> str:
    """What stands for one person's data, and for nothing else in the world."""
    return f"canary-{who}-4f1c"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[World]:  # noqa: F811 - the fixture
    """A world in which everything ran, with a marker planted for each person who may not be seen somewhere."""
    with two_worlds(tmp_path_factory.mktemp("canary"), redis_url) as (made, _):
        without = [f"all-but-{purpose}" for purpose in PURPOSES]
        made.say("refuser", Status.REFUSED)
        made.say("late", Status.WITHDRAWN)
        made.say("ana", Status.GIVEN)
        for purpose, user in zip(PURPOSES, without, strict=True):
            made.say(user, Status.GIVEN, *(p for p in Purpose if p is not purpose))
            made.say(user, Status.REFUSED, purpose)
        made.clock[0] += timedelta(hours=1)
        for number, user in enumerate([*NEVER, *without, "ana"]):
            line = purchase(number, user, planted(user), made.now)
            line["properties"] |= {"department": planted(user), "basket_id": planted(user)}
            made.send(line)
            made.send({**line, "id": f"bad-{number}", "properties": {planted(user): planted(user)}})
            made.send({**line, "id": f"odd-{number}", "type": planted(user)})
        made.clock[0] += timedelta(hours=1)
        made.say("late", Status.GIVEN)
        made.live()
        made.publish()
        made.train()
        made.predict("ana", *NEVER, *without, "a stranger")
        yield made


def everything(world: World) -> dict[str, bytes]:
    """What each file and each Redis key holds, Parquet and gzip opened up."""
    found = {
        f"redis {k.decode()}": k + (world.client.dump(k) or b"") + held(world, k) for k in world.client.scan_iter()
    }
    home = world.settings.home
    for file in (f for f in home.rglob("*") if f.is_file()):
        content = file.read_bytes()
        if file.suffix == ".parquet":
            content += repr(world.rows_in(file)).encode()
        if content[:2] == b"\x1f\x8b":
            content += gzip.decompress(content)
        found[str(file.relative_to(home))] = content
    return found | {"answers": json.dumps(world.answers).encode()}


def held(world: World, key: bytes) -> bytes:
    """A key's value as it was sent: a dump may be compressed."""
    kind = world.client.type(key)
    if kind == b"string":
        return bytes(world.client.get(key))  # type: ignore[arg-type]
    if kind == b"stream":
        return repr(world.client.xrange(key)).encode()
    return repr(world.client.hgetall(key)).encode() if kind == b"hash" else b""


def test_the_archive_is_scanned_behind_its_seal_and_tells_nothing_before_it(world: World) -> None:
    files = list(world.layout.archive.rglob("*.parquet"))
    assert files
    for file in files:
        content = file.read_bytes()
        assert (content[:4], content[-4:]) == (b"PARE", b"PARE")
        assert not [mark for mark in ("canary-", world.key("ana"), "occurred_at") if mark.encode() in content]


def test_every_file_and_key_is_in_a_place_that_is_listed(world: World) -> None:
    files = {str(f.relative_to(world.settings.home)) for f in world.settings.home.rglob("*") if f.is_file()}
    assert {f for f in files - {f"fitted/{n}" for n in world.models["popularity"]} if unlisted_file(f)} == set()
    keys = [k.decode() for k in world.client.scan_iter()]
    assert len(keys) > 10
    assert [k for k in keys if unlisted_key(k)] == []


@pytest.mark.parametrize("path", ["somewhere/new.parquet", "new.db"])
def test_a_new_place_is_not_listed_by_itself(path: str) -> None:
    assert unlisted_file(path)
    assert unlisted_key(f"{{u:{'0' * 32}}}:new")
    assert unlisted_key(path)


def test_every_place_says_what_it_holds_and_the_layout_writes_nowhere_else(world: World) -> None:
    assert all([*FILES.values(), *KEYS.values()])
    home = Path(world.settings.home)
    layout = type(world.layout)
    places = [getattr(world.layout, name) for name, made in vars(layout).items() if isinstance(made, property)]
    assert [p for p in places if unlisted_file(str(p.relative_to(home)))] == []


def test_the_scan_finds_what_is_allowed(world: World) -> None:
    """Else it would prove nothing when it finds nothing."""
    wanted = planted("ana").encode()
    places = {
        name.partition("/")[0].partition(" ")[0] for name, content in everything(world).items() if wanted in content
    }
    assert {"archive", "features", "redis", "fitted", "predictions", "served", "answers"} <= places


@pytest.mark.parametrize("who", NEVER)
def test_nothing_of_who_may_not_be_stored_is_in_any_byte(world: World, who: str) -> None:
    marks = (planted(who).encode(), world.key(who).encode())
    content = everything(world)
    assert [name for name, held in content.items() if marks[0] in held] == []
    if who == "late":
        return  # who they are is known now, and nothing of what they did before
    allowed = ("consent/", f"redis {{u:{world.key(who)}}}:c")
    assert [name for name, held in content.items() if marks[1] in held and not name.startswith(allowed)] == []


@pytest.mark.parametrize("purpose", PURPOSES)
def test_nothing_of_who_refused_a_purpose_is_where_that_purpose_is_served(world: World, purpose: Purpose) -> None:
    who = f"all-but-{purpose}"
    marks = (planted(who).encode(), world.key(who).encode())
    view = purpose.replace(".", "_")
    theirs = {n: c for n, c in everything(world).items() if f"__{view}/" in n or n.endswith(f":f:{purpose}")}
    assert theirs
    assert [name for name, content in theirs.items() if any(mark in content for mark in marks)] == []
    if purpose in (Purpose.PERSONALIZE_PROFILING, Purpose.TRAIN_AI_SYSTEM):
        assert [n for n, c in everything(world).items() if n.startswith("fitted/") and marks[0] in c] == []
        assert marks[0] not in everything(world)["answers"]
