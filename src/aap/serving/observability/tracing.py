"""Traces, for who wants them: a span for each call and for each thing it waited for, sent to an OpenTelemetry collector.

A span says what was done, for how long, on which versions and with what outcome: never who was asked about, by whom, or
from where. A caller's own trace (`traceparent`) is gone on with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aap_client.responses import Answer, Outcome

__all__ = ["CallTrace", "Traces"]

_STOP_MS = 2_000
_CALLERS_TRACE = TraceContextTextMapPropagator()


class CallTrace:
    """The span of one call."""

    def __init__(self, traces: Traces, span: Span | None = None) -> None:
        self._traces, self._span = traces, span

    def part(self, name: str) -> Any:
        """A context for one thing the call does or waits for."""
        return self._traces.part(name)

    def ended(self, status: int, answers: Sequence[Answer[Any]] = ()) -> None:
        """What came of it: the HTTP status, and of its answers how many there were of what kind."""
        if self._span is None:
            return
        self._span.set_attribute("http.response.status_code", status)
        if answers:
            self._span.set_attribute("aap.answers", len(answers))
            self._span.set_attribute("aap.denied", sum(a.outcome is Outcome.DENIED for a in answers))
            self._span.set_attribute("aap.versions", sorted({f"{a.model.name} {a.model.version}" for a in answers}))
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)


class Traces:
    """Where spans go: the collector at `url` (OTLP by HTTP, such as http://localhost:4318), or nowhere without one.

    `share` of the calls that are not part of a caller's trace are traced, 0 to 1. Spans are sent by a thread; when the
    collector doesn't keep up or isn't there they are dropped, and calls go on.
    """

    def __init__(self, url: str | None, *, share: float = 1.0) -> None:
        self._provider = None if url is None else _provider(url, share)
        self._tracer = None if self._provider is None else self._provider.get_tracer("aap")

    @contextmanager
    def call(self, endpoint: str, headers: Mapping[str, str]) -> Iterator[CallTrace]:
        """One call of an endpoint, from its arrival to its answer."""
        if self._tracer is None:
            yield CallTrace(self)
            return
        told = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        with self._tracer.start_as_current_span(
            f"POST /v1/{endpoint}",
            context=_CALLERS_TRACE.extract(told),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": "POST", "http.route": f"/v1/{endpoint}"},
            record_exception=False,  # its text could repeat what the caller sent
        ) as span:
            yield CallTrace(self, span)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """One thing a call does or waits for, such as "answer"."""
        if self._tracer is None:
            yield
            return
        with self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False):
            yield

    def stop(self) -> None:
        """Send what is left; waits two seconds at most."""
        if self._provider is not None:
            self._provider.force_flush(_STOP_MS)
            self._provider.shutdown()


def _provider(url: str, share: float) -> TracerProvider:
    # Made by hand: OpenTelemetry's own detectors would add the machine's name and the command line.
    provider = TracerProvider(
        resource=Resource({"service.name": "aap"}),
        sampler=ParentBased(TraceIdRatioBased(share)),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces", timeout=_STOP_MS / 1_000)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
