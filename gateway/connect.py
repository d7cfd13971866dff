"""The Connect protocol: ``POST /pkg.Service/Method`` with JSON or binary protobuf.

A plain unary request takes the lean path: binary bodies travel to the back-end as they are. Everything else (GET, and
on the same paths gRPC and gRPC-Web) goes to the ``connectrpc`` package, over endpoints that are made when a service is
discovered (``connect_endpoints``).

Source: https://connectrpc.com/docs/protocol, "Unary-Request".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

from google.protobuf.any_pb2 import Any as GoogleAny

from gateway.asgi import AsgiApp, Receive, Scope, Send
from gateway.connect_endpoints import ConnectApp, connect_app
from gateway.errors import BadRequest, HttpError, connect_error
from gateway.headers import RequestHead
from gateway.json_codec import json_decoder
from gateway.path_template import PathTemplate
from gateway.schema import Method, Schema
from gateway.transcode import JSON, Answer, ResponseError
from gateway.unary import UnaryServer
from rpc import IdempotencyLevel, Stats, StatusCode

PROTO = b"application/proto"

Codec = tuple[Callable[[bytes], bytes], Callable[[bytes], Answer]]
"""(request body to message bytes, response bytes to answer)."""

_ELSEWHERE = ("application/grpc", "application/connect+")


class ConnectRoute:
    """One unary method, by POST."""

    __slots__ = (
        "_codecs",
        "_fallback",
        "_registry",
        "_server",
        "has_body",
        "http_method",
        "info",
        "numbers",
        "template",
    )

    def __init__(self, method: Method, schema: Schema, server: UnaryServer, fallback: ConnectApp, stats: Stats) -> None:
        self.info = method.info
        self.http_method = "POST"
        self.template = literal_template(method.info.path)
        self.has_body = True
        self.numbers = stats.entry("POST", method.info.path, "http")
        self._server = server
        self._fallback = fallback
        self._registry = schema.registry
        json = _json_codec(method, schema)
        self._codecs: dict[str, Codec] = {
            "application/json": json,
            "application/json; charset=utf-8": json,
            "application/json;charset=utf-8": json,
            "application/proto": (_as_it_is, _proto_answer),
        }

    def serve(self, scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> Awaitable[None]:
        """Answer one request."""
        return self._server.serve(self, scope, receive, send, segments)

    def other_way(self, head: RequestHead, segments: list[bytes]) -> AsgiApp | None:
        """Plain requests are of a content type that is known here, and not compressed in an unknown way."""
        if head.content_type in self._codecs:
            if head.codings is None or head.codings.is_readable:
                return None
            return partial(self._fallback, self.info, head)
        if head.content_type.lower().startswith(_ELSEWHERE):
            return partial(self._fallback, self.info, head)
        # Capitals, spaces, quotes: whoever writes it unusually may wait for one normalisation.
        normalized = _normalized(head.content_type)
        if normalized != head.content_type and normalized in self._codecs:
            head.content_type = normalized
            return self.other_way(head, segments)
        raise HttpError(
            StatusCode.INVALID_ARGUMENT,
            f"content-type {head.content_type[:100]!r} is not supported here: "
            "send the body as 'application/json' or 'application/proto'",
            status=415,
            headers=[(b"accept-post", b"application/json, application/proto")],
            plain=True,
        )

    def prepare(
        self, head: RequestHead, body: bytes, _segments: list[bytes], _query: bytes
    ) -> tuple[bytes, Callable[[bytes], Answer]]:
        """Decode JSON; pass binary on."""
        if head.connect_version and head.connect_version != b"1":
            raise BadRequest(
                f"connect-protocol-version must be '1', got {head.connect_version[:20].decode('latin-1')!r}"
            )
        decode, answer = self._codecs[head.content_type]
        return decode(body), answer

    def error(self, code: StatusCode, message: str, details: Sequence[GoogleAny]) -> bytes:
        """Return Connect's error."""
        return connect_error(code, message, details, self._registry)


class FallbackRoute:
    """What ``connectrpc`` serves alone: GET for methods without side effects, and streaming methods."""

    __slots__ = ("_app", "_registry", "_server", "has_body", "http_method", "info", "numbers", "template")

    def __init__(
        self, http_method: str, method: Method, schema: Schema, server: UnaryServer, app: ConnectApp, stats: Stats
    ) -> None:
        self.info = method.info
        self.http_method = http_method
        self.template = literal_template(method.info.path)
        self.has_body = False
        self.numbers = stats.entry(http_method, method.info.path, "http")
        self._server = server
        self._app = app
        self._registry = schema.registry

    def serve(self, scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> Awaitable[None]:
        """Answer one request."""
        return self._server.serve(self, scope, receive, send, segments)

    def other_way(self, head: RequestHead, _segments: list[bytes]) -> AsgiApp:
        """Always."""
        if not self.info.is_unary and not head.content_type.lower().startswith(_ELSEWHERE):
            raise HttpError(
                StatusCode.INVALID_ARGUMENT,
                f"{self.info.full_name} is a streaming method: send messages in envelopes, as "
                "'application/connect+json' or 'application/connect+proto'",
                status=415,
                headers=[(b"accept-post", b"application/connect+json, application/connect+proto")],
                plain=True,
            )
        return partial(self._app, self.info, head)

    def prepare(
        self, _head: RequestHead, _body: bytes, _segments: list[bytes], _query: bytes
    ) -> tuple[bytes, Callable[[bytes], Answer]]:
        """Never: nothing here is plain."""
        raise NotImplementedError

    def error(self, code: StatusCode, message: str, details: Sequence[GoogleAny]) -> bytes:
        """Return Connect's error."""
        return connect_error(code, message, details, self._registry)


def connect_routes(schema: Schema, server: UnaryServer, stats: Stats) -> Iterator[ConnectRoute | FallbackRoute]:
    """Yield the routes of a service: each method by POST, those without side effects by GET too."""
    fallback = connect_app(schema, server)
    for method in schema.methods:
        if not method.info.is_unary:
            yield FallbackRoute("POST", method, schema, server, fallback, stats)
            continue
        yield ConnectRoute(method, schema, server, fallback, stats)
        if method.info.idempotency is IdempotencyLevel.NO_SIDE_EFFECTS:
            yield FallbackRoute("GET", method, schema, server, fallback, stats)


def literal_template(path: str) -> PathTemplate:
    """Return the template that one path matches."""
    return PathTemplate(path, tuple(path[1:].split("/")), (), "")


def _json_codec(method: Method, schema: Schema) -> Codec:
    # Connect's codecs pass over unknown fields, so that older servers understand newer clients.
    parse = json_decoder(method.request, schema.registry, ignore_unknown=True)
    encode = method.to_json
    name = method.response.desc().type_name

    def decode(body: bytes) -> bytes:
        return parse(body).to_binary()

    def answer(data: bytes) -> Answer:
        try:
            return JSON, encode(data)
        except Exception as error:
            raise ResponseError(f"the response does not fit {name}: {str(error)[:200]}") from error

    return decode, answer


def _as_it_is(body: bytes) -> bytes:
    return body


def _proto_answer(data: bytes) -> Answer:
    return PROTO, data


def _normalized(content_type: str) -> str:
    """Return the content type without what does not matter; parameters other than a charset of UTF-8 matter."""
    media_type, _, parameters = content_type.lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "").strip(";")
    return media_type.strip() if charset in ("", "charset=utf-8") else content_type
