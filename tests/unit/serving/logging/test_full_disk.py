"""A full disk below the prediction records: every call is answered, what is lost is counted, and recording goes on later."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from aap.infra.paths import Layout
from aap.security.api_keys import Scope
from aap.serving.context import Platform
from tests.unit.serving.shop_window import Street, calling
from tests.waiting import until

_ROOM = 20


@dataclass(frozen=True, slots=True)
class Disk:
    """A folder whose disk is full until `free` is called."""

    folder: Path
    free: Callable[[], object]


@pytest.fixture
def full(street: Street, tmp_path: Path) -> Iterator[Disk]:
    """A file system of 64 KB, filled up, where a test may mount one; else a disk that isn't there yet."""
    folder = Layout(street.settings.home).predictions
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        filler = folder / "filler"
        with filler.open("wb") as file, contextlib.suppress(OSError):
            file.write(bytes(128 * 1024))
        yield Disk(folder, filler.unlink)
        subprocess.run(["umount", "--lazy", folder], check=True)
        return
    folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere")
    yield Disk(folder, (tmp_path / "elsewhere").mkdir)


def _dropped(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith('aap_records_dropped_total{log="predictions"}')
    )


def test_calls_are_answered_lost_records_counted_and_recording_goes_on_when_there_is_room(
    street: Street, full: Disk, keys: dict[Scope, str]
) -> None:
    platform = Platform(street.settings, open_features=lambda _: street.shelves, open_registry=lambda _: street.shop)
    platform.models.refresh()
    platform.records._batches._room = _ROOM  # of a hundred thousand it takes too long to come to the end

    def recorded() -> set[str]:
        files = full.folder.glob("day=*/*.parquet")
        return {
            row for file in files for row in pq.read_table(file, columns=["prediction_id"])["prediction_id"].to_pylist()
        }

    with calling(platform) as client:
        client.headers["X-API-Key"] = keys[Scope.ADMIN]

        def ask(people: int) -> list[str]:
            given = client.post("/v1/churn", json={"user_ids": [f"p{i}" for i in range(people)]})
            assert given.status_code == 200, given.text
            return [answer["prediction_id"] for answer in given.json()["answers"]]

        before = _dropped(client)
        waiting = ask(_ROOM - 5)
        assert not platform.records._batches.flush()
        assert recorded() == set()
        ask(15)
        until(lambda: _dropped(client) == before + 10)
        assert client.get("/readyz").status_code == 200
        full.free()
        until(lambda: set(waiting) <= recorded())
        assert len(recorded()) == _ROOM
        until(lambda: platform.records._batches.waiting == 0)
        after = ask(3)
        until(lambda: set(after) <= recorded())
        assert _dropped(client) == before + 10
