"""One servicer, two ways to it by REST: through Envoy and grpc.aio, and through our gateway and NATS."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.api import annotations_pb2
from google.protobuf import duration_pb2, field_mask_pb2, json_format, timestamp_pb2, wrappers_pb2
from google.protobuf.message import DecodeError

import rpc
from tests.gateway.contracts import Messages, compile_proto, register
from tests.gateway.oracle_requests import Request

SERVICE = "oracle.v1.Oracle"
SCHEMA = compile_proto(Path(__file__).with_name("oracle.proto").read_text(), "oracle.proto")
# Importing them makes the files known that ours imports.
IMPORTED = (annotations_pb2, duration_pb2, field_mask_pb2, timestamp_pb2, wrappers_pb2)
register(SCHEMA)
MESSAGES = Messages(SCHEMA)
Seen: Any = MESSAGES.type("oracle.v1.Seen")
All: Any = MESSAGES.type("oracle.v1.All")


@dataclass(frozen=True)
class Outcome:
    """What became of a request: its status by class, and what the back-end was asked, if it was."""

    status: int
    seen: str = ""
    """``Method {...}``: the request as the back-end decoded it."""

    message: str = ""
    """Of an error of ours."""

    def __str__(self) -> str:
        return f"{self.status // 100}xx {self.seen}".rstrip()


def handler() -> grpc.GenericRpcHandler:
    """The servicer: every method answers its name and the bytes that it was asked with."""
    methods = [method.name for method in MESSAGES.pool.FindServiceByName(SERVICE).methods]
    return grpc.method_handlers_generic_handler(
        SERVICE, {name: grpc.unary_unary_rpc_method_handler(partial(_answer, name)) for name in methods}
    )


async def _answer(method: str, request: bytes, context: Any) -> bytes:
    data: bytes = Seen(method=method, request=request).SerializeToString()
    return data


async def serve_grpc() -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


async def serve_nats(url: str, prefix: str) -> rpc.Server:
    server = rpc.Server(url, prefix=prefix)
    server.add_generic_rpc_handlers([handler()])
    await server.start()
    return server


class Http:
    """HTTP/1.1 on a bare socket, because no library sends such paths as they are. Connects again when it must."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request) -> Outcome:
        async with asyncio.timeout(10):
            try:
                status, body = await self._exchange(request)
            except (asyncio.IncompleteReadError, ConnectionError):
                self.close()  # It was closed after the request before.
                status, body = await self._exchange(request)
        if status == 200:
            return Outcome(status, _seen(body))
        return Outcome(status, message=json.loads(body)["message"] if body.startswith(b"{") else "")

    async def _exchange(self, request: Request) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        body = request.body.encode()
        content = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if request.body else ""
        if not request.body and request.method not in {"GET", "DELETE"}:
            content = "content-length: 0\r\n"
        writer.write(f"{request.method} {request.target} HTTP/1.1\r\nhost: oracle\r\n{content}\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip()
        status_line, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "chunked" in headers.get("transfer-encoding", ""):
            answer = b""
            while size := int(await reader.readline(), 16):
                answer += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        else:
            answer = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            self.close()
        return int(status_line.split()[1]), answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _seen(body: bytes) -> str:
    answer = json.loads(body)
    try:
        request = All.FromString(base64.b64decode(answer.get("request", "")))
    except DecodeError:
        return f"{answer['method']} with what is no message"
    shown = json_format.MessageToDict(request, descriptor_pool=MESSAGES.pool)
    return f"{answer['method']} {json.dumps(shown, sort_keys=True, ensure_ascii=False)}"
