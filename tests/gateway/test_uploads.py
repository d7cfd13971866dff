"""Uploads: REST bodies that pass to a client stream of HttpBody in chunks; on both buses, and with a real process."""

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass

import rpc
from gateway.uploads import MAX_CHUNK
from rpc import Connection
from tests.gateway.asgi import Client
from tests.gateway.contracts import compile_proto, register
from tests.gateway.processes import GatewayProcess, RawClient
from tests.gateway.streaming import as_bytes
from tests.gateway.worlds import World

SCHEMA = compile_proto(
    """
    syntax = "proto3";
    package uploads.v1;
    import "google/api/annotations.proto";
    import "google/api/httpbody.proto";

    message File { string folder = 1; string name = 2; google.api.HttpBody content = 3; int64 size = 4; }
    message Receipt { string folder = 1; string name = 2; string content_type = 3; int64 size = 4; string digest = 5;
                      int64 messages = 6; int64 largest = 7; }

    service Uploads {
      rpc Put(stream File) returns (Receipt) {
        option (google.api.http) = {post: "/v1/folders/{folder}/files" body: "content"};
      }
      rpc Raw(stream google.api.HttpBody) returns (Receipt) { option (google.api.http) = {put: "/v1/raw" body: "*"}; }
      rpc Echo(stream google.api.HttpBody) returns (stream google.api.HttpBody) {
        option (google.api.http) = {post: "/v1/echo" body: "*"};
      }
      rpc Count(stream google.api.HttpBody) returns (stream Receipt) {
        option (google.api.http) = {post: "/v1/count" body: "*"};
      }
    }
    """,
    "uploads.proto",
)
register(SCHEMA)
SERVICE = "uploads.v1.Uploads"
File: Any = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName("uploads.v1.File"))
Receipt: Any = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName("uploads.v1.Receipt"))
Context = grpc.aio.ServicerContext[Any, Any]
MIB = 1024 * 1024


async def serve(connection: Connection | str, prefix: str, **methods: Callable[..., Any]) -> rpc.Server:
    """Start a back-end with these methods: ``put``, ``raw``, ``echo``, ``count``."""
    makers = {
        "put": (grpc.stream_unary_rpc_method_handler, File),
        "raw": (grpc.stream_unary_rpc_method_handler, HttpBody),
        "echo": (grpc.stream_stream_rpc_method_handler, HttpBody),
        "count": (grpc.stream_stream_rpc_method_handler, HttpBody),
    }
    handlers = {
        name.capitalize(): makers[name][0](
            method, request_deserializer=makers[name][1].FromString, response_serializer=as_bytes
        )
        for name, method in methods.items()
    }
    server = rpc.Server(connection, prefix=prefix)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    await server.start()
    return server


@pytest.fixture
async def start(world: World) -> AsyncIterator[Callable[..., Any]]:
    """Starts a back-end with these methods, and a gateway with these options."""
    servers = []

    async def start(options: dict[str, Any] | None = None, **methods: Any) -> Client:
        servers.append(await serve(await world.connection(), world.prefix, **methods))
        return await world.ready_gateway(**(options or {}))

    yield start
    for server in servers:
        await server.stop(0)


async def put(requests: AsyncIterator[Any], context: Context) -> Any:
    """Tell of everything that came, and what of it did not come first."""
    receipt = Receipt()
    digest = 0
    async for file in requests:
        receipt.messages += 1
        if receipt.messages == 1:
            receipt.folder, receipt.name, receipt.content_type = file.folder, file.name, file.content.content_type
        elif file.folder or file.name or file.content.content_type or not file.content.data:
            await context.abort(grpc.StatusCode.INTERNAL, "only data was to come")
        receipt.size += len(file.content.data)
        receipt.largest = max(receipt.largest, len(file.content.data))
        digest = zlib.crc32(file.content.data, digest)
    receipt.digest = f"{digest:08x}"
    return receipt


async def raw(requests: AsyncIterator[Any], context: Context) -> Any:
    receipt = Receipt()
    async for body in requests:
        receipt.messages += 1
        receipt.content_type += body.content_type
        receipt.size += len(body.data)
    return receipt


async def test_chunks(start: Callable[..., Any]) -> None:
    client = await start(put=put)
    parts = [b"ab", b"", b"c" * (2 * MAX_CHUNK + 1), b"d"]
    answer = await client.post("/v1/folders/a%20b/files?name=x.png", parts, headers={"content-type": "image/png"})
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert answer.header("x-request-id")
    assert answer.json == {
        "folder": "a b",
        "name": "x.png",
        "contentType": "image/png",
        "size": str(2 * MAX_CHUNK + 4),
        "digest": f"{zlib.crc32(b''.join(parts)):08x}",
        "messages": "5",
        "largest": str(MAX_CHUNK),
    }


async def test_nothing_is_one_message(start: Callable[..., Any]) -> None:
    client = await start(put=put, raw=raw)
    answer = await client.post("/v1/folders/f/files", b"", headers={"content-type": "text/plain"})
    assert (answer.json["folder"], answer.json["contentType"], answer.json["messages"]) == ("f", "text/plain", "1")
    answer = await client.request("PUT", "/v1/raw", [b"", b"", b""])
    assert answer.json == {"messages": "1"}


async def test_the_whole_request(start: Callable[..., Any]) -> None:
    client = await start(raw=raw)
    answer = await client.request("PUT", "/v1/raw", [b"ab", b"c"], headers={"content-type": "multipart/x"})
    assert answer.json == {"contentType": "multipart/x", "size": "3", "messages": "2"}


async def test_a_compressed_body_is_bounded(start: Callable[..., Any]) -> None:
    client = await start({"max_body": 1000, "max_held": 1000}, put=put)
    headers = {"content-type": "text/plain", "content-encoding": "gzip"}
    answer = await client.post(
        "/v1/folders/f/files", [gzip.compress(b"abc")[:5], gzip.compress(b"abc")[5:]], headers=headers
    )
    assert (answer.status, answer.json["size"]) == (200, "3")
    answer = await client.post("/v1/folders/f/files", [gzip.compress(b"x" * 100_000)], headers=headers)
    assert (answer.status, answer.json["code"]) == (413, 8)
    answer = await client.post("/v1/folders/f/files", [b"x"], headers=headers)
    assert (answer.status, answer.json["code"]) == (400, 3)
    assert client.application._unary.bodies.held_by == {}


async def test_what_is_wrong_with_the_url_is_told_first(start: Callable[..., Any]) -> None:
    client = await start(put=put)
    for target in ("/v1/folders/f/files?nope=1", "/v1/folders/f/files?folder=g", "/v1/folders/%ff/files"):
        conversation = client.open("POST", target, more=True)
        assert (await conversation.head()).status == 400
        conversation.hang_up()


async def test_metadata(start: Callable[..., Any]) -> None:
    async def raw(requests: AsyncIterator[Any], context: Context) -> Any:
        await context.send_initial_metadata([("x-lead", "1")])
        context.set_trailing_metadata([("x-trail", "2")])
        return Receipt(name=dict(context.invocation_metadata() or ())["authorization"])

    client = await start(raw=raw)
    answer = await client.request("PUT", "/v1/raw", b"x", headers={"authorization": "Bearer x"})
    assert (answer.json, answer.header("x-lead"), answer.header("trailer-x-trail")) == ({"name": "Bearer x"}, "1", "2")


async def test_an_early_answer_does_not_wait_for_the_body(start: Callable[..., Any]) -> None:
    async def raw(requests: AsyncIterator[Any], context: Context) -> Any:
        async for body in requests:
            if body.data == b"enough":
                return Receipt(name="thanks")
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not that")
        return Receipt()

    client = await start(raw=raw)
    conversation = client.open("PUT", "/v1/raw", b"enough", more=True)
    assert (await conversation.head()).status == 200
    assert json.loads(await conversation.rest()) == {"name": "thanks"}
    await asyncio.wait_for(conversation.task, 5)
    conversation = client.open("PUT", "/v1/raw", b"other", more=True)
    assert (await conversation.head()).status == 403
    assert json.loads(await conversation.rest()) == {"code": 7, "message": "not that"}


async def test_a_service_that_refuses_at_once(start: Callable[..., Any]) -> None:
    async def raw(requests: AsyncIterator[Any], context: Context) -> Any:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

    client = await start(raw=raw)
    conversation = client.open("PUT", "/v1/raw", more=True)
    assert (await conversation.head()).status == 401


async def test_too_much(start: Callable[..., Any]) -> None:
    stopped = asyncio.Event()

    async def raw(requests: AsyncIterator[Any], context: Context) -> Any:
        try:
            async for _ in requests:
                pass
            return Receipt()
        finally:
            stopped.set()

    client = await start({"max_upload": 1000}, raw=raw)
    answer = await client.request("PUT", "/v1/raw", b"x", headers={"content-length": "1001"})
    assert (answer.status, answer.json["code"]) == (413, 8)
    assert (await client.request("PUT", "/v1/raw", b"x" * 1000)).status == 200
    await asyncio.wait_for(stopped.wait(), 5)
    stopped.clear()
    conversation = client.open("PUT", "/v1/raw", b"x" * 600, b"x" * 600, more=True)
    assert (await conversation.head()).status == 413
    await asyncio.wait_for(stopped.wait(), 5)


async def test_a_client_that_stops_sending(start: Callable[..., Any]) -> None:
    client = await start({"body_patience": 0.1}, raw=raw)
    conversation = client.open("PUT", "/v1/raw", b"x", more=True)
    assert (await conversation.head()).status == 408


async def test_a_slow_service_slows_the_client_and_is_no_fault_of_its(start: Callable[..., Any]) -> None:
    go_on = asyncio.Event()

    async def raw(requests: AsyncIterator[Any], context: Context) -> Any:
        receipt = Receipt()
        async for body in requests:
            receipt.size += len(body.data)
            await go_on.wait()
        return receipt

    client = await start({"body_patience": 0.1}, raw=raw)
    conversation = client.open("PUT", "/v1/raw", *[b"x" * MIB] * 16)
    left = 16
    async with asyncio.timeout(10):
        while (now := conversation.parts_left()) != left or now == 16:
            left = now
            await asyncio.sleep(0.3)
    assert left > 8
    go_on.set()
    assert (await conversation.head()).status == 200
    assert json.loads(await conversation.rest()) == {"size": str(16 * MIB)}


async def test_a_client_that_hangs_up(start: Callable[..., Any]) -> None:
    stopped: asyncio.Queue[int] = asyncio.Queue()

    async def raw(requests: AsyncIterator[Any], context: Context) -> Any:
        receipt = Receipt()
        try:
            async for _ in requests:
                receipt.messages += 1
            await asyncio.Event().wait()
        finally:
            stopped.put_nowait(receipt.messages)

    client = await start(raw=raw)
    for more in (True, False):
        conversation = client.open("PUT", "/v1/raw", b"a", b"b", more=more)
        async with asyncio.timeout(5):
            while conversation.parts_left():
                await asyncio.sleep(0.01)
        conversation.hang_up()
        await asyncio.wait_for(stopped.get(), 5)
        await asyncio.wait_for(conversation.task, 5)


async def test_deadline(start: Callable[..., Any]) -> None:
    client = await start(raw=raw)
    conversation = client.open("PUT", "/v1/raw", b"a", more=True, headers={"connect-timeout-ms": "50"})
    assert (await conversation.head()).status == 504


async def test_responses_may_be_a_stream(start: Callable[..., Any]) -> None:
    async def echo(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for body in requests:
            yield body

    async def count(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for body in requests:
            yield Receipt(size=len(body.data))

    client = await start({"max_upload": 10}, echo=echo, count=count)
    answer = await client.post("/v1/echo", [b"a", b"b"], headers={"content-type": "image/png"})
    assert (answer.status, answer.header("content-type"), answer.body) == (200, "image/png", b"ab")
    conversation = client.open("POST", "/v1/count", b"abc", more=True)
    assert (await conversation.head()).header("content-type") == "application/x-ndjson"
    assert await conversation.part() == b'{"size":"3"}\n'
    conversation.send(b"x" * 20)
    assert json.loads(await conversation.part() or b"")["error"]["code"] == 8


async def test_a_large_body_takes_no_memory(tmp_path: Path, nats_url: str) -> None:
    """256 MiB through a gateway process of its own; nothing of it stays, and the gateway is below 100 MB."""
    server = await serve(nats_url, "large", put=put)
    gateway = GatewayProcess(tmp_path, nats_url, "large").start(wait=False)
    try:
        await asyncio.to_thread(gateway.wait_ready)
        before = peak = gateway.resident
        chunk = bytes(range(256)) * 4096
        count = 256 * MIB // len(chunk)
        digest = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal peak, digest
            for _ in range(count):
                digest = zlib.crc32(chunk, digest)
                yield chunk
                peak = max(peak, gateway.resident)

        started = time.monotonic()
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            answer = await client.post("/v1/folders/f/files", content=body(), headers={"content-type": "x/y"})
        seconds = time.monotonic() - started
        assert answer.status_code == 200, answer.text
        assert answer.json()["size"] == str(256 * MIB)
        assert answer.json()["digest"] == f"{digest:08x}"
        # About 2 s on two idle cores, 0.5 of them the gateway's; what else this machine does is not its fault.
        assert gateway.cpu_seconds < 5
        assert seconds < 30
        assert peak < 100e6, (before, peak)
    finally:
        gateway.close()
        await server.stop(0)


async def test_http_1_clients_hear_an_early_error_while_they_send(tmp_path: Path, nats_url: str) -> None:
    server = await serve(nats_url, "early", raw=raw)
    gateway = GatewayProcess(tmp_path, nats_url, "early", max_upload=MIB).start(wait=False)
    try:
        await asyncio.to_thread(gateway.wait_ready)
        async with RawClient(gateway.port) as client:
            await client.send(b"PUT /v1/raw HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(20):
                await client.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            status, headers, body = await client.answer()
            assert (status, headers["content-type"]) == (413, "application/json")
            assert json.loads(body)["code"] == 8
            # The connection is good for more, once the body has ended.
            await client.send(b"0\r\n\r\nPUT /v1/raw HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab")
            status, _, body = await client.answer()
            assert (status, json.loads(body)["size"]) == (200, "2")
    finally:
        gateway.close()
        await server.stop(0)


async def test_a_connection_that_is_cut_cancels_the_handler(tmp_path: Path, nats_url: str) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def raw(requests: AsyncIterator[Any], context: Context) -> Any:
        try:
            async for _ in requests:
                begun.set()
            return Receipt()
        except asyncio.CancelledError:
            stopped.set()
            raise

    server = await serve(nats_url, "cut", raw=raw)
    gateway = GatewayProcess(tmp_path, nats_url, "cut").start(wait=False)
    try:
        await asyncio.to_thread(gateway.wait_ready)
        async with RawClient(gateway.port) as client:
            await client.send(b"PUT /v1/raw HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nab")
            await asyncio.wait_for(begun.wait(), 5)
            client.abort()
            await asyncio.wait_for(stopped.wait(), 5)
        assert "Traceback" not in gateway.log
    finally:
        gateway.close()
        await server.stop(0)
