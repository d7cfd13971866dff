"""WebSockets for streaming methods: on the path of the method, and on those that its HTTP rules give it.

A handshake is a GET, whatever HTTP method a rule has. Source: RFC 6455.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

from google.protobuf.any_pb2 import Any as GoogleAny
from protobuf import Registry

from gateway.asgi import AsgiApp, Receive, Scope, Send
from gateway.connect import literal_template
from gateway.errors import rest_error
from gateway.headers import RequestHead
from gateway.http_rule import RuleError, bindings
from gateway.path_template import PathTemplate
from gateway.schema import Method, Schema
from gateway.transcode import Answer
from gateway.unary import UnaryServer
from gateway.websocket_handshake import (
    PROTO_SUBPROTOCOL,
    SWITCHING_PROTOCOLS,
    WEBSOCKET,
    OriginCheck,
    choose_subprotocol,
    handshake_of,
    take_timeout,
)
from gateway.websocket_messages import BindingMessages, Messages, MethodMessages
from gateway.websocket_session import Session
from rpc import Stats, StatusCode

logger = logging.getLogger(__name__)


class WebSocketRoute:
    """One path of one method with a stream."""

    __slots__ = (
        "_messages",
        "_origins",
        "_registry",
        "_server",
        "has_body",
        "http_method",
        "info",
        "numbers",
        "template",
    )

    def __init__(
        self,
        method: Method,
        template: PathTemplate,
        messages: Messages,
        registry: Registry,
        server: UnaryServer,
        origins: OriginCheck,
        stats: Stats,
    ) -> None:
        self.info = method.info
        self.http_method = WEBSOCKET
        self.template = template
        self.has_body = False
        self.numbers = stats.entry("GET", template.source, "http")
        self._messages = messages
        self._registry = registry
        self._server = server
        self._origins = origins

    def serve(self, scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> Awaitable[None]:
        """Serve one handshake, and the socket that it opens."""
        return self._server.serve(self, scope, receive, send, segments)

    def other_way(self, head: RequestHead, segments: list[bytes]) -> AsgiApp:
        """Always: what is here is no plain request."""
        return partial(self._open, head, segments)

    def prepare(
        self, _head: RequestHead, _body: bytes, _segments: list[bytes], _query: bytes
    ) -> tuple[bytes, Callable[[bytes], Answer]]:
        """Never: nothing here is unary."""
        raise NotImplementedError

    def error(self, code: StatusCode, message: str, details: Sequence[GoogleAny]) -> bytes:
        """Return a ``google.rpc.Status``."""
        return rest_error(code, message, details, self._registry)

    async def _open(
        self, head: RequestHead, segments: list[bytes], scope: Scope, _receive: Receive, send: Send
    ) -> None:
        self._origins.check(scope)
        subprotocol = choose_subprotocol(scope)
        query, timeout = take_timeout(scope["query_string"], self._server.headers)
        if head.timeout is not None:
            timeout = head.timeout if timeout is None else min(timeout, head.timeout)
        url = segments, query
        request = self._messages.of_url(url)
        codec = self._messages.proto if subprotocol == PROTO_SUBPROTOCOL else self._messages.json
        socket = handshake_of(scope)
        socket.subprotocol = subprotocol
        with self._server.stream_slot():
            await send({"type": "http.response.start", "status": SWITCHING_PROTOCOLS, "headers": []})
            session = Session(
                self.info,
                self._server,
                socket,
                head=head,
                deadline=self._server.stream_deadline(timeout),
                request=request,
                codec=codec(url),
                error_body=self.error,
            )
            try:
                await session.run()
            finally:
                await send({"type": "http.response.body", "body": b""})


def websocket_routes(
    schema: Schema, server: UnaryServer, stats: Stats, origins: OriginCheck, *, ignore_unknown: bool
) -> Iterator[WebSocketRoute]:
    """Yield the routes of a service. Bindings that cannot be served are left out: REST has told of them."""
    for method in schema.methods:
        if method.info.is_unary:
            continue
        whole = MethodMessages(method, schema, ignore_unknown=ignore_unknown)
        yield WebSocketRoute(method, literal_template(method.info.path), whole, schema.registry, server, origins, stats)
        if method.http is None:
            continue
        served: set[str] = set()
        for binding in bindings(method.http):
            # Rules that differ in their HTTP method only are one path here: the first one counts.
            if isinstance(binding, RuleError) or binding.template.source in served:
                continue
            if method.info.client_streaming and not binding.body:
                continue  # Every request would be the same.
            try:
                messages = BindingMessages(method, binding, schema, ignore_unknown=ignore_unknown)
            except RuleError:
                continue
            served.add(binding.template.source)
            yield WebSocketRoute(method, binding.template, messages, schema.registry, server, origins, stats)
