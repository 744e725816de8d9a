"""Traces, as a collector receives them by HTTP: what each call did and waited for, and nobody's name."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from aap.consent.purposes import Purpose
from aap.security.api_keys import Scope
from aap.serving.context import Platform
from tests.unit.serving.shop_window import Street, calling

_CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """An OTLP collector on a free port, that keeps what it gets."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self) -> list[Span]:
        found = []
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def _platform(street: Street, url: str) -> Platform:
    settings = street.settings.model_copy(update={"traces_url": url})
    platform = Platform(settings, open_features=lambda _: street.shelves, open_registry=lambda _: street.shop)
    platform.models.refresh()
    return platform


def _said(span: Span) -> dict[str, object]:
    told: dict[str, object] = {}
    for one in span.attributes:
        value = getattr(one.value, one.value.WhichOneof("value"))
        told[one.key] = [v.string_value for v in value.values] if hasattr(value, "values") else value
    return told


def test_a_call_is_a_span_of_its_caller_s_trace_with_what_it_waited_for_below(
    street: Street, keys: dict[Scope, str], collector: Collector, choose: Callable[..., None]
) -> None:
    street.shelves.rows[street.key("u-17")] = [50.0, 1.0]
    choose("u-17", Purpose.MARKETING_RETENTION)
    with calling(_platform(street, collector.url)) as client:
        client.headers["Authorization"] = f"Bearer {keys[Scope.PREDICT]}"
        asked = client.post(
            "/v1/churn", json={"user_ids": ["u-17", "nobody-we-know"]}, headers={"traceparent": _CALLER}
        )
        assert asked.status_code == 200
        assert client.post("/v1/churn", json={"user_ids": 5}).status_code == 422
    spans = collector.spans()
    good, bad = sorted((s for s in spans if s.name == "POST /v1/churn"), key=lambda s: s.start_time_unix_nano)
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (_CALLER.split("-")[1], _CALLER.split("-")[2])
    told = _said(good)
    assert (told["http.response.status_code"], told["aap.answers"], told["aap.denied"]) == (200, 2, 1)
    assert told["aap.versions"]
    below = [s for s in spans if s.parent_span_id == good.span_id]
    assert [s.name for s in below] == ["count the call", "read the body", "answer"]
    assert sum(s.end_time_unix_nano - s.start_time_unix_nano for s in below) <= (
        good.end_time_unix_nano - good.start_time_unix_nano
    )
    assert _said(bad)["http.response.status_code"] == 422
    assert bad.status.code != Status.STATUS_CODE_ERROR, "the caller's fault"


def test_no_span_names_who_was_asked_about_who_asked_or_from_where(
    street: Street, keys: dict[Scope, str], collector: Collector
) -> None:
    platform = _platform(street, collector.url)
    with calling(platform) as client:
        client.headers.update({"Authorization": f"Bearer {keys[Scope.PREDICT]}", "user-agent": "Somebodys-Phone/1"})
        assert client.post("/v1/churn", json={"user_ids": ["u-17"]}).status_code == 200
        assert client.post("/v1/churn?u-17", json={"user_ids": ["u-17"], "wrong-u-17": 1}).status_code == 422
    received = b"".join(collector.bodies)
    assert b"POST /v1/churn" in received
    known = ("u-17", platform.pseudonyms.user_key("u-17"), keys[Scope.PREDICT], "Somebodys-Phone", "127.0.0.1")
    assert [one for one in known if one.encode() in received] == []


def test_a_collector_that_is_not_there_costs_no_call(street: Street, keys: dict[Scope, str]) -> None:
    with calling(_platform(street, "http://127.0.0.1:9")) as client:
        client.headers["Authorization"] = f"Bearer {keys[Scope.PREDICT]}"
        assert {client.post("/v1/churn", json={"user_ids": ["u-17"]}).status_code for _ in range(20)} == {200}
