import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind, StatusCode

from rpc.telemetry.http import HttpTracer
from rpc.telemetry.propagation import W3CPropagator
from rpc.telemetry.sampling import HeadSampler, PresetIdGenerator
from rpc.telemetry.tracing import Tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ROUTE = "/v1/greetings/{name}"


def scope(**headers: str) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/greetings/Ann",
        "query_string": b"token=secret",
        "client": ("192.0.2.7", 51234),
        "headers": [
            (b"host", b"api.example.com:8080"),
            (b"user-agent", b"curl/8"),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ],
    }


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def make(exporter: InMemorySpanExporter) -> Callable[..., HttpTracer]:
    def make(rate: float = 1.0, *, trust_trace_context: bool = False) -> HttpTracer:
        provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(rate), id_generator=PresetIdGenerator(), shutdown_on_exit=False
        )
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracing = Tracing(provider, W3CPropagator(), HeadSampler("parentbased_traceidratio", rate), "1")
        return HttpTracer(tracing, trust_trace_context=trust_trace_context)

    return make


def test_a_request(make: Callable[..., HttpTracer], exporter: InMemorySpanExporter) -> None:
    span = make().start("POST", ROUTE, scope())
    assert trace.get_current_span().is_recording()
    assert span.recorded
    span.set_attribute("natsmesh.request_id", "r-1")
    span.end(200)
    assert not trace.get_current_span().is_recording()
    (finished,) = exporter.get_finished_spans()
    assert (finished.name, finished.kind) == ("POST /v1/greetings/{name}", SpanKind.SERVER)
    assert finished.status.status_code is StatusCode.UNSET
    assert dict(finished.attributes) == {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "http.response.status_code": 200,
        "url.path": "/v1/greetings/Ann",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "client.address": "192.0.2.7",
        "network.peer.address": "192.0.2.7",
        "network.peer.port": 51234,
        "server.address": "api.example.com",
        "server.port": 8080,
        "user_agent.original": "curl/8",
        "natsmesh.request_id": "r-1",
    }


@pytest.mark.parametrize(
    ("status", "error", "kind", "error_type", "events"),
    [
        (404, None, StatusCode.UNSET, None, 0),
        (503, None, StatusCode.ERROR, "503", 0),
        (499, None, StatusCode.ERROR, "499", 0),
        (500, ZeroDivisionError("x"), StatusCode.ERROR, "ZeroDivisionError", 1),
        (499, asyncio.CancelledError(), StatusCode.ERROR, "CancelledError", 0),
    ],
)
def test_how_it_ended(
    make: Callable[..., HttpTracer],
    exporter: InMemorySpanExporter,
    status: int,
    error: BaseException | None,
    kind: StatusCode,
    error_type: str | None,
    events: int,
) -> None:
    make().start("GET", "", scope()).end(status, error)
    (finished,) = exporter.get_finished_spans()
    assert finished.name == "GET"
    assert finished.status.status_code is kind
    assert finished.attributes["http.response.status_code"] == status
    assert finished.attributes.get("error.type") == error_type
    assert len(finished.events) == events


def test_methods_from_the_wire_are_no_names(make: Callable[..., HttpTracer], exporter: InMemorySpanExporter) -> None:
    make().start("FOO", ROUTE, scope()).end(405)
    (finished,) = exporter.get_finished_spans()
    assert finished.name == f"HTTP {ROUTE}"
    assert finished.attributes["http.request.method"] == "_OTHER"
    assert finished.attributes["http.request.method_original"] == "FOO"


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [("[2001:db8::1]:80", "2001:db8::1", 80), ("example.com", "example.com", None), ("a:b", "a:b", None)],
)
def test_hosts(
    make: Callable[..., HttpTracer], exporter: InMemorySpanExporter, host: str, address: str, port: int | None
) -> None:
    request = scope()
    request["headers"][0] = (b"host", host.encode())
    request["client"] = None
    make().start("GET", "/", request).end(200)
    (finished,) = exporter.get_finished_spans()
    assert finished.attributes["server.address"] == address
    assert finished.attributes.get("server.port") == port
    assert "client.address" not in finished.attributes


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_client_cannot_choose_the_trace(
    make: Callable[..., HttpTracer], exporter: InMemorySpanExporter, flags: str
) -> None:
    make().start("GET", ROUTE, scope(traceparent=f"00-{TRACE}-{SPAN}-{flags}")).end(200)
    (finished,) = exporter.get_finished_spans()
    assert finished.parent is None
    assert f"{finished.context.trace_id:032x}" != TRACE
    assert [f"{link.context.trace_id:032x}" for link in finished.links] == [TRACE]


def test_a_client_cannot_choose_what_is_sampled(
    make: Callable[..., HttpTracer], exporter: InMemorySpanExporter
) -> None:
    make(rate=0.0).start("GET", ROUTE, scope(traceparent=f"00-{TRACE}-{SPAN}-01")).end(200)
    assert not exporter.get_finished_spans()


def test_a_trusted_client_goes_on_with_its_trace(
    make: Callable[..., HttpTracer], exporter: InMemorySpanExporter
) -> None:
    make(rate=0.0, trust_trace_context=True).start("GET", ROUTE, scope(traceparent=f"00-{TRACE}-{SPAN}-01")).end(200)
    (finished,) = exporter.get_finished_spans()
    assert f"{finished.context.trace_id:032x}" == TRACE
    assert f"{finished.parent.span_id:016x}" == SPAN
    assert not finished.links


def test_what_is_not_recorded_has_a_trace_nevertheless(
    make: Callable[..., HttpTracer], exporter: InMemorySpanExporter
) -> None:
    span = make(rate=0.0).start("GET", ROUTE, scope())
    context = trace.get_current_span().get_span_context()
    assert context.is_valid
    assert not context.trace_flags.sampled
    assert not span.recorded
    span.set_attribute("a", 1)
    span.end(500, ZeroDivisionError())
    assert not trace.get_current_span().get_span_context().is_valid
    assert not exporter.get_finished_spans()
