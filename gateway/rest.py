"""REST for unary methods: one binding of ``google.api.http``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from google.protobuf.any_pb2 import Any as GoogleAny

from gateway.asgi import AsgiApp, Receive, Scope, Send
from gateway.compression import ACCEPTED, Codings
from gateway.errors import HttpError, rest_error
from gateway.headers import RequestHead
from gateway.http_rule import Binding
from gateway.patch_mask import PatchTranscoder, fills_mask
from gateway.schema import Method, Schema
from gateway.transcode import Answer, RequestTranscoder, response_transcoder
from gateway.unary import UnaryServer
from rpc import Stats, StatusCode


class RestRoute:
    """One binding of one method."""

    __slots__ = (
        "_answer",
        "_registry",
        "_server",
        "_transcoder",
        "binding",
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
        self.binding = binding
        self.http_method = binding.http_method
        self.template = binding.template
        self._server = server
        self._registry = schema.registry
        make = PatchTranscoder if fills_mask(method, binding) else RequestTranscoder
        self._transcoder = make(method, binding, schema.registry, ignore_unknown=ignore_unknown)
        self._answer = response_transcoder(method, binding, schema.registry)
        self.has_body = self._transcoder.has_body
        self.numbers = stats.entry(binding.http_method, binding.template.source, "http")

    def serve(self, scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> Awaitable[None]:
        """Answer one request whose path matched."""
        return self._server.serve(self, scope, receive, send, segments)

    def other_way(self, head: RequestHead, _segments: list[bytes]) -> AsgiApp | None:
        """There is none: REST is served here."""
        if head.codings is not None:
            refuse_unreadable(head.codings, has_body=self.has_body)
        return None

    def prepare(
        self, head: RequestHead, body: bytes, segments: list[bytes], query: bytes
    ) -> tuple[bytes, Callable[[bytes], Answer]]:
        """Bind body, query and path."""
        return self._transcoder.request(body, head.content_type, segments, query), self._answer

    def error(self, code: StatusCode, message: str, details: Sequence[GoogleAny]) -> bytes:
        """Return a ``google.rpc.Status``."""
        return rest_error(code, message, details, self._registry)


def refuse_unreadable(codings: Codings, *, has_body: bool) -> None:
    """Raise ``HttpError`` 415 for a body that is compressed in a way that is not known here (RFC 9110, 15.5.16)."""
    if has_body and not codings.is_readable:
        name = codings.content[:40].decode("latin-1")
        raise HttpError(
            StatusCode.UNIMPLEMENTED,
            f"content-encoding {name!r} is not supported here: send the body as it is, or by {ACCEPTED.decode()}",
            status=415,
            headers=[(b"accept-encoding", ACCEPTED)],
        )
