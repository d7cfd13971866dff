"""Endpoints for the ``connectrpc`` package, made at run time: Connect's GET and compression, gRPC, gRPC-Web.

The codec hands messages through as bytes, so binary requests are not decoded between HTTP and the bus here either;
JSON is transcoded by the same functions as on the lean path.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from protobuf import wkt

from gateway.body import Receive
from gateway.errors import HttpError, connect_error, details_of, status_of
from gateway.headers import answer_headers
from gateway.http_status import CONNECT_NAME
from gateway.json_codec import json_decoder, json_encoder
from gateway.schema import Method, Schema
from gateway.unary import AsgiApp, Scope, Send, UnaryServer, send_error
from rpc import Call, StatusCode, StatusError

logger = logging.getLogger(__name__)

_IDEMPOTENCY = {level.name: level for level in IdempotencyLevel}


class _Converter:
    """How messages of one method become bytes and JSON. Stands in for connectrpc's message classes."""

    def __init__(self, method: Method, schema: Schema) -> None:
        parse = json_decoder(method.request, schema.registry, ignore_unknown=True)
        self.to_json = json_encoder(method.response, schema.registry)
        self.from_json: Callable[[bytes], bytes] = lambda document: parse(document).to_binary()


class _Response:
    """A serialized response, and how to make JSON of it."""

    __slots__ = ("converter", "data")

    def __init__(self, data: bytes, converter: _Converter) -> None:
        self.data = data
        self.converter = converter


class _BinaryCodec(Codec[_Response, Any]):
    def name(self) -> str:
        return "proto"

    def encode(self, message: _Response) -> bytes:
        return message.data

    def decode(self, data: bytes | bytearray, message_class: Any) -> Any:
        return bytes(data)


class _JsonCodec(Codec[_Response, Any]):
    def name(self) -> str:
        return "json"

    def encode(self, message: _Response) -> bytes:
        try:
            return message.converter.to_json(message.data)
        except Exception as error:
            raise ConnectError(Code.INTERNAL, f"the response does not fit its schema: {str(error)[:200]}") from error

    def decode(self, data: bytes | bytearray, message_class: Any) -> Any:
        try:
            return message_class.from_json(bytes(data))
        except HttpError as error:
            raise ConnectError(Code.INVALID_ARGUMENT, error.message) from error


class _Application(ConnectASGIApplication[None]):
    @property
    def path(self) -> str:
        return ""


def connect_app(schema: Schema, server: UnaryServer) -> AsgiApp:
    """Return an ASGI application that serves the methods of a service by all protocols of ``connectrpc``."""
    endpoints = {method.info.path: _endpoint(method, schema, server) for method in schema.methods}

    def of_service(_service: None) -> Mapping[str, Any]:
        return endpoints

    application: Any = _Application(
        service=None,
        endpoints=of_service,
        read_max_bytes=server.bodies.limit,
        codecs=[_BinaryCodec(), _JsonCodec()],
    )

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if _needs_trailers(content_type) and "http.response.trailers" not in scope.get("extensions", {}):
            body = connect_error(StatusCode.UNIMPLEMENTED, "gRPC needs HTTP/2", (), schema.registry)
            await send_error(send, 415, body, b"")
            return
        if not scope["query_string"].isascii():
            body = connect_error(StatusCode.INVALID_ARGUMENT, "query string: not ASCII", (), schema.registry)
            await send_error(send, 400, body, b"")
            return
        # connectrpc decodes every header as UTF-8; whoever sends another must not make it fail.
        headers = [(name, value) for name, value in scope["headers"] if value.isascii()]
        await application({**scope, "headers": headers}, receive, send)

    return serve


def _needs_trailers(content_type: bytes) -> bool:
    return content_type.startswith(b"application/grpc") and not content_type.startswith(b"application/grpc-web")


def _endpoint(method: Method, schema: Schema, server: UnaryServer) -> Any:
    info = method.info
    converter: Any = _Converter(method, schema)
    kinds: dict[tuple[bool, bool], tuple[StreamType, Any]] = {
        (False, False): (StreamType.UNARY, Endpoint.unary),
        (True, False): (StreamType.CLIENT_STREAM, Endpoint.client_stream),
        (False, True): (StreamType.SERVER_STREAM, Endpoint.server_stream),
        (True, True): (StreamType.BIDI_STREAM, Endpoint.bidi_stream),
    }
    stream_type, make = kinds[info.client_streaming, info.server_streaming]
    description: MethodInfo[Any, Any] = MethodInfo(
        name=info.name,
        service_name=info.service,
        input=converter,
        output=converter,
        idempotency_level=_IDEMPOTENCY[info.idempotency.name],
        stream_type=stream_type,
    )
    function: Any
    if info.is_unary:
        function = _unary(method, converter, server)
    else:
        function = _not_yet_stream if info.server_streaming else _not_yet
    return make(method=description, function=function)


def _unary(method: Method, converter: _Converter, server: UnaryServer) -> Callable[[bytes, Any], Any]:
    async def call_service(request: bytes, context: RequestContext[Any, Any]) -> _Response:
        headers = [(name.encode(), value.encode()) for name, value in context.request_headers.allitems()]
        try:
            metadata = server.headers.read(headers).metadata
        except HttpError as error:
            raise ConnectError(Code(CONNECT_NAME[error.code]), error.message) from error
        milliseconds = context.timeout_ms
        call = Call(
            method.info,
            request,
            metadata=tuple(metadata or ()),
            deadline=server.deadline(None if milliseconds is None else milliseconds / 1000),
        )
        try:
            await server.invoke(call)
        except StatusError as error:
            code, message = status_of(error)
            details = [
                ErrorDetail(wkt.Any.from_binary(detail.SerializeToString()))
                for detail in details_of(call.trailing_metadata)
            ]
            raise ConnectError(Code(CONNECT_NAME[code]), message, details) from error
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logger.exception("%s: a request failed", method.info.full_name)
            raise ConnectError(Code.INTERNAL, "internal error") from error
        finally:
            _answer_metadata(call, context)
        return _Response(call.response, converter)

    return call_service


def _answer_metadata(call: Call, context: RequestContext[Any, Any]) -> None:
    if call.initial_metadata:
        for name, value in answer_headers(call.initial_metadata, ()):
            context.response_headers.add(name.decode(), value.decode())
    if call.trailing_metadata:
        for name, value in answer_headers(call.trailing_metadata, ()):
            context.response_trailers.add(name.decode(), value.decode())


async def _not_yet(_request: Any, context: RequestContext[Any, Any]) -> Any:
    raise _unimplemented(context)


async def _not_yet_stream(_request: Any, context: RequestContext[Any, Any]) -> AsyncIterator[Any]:
    raise _unimplemented(context)
    yield  # It is a generator because this stands here.


def _unimplemented(context: RequestContext[Any, Any]) -> ConnectError:
    method = context.method
    return ConnectError(
        Code.UNIMPLEMENTED, f"{method.service_name}/{method.name} is a streaming method: not served here yet"
    )
