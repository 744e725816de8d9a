"""A home whose archive and features are in an S3 bucket gives what a home on disk gives, value for value."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from aap.config import Settings, load_settings
from aap.consent.policy import Status
from aap.consent.service import open_desk
from aap.events.archive import Archive
from aap.features.declarations import Entity
from aap.features.feast.store import apply, materialize, open_store
from aap.features.offline.store import built_view
from aap.features.purpose_context import purpose_in_force
from aap.features.views import all_views, view_for
from aap.infra.errors import PlaceUnusable
from aap.infra.object_store import Folder, archive_folder, features_folder
from aap.infra.redis.connection import connect
from tests.unit.events.corner_shop import CornerShop
from tests.unit.features.store_room import AS_OF, ASKED, COLUMNS, EVERYTHING, RETENTION, SALES, StoreRoom

CUSTOMERS = ("customer-0", "customer-1", "customer-2")
PEOPLE = view_for(Entity.USER, RETENTION)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A URL of a folder in a bucket of an S3 server on this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("AWS_ACCESS_KEY_ID", "somebody")
            patched.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            options = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1"
            files, _ = fs.FileSystem.from_uri(f"s3://shop?{options}&allow_bucket_creation=true")
            files.create_dir("shop")
            yield f"s3://shop/it's/data?{options}"
    finally:
        server.stop()


@pytest.fixture
def rooms(running: Settings, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, StoreRoom]:
    """The same small shop twice, with the same keys: on disk, and with its data in the bucket."""
    monkeypatch.setattr(Settings, "now", lambda _: AS_OF)
    disk = StoreRoom(running, CornerShop(running, tmp_path / "shop"))
    _fill(disk, day=1)
    far = tmp_path / "far"
    far.mkdir()
    (far / "aap.env").write_text(f'AAP_DATA_URI="{bucket}"\n')
    shutil.copytree(disk.layout.keys, far / "keys")
    s3 = load_settings(far)
    connect(running).flushall()  # it obeys the first shop's ledger, which is longer than the second's as that begins
    Folder.at(bucket).clear()
    room = StoreRoom(s3, CornerShop(s3, tmp_path / "shop"))
    _fill(room, day=1)
    for one in (disk, room):
        one.build()
    return {"disk": disk, "s3": room}


def _fill(room: StoreRoom, *, day: int) -> None:
    """Everybody allows everything, and buys twice on a day, once of it received a week late."""
    for who in CUSTOMERS:
        for purpose in EVERYTHING:
            room.say(who, purpose, Status.GIVEN, at=ASKED)
    rows = []
    for i, who in enumerate(CUSTOMERS):
        at = ASKED + timedelta(days=30 * day, hours=i)
        for late in (0, 7):
            came = at + timedelta(days=late)
            rows.append(
                (who, f"{who}-{day}-{late}", f"i{i}", 1 + i, "1.25", at.isoformat(), came.isoformat(), "g", "l", "")
            )
    room.shop.bring(room.shop.csv(rows, columns=COLUMNS, name=f"day{day}.csv"), SALES, now=AS_OF)


def _labels(room: StoreRoom) -> pd.DataFrame:
    keys = room.keys(*CUSTOMERS, *CUSTOMERS)
    moments = [AS_OF - timedelta(days=20 * i) for i in range(len(keys))]
    return pd.DataFrame({"user_key": keys, "as_of": pd.to_datetime(moments, utc=True), "label": range(len(keys))})


def test_import_build_training_and_materialization_are_the_same_from_a_bucket(rooms: dict[str, StoreRoom]) -> None:
    told: dict[str, list[object]] = {}
    for name, room in rooms.items():
        labels = _labels(room)
        frame = room.door().training_frame(labels, service="churn", as_of=AS_OF)
        apply(room.settings)
        with purpose_in_force(RETENTION):
            historical = open_store(room.settings).get_historical_features(
                entity_df=labels.rename(columns={"as_of": "event_timestamp"}),
                features=[f"{PEOPLE.name}:{f}" for f in PEOPLE.names],
            )
        open_desk(room.settings).catch_up(now=AS_OF, everyone=True)
        materialize(room.settings, as_of=AS_OF)
        online = room.read(RETENTION, *CUSTOMERS)
        assert online.values[:, 3].tolist() == room.offline(RETENTION, *CUSTOMERS, at=AS_OF)[:, 3].tolist()
        bought = room.door().interactions("recommendation", as_of=AS_OF).table
        told[name] = [
            room.shop.events(), frame.data, frame.manifest.rows_root, historical.to_df(), online.values, bought,
            [p for v in all_views() for p in built_view(features_folder(room.settings), v).pieces],
        ]  # fmt: skip
        connect(room.settings).flushall()
    for disk, s3 in zip(told["disk"], told["s3"], strict=True):
        if isinstance(disk, pd.DataFrame):
            pd.testing.assert_frame_equal(disk, s3)
        elif isinstance(disk, np.ndarray):
            np.testing.assert_array_equal(disk, s3)
        else:
            assert disk == s3
    assert len(told["s3"][0]) == 6  # type: ignore[arg-type]
    assert not list(rooms["s3"].settings.home.rglob("*.parquet")), "nothing of it lies on this machine"
    for room in rooms.values():
        archive = room.shop.archive
        assert {archive.folder.read(f.name)[:4] for f in archive.files()} == {b"PARE"}


def test_a_day_more_in_a_bucket_is_built_like_one_on_disk(rooms: dict[str, StoreRoom]) -> None:
    made = {}
    for name, room in rooms.items():
        row = ("customer-1", "more", "i9", 1, "3.00", AS_OF.isoformat(), AS_OF.isoformat(), "g", "l", "")
        room.shop.bring(room.shop.csv([row], columns=COLUMNS, name="more.csv"), SALES, now=AS_OF)
        computed = [(b.view, b.computed, b.why) for b in room.build()]
        pieces = [p for v in all_views() for p in built_view(features_folder(room.settings), v).pieces]
        made[name] = (computed, pieces)
    assert made["disk"] == made["s3"]
    assert {(computed, why) for _, computed, why in made["s3"][0]} == {(1, "")}


def test_a_person_is_erased_from_a_bucket_as_from_a_disk(rooms: dict[str, StoreRoom]) -> None:
    for room in rooms.values():
        archive = Archive(archive_folder(room.settings))
        assert archive.erase(room.key("customer-1"))
        assert {e[0] for e in room.shop.events(columns="user_key")} == set(room.keys("customer-0", "customer-2"))
        assert not archive.erase(room.key("customer-1"))


def test_a_bucket_that_is_not_there_is_told_in_a_sentence(bucket: str) -> None:
    with pytest.raises(PlaceUnusable, match=r"^s3://nobodys can't be used .*: check AAP_DATA_URI") as told:
        Folder.at(bucket.replace("s3://shop/it's/data", "s3://nobodys")).write("x", b"1")
    assert "\n" not in str(told.value)
    with pytest.raises(
        PlaceUnusable, match=r"^Data can't be kept at ftp://x \(.*\): write a folder, or s3://bucket/prefix\.$"
    ):
        Folder.at("ftp://x")
