"""Endpoints for the ``connectrpc`` package, made at run time: Connect's GET, compression and streams, gRPC, gRPC-Web.

The codec hands messages through as bytes, so binary requests are not decoded between HTTP and the bus here either.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint

from gateway import connect_exchange
from gateway.asgi import Receive, Scope, Send
from gateway.connect_codecs import BinaryCodec, Converter, JsonCodec, Response
from gateway.connect_compression import compressions, readable_headers
from gateway.connect_exchange import Exchange, add_metadata
from gateway.connect_streams import request_stream, server_stream
from gateway.errors import connect_error
from gateway.grpc_web_text import as_binary, is_text
from gateway.headers import RequestHead
from gateway.schema import Method, Schema
from gateway.unary import UnaryServer, send_error
from rpc import Call, StatusCode, StatusError
from rpc import MethodInfo as CalledMethod

logger = logging.getLogger(__name__)

_IDEMPOTENCY = {level.name: level for level in IdempotencyLevel}


class _Application(ConnectASGIApplication[None]):
    @property
    def path(self) -> str:
        return ""


ConnectApp = Callable[[CalledMethod, RequestHead, Scope, Receive, Send], Awaitable[None]]
"""An ASGI application that wants to know the method and what was read of the headers."""


_ENCODING = re.compile(rb"(?:^|&)encoding=([^&]*)")
_HOW_TO_GET: Final = (
    "GET takes the request from the query: '?connect=v1&encoding=json&message=' and its JSON, percent-encoded; "
    "or send it with POST"
)


def connect_app(schema: Schema, server: UnaryServer) -> ConnectApp:
    """Return what serves the methods of a service by all protocols of ``connectrpc``."""
    endpoints = {method.info.path: _endpoint(method, schema, server) for method in schema.methods}

    def of_service(_service: None) -> Mapping[str, Any]:
        return endpoints

    application: Any = _Application(
        service=None,
        endpoints=of_service,
        read_max_bytes=server.bodies.limit,
        codecs=[BinaryCodec(), JsonCodec()],
        compressions=compressions(server.compress_from),
    )

    async def serve(info: CalledMethod, head: RequestHead, scope: Scope, receive: Receive, send: Send) -> None:
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if _needs_trailers(content_type) and "http.response.trailers" not in scope.get("extensions", {}):
            body = connect_error(
                StatusCode.UNIMPLEMENTED, "gRPC needs HTTP/2: use that, or gRPC-Web or Connect", (), schema.registry
            )
            await send_error(send, 415, body, b"")
            return
        if not scope["query_string"].isascii():
            body = connect_error(
                StatusCode.INVALID_ARGUMENT, "query string: not ASCII, percent-encode what is not", (), schema.registry
            )
            await send_error(send, 400, body, b"")
            return
        if scope["method"] == "GET" and not _says_encoding(scope["query_string"]):
            body = connect_error(StatusCode.INVALID_ARGUMENT, _HOW_TO_GET, (), schema.registry)
            await send_error(send, 415, body, b"")
            return
        if is_text(content_type):
            scope, receive, send = as_binary(scope, receive, send)
        headers = readable_headers(scope["headers"], compress=server.compress_from is not None)
        exchange = Exchange(info, head, scope, receive, send, server.bodies)
        token = connect_exchange.current.set(exchange)
        try:
            await application({**scope, "headers": headers}, exchange.receive, exchange.send)
        finally:
            connect_exchange.current.reset(token)

    return serve


def _says_encoding(query: bytes) -> bool:
    """Tell whether a GET says what its message is encoded in; escapes are left to connectrpc."""
    found = _ENCODING.search(query)
    return found is not None and (found[1] in (b"json", b"proto") or b"%" in found[1])


def _needs_trailers(content_type: bytes) -> bool:
    return content_type.startswith(b"application/grpc") and not content_type.startswith(b"application/grpc-web")


def _unary(method: Method, converter: Converter, server: UnaryServer) -> Callable[[bytes, Any], Any]:
    async def call_service(request: bytes, context: RequestContext[Any, Any]) -> Response:
        head = connect_exchange.current.get().head
        call = Call(
            method.info,
            request,
            metadata=tuple(head.metadata or ()),
            deadline=server.deadline(head.timeout),
        )
        try:
            await server.invoke(call)
        except StatusError as error:
            raise connect_exchange.connect_error(call, error) from error
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logger.exception("%s: a request failed", method.info.full_name)
            raise ConnectError(Code.INTERNAL, "internal error") from error
        finally:
            add_metadata(context, call)
        return Response(call.response, converter)

    return call_service


# The one response of a client stream is a stream of one: what holds for the others' heads and errors holds for it.
_KINDS: dict[tuple[bool, bool], tuple[StreamType, Any, Any]] = {
    (False, False): (StreamType.UNARY, Endpoint.unary, _unary),
    (True, False): (StreamType.CLIENT_STREAM, Endpoint.bidi_stream, request_stream),
    (False, True): (StreamType.SERVER_STREAM, Endpoint.server_stream, server_stream),
    (True, True): (StreamType.BIDI_STREAM, Endpoint.bidi_stream, request_stream),
}


def _endpoint(method: Method, schema: Schema, server: UnaryServer) -> Any:
    info = method.info
    stream_type, make, handler = _KINDS[info.client_streaming, info.server_streaming]
    converter = Converter(method, schema)
    stand_in: Any = converter
    description: MethodInfo[Any, Any] = MethodInfo(
        name=info.name,
        service_name=info.service,
        input=stand_in,
        output=stand_in,
        idempotency_level=_IDEMPOTENCY[info.idempotency.name],
        stream_type=stream_type,
    )
    return make(method=description, function=handler(method, converter, server))
