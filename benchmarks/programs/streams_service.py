"""What the streams benchmark calls: one servicer and one stub, for natsmesh and for grpc.aio alike.

Messages are `google.protobuf.BytesValue`: protobuf encodes and decodes them, as it does in every service. What stands
here is what generated code does; the benchmark needs no .proto of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue, StringValue, UInt64Value

SERVICE = "bench.v1.Streams"
LARGEST = 16 * 1024 * 1024
"""Bytes of a message that both ends take: gRPC's default, 4 MiB, is less than the largest that is measured."""
OPTIONS = [("grpc.max_receive_message_length", LARGEST)]


class Streams:
    """All four kinds of method. A server stream is asked for by "<count> <bytes of each message>"."""

    async def Unary(self, request: BytesValue, context: Any) -> BytesValue:
        return request

    async def ServerStream(self, request: StringValue, context: Any) -> AsyncIterator[BytesValue]:
        count, size = map(int, request.value.split())
        message = BytesValue(value=bytes(size))
        for _ in range(count):
            yield message

    async def ClientStream(self, requests: AsyncIterator[BytesValue], context: Any) -> UInt64Value:
        total = 0
        async for request in requests:
            total += len(request.value)
        return UInt64Value(value=total)

    async def BidiStream(self, requests: AsyncIterator[BytesValue], context: Any) -> AsyncIterator[BytesValue]:
        async for request in requests:
            yield request


METHODS: dict[str, tuple[str, type[Message], type[Message]]] = {
    "Unary": ("unary_unary", BytesValue, BytesValue),
    "ServerStream": ("unary_stream", StringValue, BytesValue),
    "ClientStream": ("stream_unary", BytesValue, UInt64Value),
    "BidiStream": ("stream_stream", BytesValue, BytesValue),
}


def add_streams_to_server(server: grpc.aio.Server) -> None:
    """As `add_StreamsServicer_to_server` would."""
    servicer = Streams()
    handlers = {
        name: getattr(grpc, f"{kind}_rpc_method_handler")(
            getattr(servicer, name),
            request_deserializer=request.FromString,
            response_serializer=reply.SerializeToString,
        )
        for name, (kind, request, reply) in METHODS.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


class StreamsStub:
    """As a generated stub."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        for name, (kind, request, reply) in METHODS.items():
            method = getattr(channel, kind)(
                f"/{SERVICE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=reply.FromString,
            )
            setattr(self, name, method)
