"""A flagd server decides who sees what: a real gRPC server that speaks flagd's sync protocol, as flagd writes it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from openfeature.schemas.protobuf.flagd.sync.v1 import sync_pb2, sync_pb2_grpc

from aap.experiments.errors import FlagsUnusable
from aap.experiments.flags.openfeature_evaluator import server_of
from aap.experiments.flags.store import Flags
from tests.waiting import PATIENCE_S, until

PEOPLE = [f"{i:032x}" for i in range(500)]


class Flagd(sync_pb2_grpc.FlagSyncServiceServicer):
    """Serves a file: sends it to who connects, and again when told to look."""

    def __init__(self, file: Path, port: int = 0) -> None:
        self._file, self._changed, self._ended = file, threading.Condition(), False
        self._number, self._sent = 0, file.read_text()
        self._grpc = grpc.server(ThreadPoolExecutor(8))
        sync_pb2_grpc.add_FlagSyncServiceServicer_to_server(self, self._grpc)
        self.port = self._grpc.add_insecure_port(f"127.0.0.1:{port}")
        self._grpc.start()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def look(self) -> None:
        with self._changed:
            self._sent, self._number = self._file.read_text(), self._number + 1
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._grpc.stop(grace=None).wait()

    def SyncFlags(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        number = -1
        while not self._ended:
            with self._changed:
                while not self._ended and self._number == number:
                    self._changed.wait()
                number, sent = self._number, self._sent
            yield sync_pb2.SyncFlagsResponse(flag_configuration=self._as_go_writes(sent))

    def GetMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return sync_pb2.GetMetadataResponse()

    def _as_go_writes(self, text: str) -> str:
        flags = {name: {**entry, "source": str(self._file)} for name, entry in json.loads(text)["flags"].items()}
        return json.dumps({"flags": flags}, sort_keys=True, separators=(",", ":"))


class Shop:
    """A flag file, its checked copy, and a way to read the flags with or without a server."""

    def __init__(self, folder: Path) -> None:
        self.source, self.checked = folder / "flags.json", folder / "run" / "flags.json"
        self.open: list[Any] = []
        self.write(50, 50)
        Flags(self.source, checked=self.checked).close()

    def write(self, a: int, b: int) -> None:
        flag = {"state": "ENABLED", "variants": {"b": "b", "a": "a"}, "defaultVariant": "a"}
        flag["targeting"] = {"fractional": [["a", a], ["b", b]]}
        rule = {"if": [{"in": [{"var": "segment"}, ["big"]]}, flag["targeting"]]}
        self.source.write_text(json.dumps({"flags": {"x": flag, "only": {**flag, "targeting": rule}}}))

    def flagd(self, file: Path | None = None, *, port: int = 0) -> Flagd:
        self.open.append(Flagd(file or self.checked, port))
        return self.open[-1]

    def flags(self, url: str | None = None) -> Flags:
        self.open.insert(0, Flags(self.source, checked=self.checked, flagd=url))
        return self.open[0]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    for one in made.open:
        one.close() if isinstance(one, Flags) else one.stop()


def arms(flags: Flags, name: str = "x", segment: str | None = None) -> list[str | None]:
    return [flags.bucket(flags.get(name), user_key=p, segment=segment) for p in PEOPLE]


def says(flags: Flags) -> bool:
    return flags.bucket(flags.get("x"), user_key="k") is not None


def test_moving_to_a_server_moves_nobody(shop: Shop) -> None:
    alone, served = shop.flags(), shop.flags(shop.flagd().url)
    until(lambda: says(served))
    assert arms(served) == arms(alone)
    assert set(arms(alone)) == {"a", "b"}
    assert arms(served, "only", "big") == arms(alone, "only", "big")
    assert set(arms(served, "only", "small")) == {None}, "the default of a flag is no answer of its split"


def test_nobody_is_assigned_while_the_server_has_another_edition_than_the_one_in_force_here(shop: Shop) -> None:
    server = shop.flagd()
    flags = shop.flags(server.url)
    until(lambda: says(flags))
    before = flags.get("x")
    shop.write(0, 100)
    flags.refresh()
    assert set(arms(flags)) == {None}, "the server is behind"
    server.look()
    until(lambda: says(flags))
    assert set(arms(flags)) == {"b"}
    assert flags.bucket(before, user_key="k") is None


def test_a_process_does_not_wait_for_a_server_that_is_down_and_goes_on_with_what_one_that_went_away_had_sent(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAGD_DEADLINE_MS", "60000")
    server = shop.flagd()
    server.stop()
    begun = time.monotonic()
    flags = shop.flags(server.url)
    assert set(arms(flags)) == {None}
    assert time.monotonic() - begun < 30.0, "who waited for the server would wait for a minute"
    again = shop.flagd(port=server.port)
    until(lambda: says(flags))  # it connects by itself
    known = arms(flags)
    again.stop()
    time.sleep(0.5)
    assert arms(flags) == known


def test_a_server_that_serves_something_else_is_told_and_assigns_nobody(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.experiments.flags.store._PATIENCE_S", PATIENCE_S)
    flags = shop.flags(shop.flagd(shop.source).url)
    time.sleep(1)
    flags.refresh()
    assert flags.problem is None, "it may be about to take an edit up"
    monkeypatch.setattr("aap.experiments.flags.store._PATIENCE_S", 0.0)
    assert f"serve {shop.checked}" in (flags.problem or "")
    assert set(arms(flags)) == {None}


def test_all_is_well_once_the_server_has_what_is_in_force(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aap.experiments.flags.store._PATIENCE_S", 0.0)
    flags = shop.flags(shop.flagd().url)
    until(lambda: says(flags))
    flags.refresh()
    assert flags.problem is None


@pytest.mark.parametrize("url", ["localhost:8015", "http://localhost:8015", "grpc://", "grpc://h:port", "grpc://h:1/x"])
def test_another_kind_of_address_is_refused(shop: Shop, url: str) -> None:
    with pytest.raises(FlagsUnusable, match="write grpc://host:port"):
        shop.flags(url)


def test_the_address_of_a_server_may_leave_out_the_port_and_ask_for_tls() -> None:
    assert server_of("grpc://flags") == ("flags", 8015, False)
    assert server_of("grpcs://[::1]:9000/") == ("::1", 9000, True)
