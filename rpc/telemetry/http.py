"""SERVER spans of HTTP requests, for an ASGI gateway.

    tracer = rpc.telemetry.http_tracer()                # once, at start; None when tracing is off
    ...
    span = tracer.start("POST", "/v1/greetings/{name}", scope) if tracer is not None else None
    try:
        ...                                             # calls made here are children of the span
    except BaseException as error:
        if span is not None:
            span.end(500, error)
        raise
    if span is not None:
        span.end(200)

``start`` and ``end`` belong into the same task: the span is current between them. Request metrics are separate and
always on: ``numbers = rpc.stats.Stats("http")`` once, ``entry = numbers.entry("POST", "/v1/greetings/{name}",
"http")`` when a route is built, ``entry.record(status, seconds)`` per request.

The headers ``traceparent``, ``tracestate`` and ``baggage`` of a request must not be copied to the call's metadata:
what is sent on is decided here. The trace context of a client on the open internet is not to be trusted: it could
choose what is recorded, and join foreign traces. So by default every request starts a trace of its own, with a link
to the client's; ``trust_trace_context`` (or ``NATSMESH_TRUST_TRACE_CONTEXT=true``) continues the client's trace
instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from contextvars import Token
from typing import Any

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)

from rpc.metadata import Metadata
from rpc.telemetry import semconv
from rpc.telemetry.propagation import Unsampled, context_at
from rpc.telemetry.tracing import Tracing

Scope = MutableMapping[str, Any]
"""An ASGI connection scope of type ``http``."""

_MAX_ATTRIBUTE = 1024


class HttpSpan:
    """A request that is being answered."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span, token: Token[Context]) -> None:
        self._span = span
        self._token = token

    @property
    def recorded(self) -> bool:
        """True when attributes are of use."""
        return self._span.is_recording()

    def set_attribute(self, key: str, value: str | float | bool) -> None:
        """Add what the conventions do not ask for; nothing happens when the request is not recorded."""
        self._span.set_attribute(key, value)

    def end(self, status: int, error: BaseException | None = None) -> None:
        """Say how the request was answered: the HTTP status, and the exception that is to blame, if one is.

        Statuses from 500 on are errors, and 499, the client that went away.
        """
        detach(self._token)
        span = self._span
        if span.__class__ is Unsampled or not span.is_recording():
            return
        span.set_attribute(semconv.HTTP_RESPONSE_STATUS_CODE, status)
        if error is not None:
            span.set_attribute(semconv.ERROR_TYPE, type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
            if not isinstance(error, asyncio.CancelledError):
                span.record_exception(error)
        elif semconv.http_failed(status):
            span.set_attribute(semconv.ERROR_TYPE, str(status))
            span.set_status(Status(StatusCode.ERROR))
        span.end()


class HttpTracer:
    """Starts the spans of requests. See the module's text for its use."""

    def __init__(self, tracing: Tracing, *, trust_trace_context: bool) -> None:
        self._tracing = tracing
        self._trust = trust_trace_context

    def start(self, method: str, route: str, scope: Scope) -> HttpSpan:
        """Start the span of a request, and make it current.

        ``route`` is the template that the path matched (``/v1/greetings/{name}``), empty when none did.
        """
        if not self._trust:
            unrecorded = self._tracing.decline_root()
            if unrecorded is not None:
                return HttpSpan(unrecorded, attach(context_at(unrecorded)))
            return self._start(None, Context(), method, route, scope, self._links(scope))
        declined, context = self._tracing.arrive(_trace_headers(scope))
        return self._start(declined, context, method, route, scope, ())

    def _start(
        self, declined: Span | None, context: Context, method: str, route: str, scope: Scope, links: tuple[Link, ...]
    ) -> HttpSpan:
        span = declined or self._tracing.tracer.start_span(
            _name(method, route), context, SpanKind.SERVER, _attributes(method, route, scope), links
        )
        return HttpSpan(span, attach(set_span_in_context(span, context)))

    def _links(self, scope: Scope) -> tuple[Link, ...]:
        theirs = get_current_span(self._tracing.propagator.extract(_trace_headers(scope))).get_span_context()
        return (Link(theirs),) if theirs.is_valid else ()


def _trace_headers(scope: Scope) -> Metadata:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])


def _name(method: str, route: str) -> str:
    known = method if method in semconv.HTTP_METHODS else "HTTP"
    return f"{known} {route}" if route else known


def _attributes(method: str, route: str, scope: Scope) -> dict[str, str | int]:
    known = method in semconv.HTTP_METHODS
    attributes: dict[str, str | int] = {
        semconv.HTTP_REQUEST_METHOD: method if known else semconv.OTHER,
        # The query is left out: it may carry credentials, and its values are in the call's message anyway.
        semconv.URL_PATH: str(scope["path"])[:_MAX_ATTRIBUTE],
        semconv.URL_SCHEME: str(scope.get("scheme", "http")),
        semconv.NETWORK_PROTOCOL_VERSION: str(scope.get("http_version", "1.1")),
    }
    if not known:
        attributes[semconv.HTTP_REQUEST_METHOD_ORIGINAL] = method[:_MAX_ATTRIBUTE]
    if route:
        attributes[semconv.HTTP_ROUTE] = route
    if client := scope.get("client"):
        attributes[semconv.CLIENT_ADDRESS] = attributes[semconv.NETWORK_PEER_ADDRESS] = str(client[0])
        attributes[semconv.NETWORK_PEER_PORT] = int(client[1])
    for name, value in scope["headers"]:
        if name == b"user-agent":
            attributes[semconv.USER_AGENT_ORIGINAL] = value.decode("latin-1")[:_MAX_ATTRIBUTE]
        elif name in {b"host", b":authority"}:
            host, port = _host(value.decode("latin-1")[:_MAX_ATTRIBUTE])
            attributes[semconv.SERVER_ADDRESS] = host
            if port:
                attributes[semconv.SERVER_PORT] = port
    return attributes


def _host(value: str) -> tuple[str, int]:
    """Split a ``Host`` header; port 0 when it names none."""
    host, separator, port = value.rpartition(":")
    if separator and port.isascii() and port.isdigit() and len(port) <= 5:
        return host.strip("[]"), int(port)
    return value.strip("[]"), 0
