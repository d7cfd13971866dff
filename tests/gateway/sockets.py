"""A service with streams for WebSockets, whose methods every test writes anew, and a gateway process before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import rpc
from rpc import Connection
from tests.gateway.contracts import compile_proto, register
from tests.gateway.processes import GatewayProcess
from tests.gateway.streaming import as_bytes

SCHEMA = compile_proto(
    """
    syntax = "proto3";
    package sockets.v1;
    import "google/api/annotations.proto";
    import "google/api/httpbody.proto";

    message Note { string room = 1; string text = 2; int64 number = 3; bytes data = 4; Note inner = 5; }

    service Sockets {
      rpc Ask(Note) returns (Note) { option (google.api.http) = {post: "/v1/ask" body: "*"}; }
      rpc Tell(Note) returns (stream Note) {
        option (google.api.http) = {
          get: "/v1/rooms/{room}/notes"
          additional_bindings { post: "/v1/rooms/{room}/notes" body: "*" }
          additional_bindings { post: "/v1/tell" body: "*" }
        };
      }
      rpc Gather(stream Note) returns (Note) {
        option (google.api.http) = {post: "/v1/rooms/{room}:gather" body: "inner" response_body: "inner"};
      }
      rpc Talk(stream Note) returns (stream Note) {
        option (google.api.http) = {
          post: "/v1/rooms/{room}:talk" body: "*"
          additional_bindings { get: "/v1/nothing" }
        };
      }
      rpc Pipe(stream google.api.HttpBody) returns (stream google.api.HttpBody) {
        option (google.api.http) = {post: "/v1/pipe" body: "*"};
      }
    }
    """,
    "sockets.proto",
)
register(SCHEMA)
SERVICE = "sockets.v1.Sockets"
Note: Any = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName("sockets.v1.Note"))
Context = grpc.aio.ServicerContext[Any, Any]
Notes = AsyncIterator[Any]

JSON: Any = "natsmesh.v1+json"
PROTO: Any = "natsmesh.v1+proto"


async def serve(connection: Connection | str, prefix: str, **methods: Callable[..., Any]) -> rpc.Server:
    """Start a back-end with these methods: ``ask``, ``tell``, ``gather``, ``talk``, ``pipe``."""
    makers = {
        "ask": grpc.unary_unary_rpc_method_handler,
        "tell": grpc.unary_stream_rpc_method_handler,
        "gather": grpc.stream_unary_rpc_method_handler,
        "talk": grpc.stream_stream_rpc_method_handler,
        "pipe": grpc.stream_stream_rpc_method_handler,
    }
    handlers = {
        name.capitalize(): makers[name](
            method,
            request_deserializer=HttpBody.FromString if name == "pipe" else Note.FromString,
            response_serializer=as_bytes,
        )
        for name, method in methods.items()
    }
    server = rpc.Server(connection, prefix=prefix)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    await server.start()
    return server


class Sockets:
    """A gateway process, and back-ends that tests start."""

    def __init__(self, gateway: GatewayProcess, nats_url: str, prefix: str) -> None:
        self.gateway = gateway
        self.nats_url = nats_url
        self.prefix = prefix
        self.servers: list[rpc.Server] = []

    async def start(self, **methods: Callable[..., Any]) -> rpc.Server:
        """Start a back-end, and return once the gateway serves it."""
        server = await serve(self.nats_url, self.prefix, **methods)
        self.servers.append(server)
        if self.gateway.process is None:
            self.gateway.start(wait=False)
        await asyncio.to_thread(self.gateway.wait_ready)
        async with asyncio.timeout(10):
            while True:
                try:
                    async with self.open(f"/{SERVICE}/Talk"):
                        return server
                except InvalidStatus:
                    await asyncio.sleep(0.01)

    def open(self, path: str, *subprotocols: Any, **options: Any) -> connect:
        options.setdefault("compression", None)
        options.setdefault("proxy", None)
        uri = f"ws://127.0.0.1:{self.gateway.port}{path}"
        return connect(uri, subprotocols=subprotocols or None, **options)

    async def refusal(self, path: str, *subprotocols: Any, **options: Any) -> tuple[int, Any]:
        """Try to open a WebSocket: return the HTTP status and the JSON that it is refused with."""
        try:
            async with self.open(path, *subprotocols, **options):
                raise AssertionError("it was opened")
        except InvalidStatus as error:
            body = error.response.body or b""
            return error.response.status_code, json.loads(body) if body.startswith(b"{") else body

    @asynccontextmanager
    async def talking(self, path: str, *subprotocols: Any, **options: Any) -> AsyncIterator[Conversation]:
        async with self.open(path, *subprotocols, **options) as socket:
            yield Conversation(socket)

    async def stop(self) -> None:
        for server in self.servers:
            await server.stop(0)
        self.servers.clear()


class Conversation:
    """An open socket, by JSON."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, *values: Any) -> None:
        for value in values:
            await self.socket.send(json.dumps(value))

    async def half_close(self) -> None:
        await self.socket.send("")

    async def read(self, timeout: float = 5.0) -> Any:
        message = await asyncio.wait_for(self.socket.recv(), timeout)
        assert isinstance(message, str)
        return json.loads(message)

    async def end(self, timeout: float = 5.0) -> tuple[list[Any], int, str]:
        """Read to the end: (messages, close code, reason)."""
        messages: list[Any] = []
        async with asyncio.timeout(timeout):
            try:
                while True:
                    message = await self.socket.recv()
                    messages.append(json.loads(message) if isinstance(message, str) else message)
            except ConnectionClosed:
                return messages, self.socket.close_code or 0, self.socket.close_reason or ""
