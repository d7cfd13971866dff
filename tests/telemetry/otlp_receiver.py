"""A real OTLP/HTTP collector in a thread: what it was sent, decoded with the protocol's own messages."""

import gzip
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class Event:
    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Span:
    name: str
    kind: str  # "SERVER", "CLIENT", "INTERNAL", ...
    trace_id: str
    span_id: str
    parent_id: str  # empty for a root
    status: str  # "UNSET", "OK", "ERROR"
    description: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    scope: str
    events: tuple[Event, ...]
    links: tuple[str, ...]  # trace ids
    seconds: float

    @property
    def service(self) -> str:
        return str(self.resource["service.name"])


@dataclass(frozen=True)
class Point:
    metric: str
    unit: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    count: int
    sum: float
    buckets: tuple[int, ...]
    bounds: tuple[float, ...]
    cumulative: bool


class OtlpReceiver:
    """Listens on a free port of the loopback interface while it is entered."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._spans: list[Span] = []
        self._points: list[Point] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver._take(self.path, body)
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self) -> list[Span]:
        with self._lock:
            return list(self._spans)

    def points(self) -> list[Point]:
        with self._lock:
            return list(self._points)

    def wait_for_spans(self, enough: Callable[[list[Span]], bool], timeout: float = 15.0) -> list[Span]:
        """Return all spans as soon as they are enough; fails with what was there when they never are."""
        self._wait(
            lambda: enough(self._spans), timeout, lambda: f"{[(s.service, s.kind, s.name) for s in self._spans]}"
        )
        return self.spans()

    def wait_for_points(self, enough: Callable[[list[Point]], bool], timeout: float = 15.0) -> list[Point]:
        self._wait(lambda: enough(self._points), timeout, lambda: f"{self._points}")
        return self.points()

    def _wait(self, condition: Callable[[], bool], timeout: float, shown: Callable[[], str]) -> None:
        deadline = time.monotonic() + timeout
        with self._lock:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"not received within {timeout} s; there is: {shown()}")
                self._lock.wait(left)

    def _take(self, path: str, body: bytes) -> None:
        with self._lock:
            if path == "/v1/traces":
                self._spans += _spans(ExportTraceServiceRequest.FromString(body))
            elif path == "/v1/metrics":
                self._points += _points(ExportMetricsServiceRequest.FromString(body))
            else:
                raise AssertionError(f"unexpected path {path}")
            self._lock.notify_all()


def _plain(pairs: Any) -> dict[str, Any]:
    def value(pair: KeyValue) -> Any:
        kind = pair.value.WhichOneof("value")
        return None if kind is None else getattr(pair.value, kind)

    return {pair.key: value(pair) for pair in pairs}


def _spans(request: ExportTraceServiceRequest) -> list[Span]:
    return [
        Span(
            name=span.name,
            kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            status=Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
            description=span.status.message,
            attributes=_plain(span.attributes),
            resource=_plain(resource_spans.resource.attributes),
            scope=scope_spans.scope.name,
            events=tuple(Event(event.name, _plain(event.attributes)) for event in span.events),
            links=tuple(link.trace_id.hex() for link in span.links),
            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        )
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def _points(request: ExportMetricsServiceRequest) -> list[Point]:
    return [
        Point(
            metric=metric.name,
            unit=metric.unit,
            attributes=_plain(point.attributes),
            resource=_plain(resource_metrics.resource.attributes),
            count=point.count,
            sum=point.sum,
            buckets=tuple(point.bucket_counts),
            bounds=tuple(point.explicit_bounds),
            cumulative=metric.histogram.aggregation_temporality == 2,
        )
        for resource_metrics in request.resource_metrics
        for scope_metrics in resource_metrics.scope_metrics
        for metric in scope_metrics.metrics
        for point in metric.histogram.data_points
    ]
