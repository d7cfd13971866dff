"""A service with all kinds of streams, whose methods every test writes anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.api import annotations_pb2, httpbody_pb2
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass

import rpc
from rpc import Connection
from tests.gateway.contracts import compile_proto, register

# Importing them makes the files known that ours imports.
assert annotations_pb2
assert httpbody_pb2

STREAMS = compile_proto(
    """
    syntax = "proto3";
    package streams.v1;
    import "google/api/annotations.proto";
    import "google/api/httpbody.proto";

    message Item {
      string text = 1;
      int64 number = 2;
      bytes data = 3;
      Item inner = 4;
    }

    service Streams {
      rpc Ask(Item) returns (Item);
      rpc Tell(Item) returns (stream Item) {
        option (google.api.http) = {
          get: "/v1/tell/{text}"
          additional_bindings { post: "/v1/tell" body: "*" }
          additional_bindings { get: "/v1/inner/{text}" response_body: "inner" }
          additional_bindings { get: "/v1/numbers/{text}" response_body: "number" }
        };
      }
      rpc Gather(stream Item) returns (Item) { option (google.api.http) = {post: "/v1/gather" body: "*"}; }
      rpc Talk(stream Item) returns (stream Item) { option (google.api.http) = {post: "/v1/talk" body: "*"}; }
      rpc Download(Item) returns (stream google.api.HttpBody) {
        option (google.api.http) = {get: "/v1/download/{text}"};
      }
    }
    """,
    "streams_v1.proto",
)
register(STREAMS)

SERVICE = "streams.v1.Streams"
Item: Any = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName("streams.v1.Item"))
Context = grpc.aio.ServicerContext[Any, Any]
Items = AsyncIterator[Any]


def as_bytes(message: Any) -> bytes:
    """Serialize; bytes pass, so that handlers can answer what is no message."""
    data: bytes = message if isinstance(message, bytes) else message.SerializeToString()
    return data


async def serve(
    connection: Connection | str,
    prefix: str,
    *,
    decode: Callable[[bytes], Any] = Item.FromString,
    **methods: Callable[..., Any],
) -> rpc.Server:
    """Start a back-end with these methods: ``ask``, ``tell``, ``gather``, ``talk``, ``download``."""
    makers = {
        "ask": grpc.unary_unary_rpc_method_handler,
        "tell": grpc.unary_stream_rpc_method_handler,
        "gather": grpc.stream_unary_rpc_method_handler,
        "talk": grpc.stream_stream_rpc_method_handler,
        "download": grpc.unary_stream_rpc_method_handler,
    }
    handlers = {
        name.capitalize(): makers[name](method, request_deserializer=decode, response_serializer=as_bytes)
        for name, method in methods.items()
    }
    server = rpc.Server(connection, prefix=prefix)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    await server.start()
    return server
