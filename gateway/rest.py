"""REST: the routes that ``google.api.http`` options make."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence

from google.protobuf.any_pb2 import Any as GoogleAny

from gateway.body import Receive
from gateway.errors import HttpError, rest_error
from gateway.headers import RequestHead
from gateway.http_rule import Binding, RuleError, bindings
from gateway.schema import Method, Schema
from gateway.transcode import Answer, RequestTranscoder, response_transcoder
from gateway.unary import AsgiApp, Scope, Send, UnaryServer
from rpc import Stats, StatusCode

logger = logging.getLogger(__name__)


class RestRoute:
    """One binding of one method."""

    __slots__ = (
        "_answer",
        "_registry",
        "_server",
        "_transcoder",
        "has_body",
        "http_method",
        "info",
        "numbers",
        "template",
    )

    def __init__(
        self,
        method: Method,
        binding: Binding,
        schema: Schema,
        server: UnaryServer,
        stats: Stats,
        *,
        ignore_unknown: bool,
    ) -> None:
        """Raises ``RuleError`` when the binding does not fit the method."""
        self.info = method.info
        self.http_method = binding.http_method
        self.template = binding.template
        self._server = server
        self._registry = schema.registry
        self._transcoder = RequestTranscoder(method, binding, schema.registry, ignore_unknown=ignore_unknown)
        self._answer = response_transcoder(method, binding, schema.registry)
        self.has_body = self._transcoder.has_body
        self.numbers = stats.entry(binding.http_method, binding.template.source, "http")

    def serve(self, scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> Awaitable[None]:
        """Answer one request whose path matched."""
        return self._server.serve(self, scope, receive, send, segments)

    def other_way(self, head: RequestHead) -> AsgiApp | None:
        """There is none: REST is served here."""
        if head.content_encoding and head.content_encoding != b"identity" and self.has_body:
            raise HttpError(
                StatusCode.UNIMPLEMENTED,
                "compressed request bodies are not supported here: send the body as it is",
                status=415,
                headers=[(b"accept-encoding", b"identity")],
            )
        return None

    def prepare(
        self, head: RequestHead, body: bytes, segments: list[bytes], query: bytes
    ) -> tuple[bytes, Callable[[bytes], Answer]]:
        """Bind body, query and path."""
        if not self.info.is_unary:
            raise HttpError(
                StatusCode.UNIMPLEMENTED, f"{self.info.full_name} is a streaming method: not served here yet"
            )
        return self._transcoder.request(body, head.content_type, segments, query), self._answer

    def error(self, code: StatusCode, message: str, details: Sequence[GoogleAny]) -> bytes:
        """Return a ``google.rpc.Status``."""
        return rest_error(code, message, details, self._registry)


def rest_routes(schema: Schema, server: UnaryServer, stats: Stats, *, ignore_unknown: bool) -> Iterator[RestRoute]:
    """Yield the routes of a service. A binding that cannot be served is logged and left out."""
    for method in schema.methods:
        if method.http is None:
            continue
        for binding in bindings(method.http):
            try:
                if isinstance(binding, RuleError):
                    raise binding
                yield RestRoute(method, binding, schema, server, stats, ignore_unknown=ignore_unknown)
            except RuleError as error:
                logger.warning("%s: an HTTP rule is not served: %s", method.info.full_name, error)
