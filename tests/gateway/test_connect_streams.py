"""Streams by Connect and gRPC-Web (connectrpc.com/docs/protocol, "Streaming RPCs"; gRPC, "PROTOCOL-WEB")."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote

import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc_status import rpc_status

from tests.gateway.asgi import Client, Conversation
from tests.gateway.streaming import Context, Item, Items, serve
from tests.gateway.worlds import World
from tests.waiting import until

TELL, GATHER, TALK, ASK = (f"/streams.v1.Streams/{name}" for name in ("Tell", "Gather", "Talk", "Ask"))
CONNECT = {"content-type": "application/connect+proto"}
JSON = {"content-type": "application/connect+json"}
WEB = {"content-type": "application/grpc-web+proto"}


@pytest.fixture
async def start(world: World) -> AsyncIterator[Callable[..., Any]]:
    servers = []

    async def start(options: dict[str, Any] | None = None, **methods: Any) -> Client:
        servers.append(await serve(await world.connection(), world.prefix, **methods))
        return await world.ready_gateway(**(options or {}))

    yield start
    for server in servers:
        await server.stop(0)


async def count(request: Any, context: Context) -> Items:
    for number in range(1, request.number + 1):
        yield Item(number=number)


async def add(requests: Items, context: Context) -> Any:
    return Item(number=sum([request.number async for request in requests]))


async def echo(requests: Items, context: Context) -> Items:
    async for request in requests:
        yield request


def envelope(data: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(data).to_bytes(4, "big") + data


def item(headers: dict[str, str], **fields: Any) -> bytes:
    """An Item in an envelope, in the encoding that the headers say."""
    message = Item(**fields)
    if "json" in headers["content-type"]:
        return envelope(json_format.MessageToJson(message).encode())
    return envelope(message.SerializeToString())


class Stream:
    """The answer: its messages, and what it ended with."""

    def __init__(self, conversation: Conversation, headers: dict[str, str]) -> None:
        self.conversation = conversation
        self._headers = headers
        self._buffer = b""
        self.end: dict[str, Any] = {}

    async def next(self, timeout: float = 5.0) -> Any:
        """Return the next Item, or None after the last; then ``end`` is known."""
        flags, data = await self._envelope(timeout)
        web = "grpc-web" in self._headers["content-type"]
        if flags & (0x80 if web else 2):
            assert await self.conversation.part() is None
            self.end = _web_end(data) if web else json.loads(data)
            return None
        if "json" in self._headers["content-type"]:
            return json_format.Parse(data, Item())
        return Item.FromString(data)

    async def _envelope(self, timeout: float) -> tuple[int, bytes]:
        while len(self._buffer) < 5 or len(self._buffer) < 5 + int.from_bytes(self._buffer[1:5], "big"):
            part = await self.conversation.part(timeout)
            assert part is not None, "the answer has no end"
            self._buffer += part
        size = 5 + int.from_bytes(self._buffer[1:5], "big")
        message, self._buffer = self._buffer[:size], self._buffer[size:]
        return message[0], message[5:]

    async def rest(self) -> list[Any]:
        found = []
        while (message := await self.next()) is not None:
            found.append(message)
        return found


def _web_end(data: bytes) -> dict[str, Any]:
    """gRPC-Web's trailers in Connect's form."""
    trailers: dict[str, list[str]] = {}
    for line in data.decode().split("\r\n")[:-1]:
        name, _, value = line.partition(": ")
        trailers.setdefault(name, []).append(value)
    code = int(trailers.pop("grpc-status")[0])
    message = unquote(trailers.pop("grpc-message", [""])[0])
    details = trailers.pop("grpc-status-details-bin", [])
    end: dict[str, Any] = {"metadata": trailers} if trailers else {}
    if code:
        name = next(each.name.lower() for each in StatusCode if each.value[0] == code)
        end["error"] = {"code": "canceled" if name == "cancelled" else name, "message": message}
        if details:
            status = status_pb2.Status.FromString(base64.b64decode(details[0] + "=="))
            end["error"]["details"] = [
                {
                    "type": each.type_url.rpartition("/")[2],
                    "value": base64.b64encode(each.value).rstrip(b"=").decode(),
                }
                for each in status.details
            ]
    return end


async def ask(client: Client, path: str, headers: dict[str, str], *parts: bytes, more: bool = False) -> Stream:
    conversation = client.open("POST", path, *parts, more=more, headers=headers)
    head = await conversation.head()
    assert head.status == 200, head
    assert head.header("content-type") == headers["content-type"]
    return Stream(conversation, headers)


PROTOCOLS = pytest.mark.parametrize("headers", [CONNECT, JSON, WEB], ids=["connect", "json", "web"])


@PROTOCOLS
async def test_all_kinds(start: Callable[..., Any], headers: dict[str, str]) -> None:
    async def one(request: Any, context: Context) -> Any:
        return Item(number=-request.number)

    client = await start(ask=one, tell=count, gather=add, talk=echo)
    stream = await ask(client, TELL, headers, item(headers, number=3))
    assert [each.number for each in await stream.rest()] == [1, 2, 3]
    assert stream.end == {}
    requests = [item(headers, number=number) for number in (1, 2, 3)]
    stream = await ask(client, GATHER, headers, *requests)
    assert [each.number for each in await stream.rest()] == [6]
    stream = await ask(client, TALK, headers, b"".join(requests))
    assert [each.number for each in await stream.rest()] == [1, 2, 3]
    # However the envelopes are cut.
    stream = await ask(client, TALK, headers, *(bytes([byte]) for byte in b"".join(requests)))
    assert [each.number for each in await stream.rest()] == [1, 2, 3]
    for path, expected in ((GATHER, [0]), (TALK, [])):
        stream = await ask(client, path, headers, b"")
        assert [each.number for each in await stream.rest()] == expected
    if headers is WEB:
        stream = await ask(client, ASK, headers, item(headers, number=3))
        assert [each.number for each in await stream.rest()] == [-3]


@PROTOCOLS
async def test_both_directions_at_once(start: Callable[..., Any], headers: dict[str, str]) -> None:
    client = await start(talk=echo)
    conversation = client.open("POST", TALK, item(headers, number=0), more=True, headers=headers)
    assert (await conversation.head()).status == 200
    stream = Stream(conversation, headers)
    for number in range(1, 20):
        assert (await stream.next()).number == number - 1
        conversation.send(item(headers, number=number))
    assert (await stream.next()).number == 19
    conversation.send(b"", more=False)
    assert await stream.next() is None
    assert stream.end == {}


@PROTOCOLS
async def test_metadata(start: Callable[..., Any], headers: dict[str, str]) -> None:
    async def tell(request: Any, context: Context) -> Items:
        got = dict(context.invocation_metadata() or ())
        await context.send_initial_metadata([("x-lead", got["x-tenant"]), ("x-some-bin", got["x-bytes-bin"])])
        context.set_trailing_metadata([("x-trail", "a"), ("x-trail", "b"), ("x-more-bin", b"\xff")])
        yield Item(number=1)

    async def gather(requests: Items, context: Context) -> Any:
        return await anext(tell(None, context))

    client = await start(tell=tell, gather=gather)
    for path in (TELL, GATHER):
        sent = {**headers, "x-tenant": "t", "x-bytes-bin": "/w"}
        conversation = client.open("POST", path, item(headers), headers=sent)
        head = await conversation.head()
        assert (head.header("x-lead"), head.header("x-some-bin")) == ("t", "/w")
        assert head.header("x-trail") is None
        assert head.header("x-request-id")
        stream = Stream(conversation, headers)
        assert [each.number for each in await stream.rest()] == [1]
        assert stream.end == {"metadata": {"x-trail": ["a", "b"], "x-more-bin": ["/w"]}}


@PROTOCOLS
@pytest.mark.parametrize("messages", [0, 2])
async def test_errors(start: Callable[..., Any], headers: dict[str, str], messages: int) -> None:
    async def tell(request: Any, context: Context) -> Items:
        for _ in range(messages):
            yield Item()
        status = status_pb2.Status(code=StatusCode.NOT_FOUND.value[0], message="no such thing")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="GONE"))
        await context.abort_with_status(rpc_status.to_status(status))

    async def gather(requests: Items, context: Context) -> Any:
        await context.abort(StatusCode.ABORTED, "enough", [("x-trail", "t")])

    async def talk(requests: Items, context: Context) -> Items:
        yield Item()
        raise RuntimeError("secret")

    client = await start(tell=tell, gather=gather, talk=talk)
    stream = await ask(client, TELL, headers, item(headers))
    assert len(await stream.rest()) == messages
    error = stream.end["error"]
    assert (error["code"], error["message"]) == ("not_found", "no such thing")
    (detail,) = error["details"]
    assert detail["type"] == "google.rpc.ErrorInfo"
    info = error_details_pb2.ErrorInfo.FromString(base64.b64decode(detail["value"] + "=="))
    assert info.reason == "GONE"
    # The requests have no end yet, and it does not matter.
    stream = await ask(client, GATHER, headers, item(headers), more=True)
    assert await stream.rest() == []
    assert stream.end == {"error": {"code": "aborted", "message": "enough"}, "metadata": {"x-trail": ["t"]}}
    stream = await ask(client, TALK, headers, item(headers), more=True)
    assert len(await stream.rest()) == 1
    assert stream.end["error"]["code"] == "unknown"
    assert "secret" not in str(stream.end)


async def test_messages_are_not_looked_into(world: World) -> None:
    async def talk(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request + b"\xff answer"

    server = await serve(await world.connection(), world.prefix, decode=lambda data: data, talk=talk)
    client = await world.ready_gateway()
    for headers in (CONNECT, WEB):
        answer = await client.post(TALK, envelope(b"\xff request"), headers=headers)
        assert answer.body.startswith(envelope(b"\xff request\xff answer"))
    await server.stop(0)


@PROTOCOLS
async def test_initial_metadata_is_answered_before_there_is_a_message(
    start: Callable[..., Any], headers: dict[str, str]
) -> None:
    go_on = asyncio.Event()

    async def tell(request: Any, context: Context) -> Items:
        await context.send_initial_metadata([("x-lead", "1")])
        await go_on.wait()
        yield Item(number=1)

    async def gather(requests: Items, context: Context) -> Any:
        await context.send_initial_metadata([("x-lead", "1")])
        await go_on.wait()
        return Item(number=1)

    client = await start(tell=tell, gather=gather)
    for path in (TELL, GATHER):
        go_on.clear()
        conversation = client.open("POST", path, item(headers), headers=headers)
        assert (await conversation.head()).header("x-lead") == "1"
        stream = Stream(conversation, headers)
        with pytest.raises(TimeoutError):
            await stream.next(timeout=0.05)
        go_on.set()
        assert [each.number for each in await stream.rest()] == [1]


@PROTOCOLS
async def test_initial_metadata_before_a_stream_of_nothing(start: Callable[..., Any], headers: dict[str, str]) -> None:
    async def tell(request: Any, context: Context) -> Items:
        await context.send_initial_metadata([("x-lead", "1")])
        await asyncio.sleep(0.05)
        if request.number:
            await context.abort(StatusCode.ABORTED, "enough")
        return
        yield

    client = await start(tell=tell)
    for number in (0, 1):
        stream = await ask(client, TELL, headers, item(headers, number=number))
        assert await stream.rest() == []
        assert ("error" in stream.end) == bool(number)


BAD_REQUESTS = [
    (CONNECT, b"\x00\x00\x00", "invalid_argument"),
    (CONNECT, b"\x00\x00\x00\x00\x05abc", "invalid_argument"),
    (CONNECT, b"\x77\x00\x00\x00\x00", "invalid_argument"),
    (CONNECT, b"\x01\x00\x00\x00\x01x", "internal"),
    (CONNECT, b"\x00\xff\xff\xff\xff", "resource_exhausted"),
    (JSON, envelope(b"{"), "invalid_argument"),
    (JSON, envelope(b'{"number": "x"}'), "invalid_argument"),
    (JSON, envelope(b"\xff"), "invalid_argument"),
    (WEB, b"\x00\x00\x00\x00\x05abc", "invalid_argument"),
]


@pytest.mark.parametrize(("headers", "rest", "code"), BAD_REQUESTS)
async def test_bad_requests_end_the_call(
    start: Callable[..., Any], headers: dict[str, str], rest: bytes, code: str
) -> None:
    got: list[int] = []
    ended = asyncio.Event()

    async def talk(requests: Items, context: Context) -> Items:
        try:
            async for request in requests:
                got.append(request.number)
                yield request
        finally:
            ended.set()

    client = await start(talk=talk)
    conversation = client.open("POST", TALK, item(headers, number=7), more=True, headers=headers)
    await conversation.head()
    stream = Stream(conversation, headers)
    assert (await stream.next()).number == 7
    conversation.send(rest, more=False)
    assert await stream.rest() == []
    assert stream.end["error"]["code"] == code
    await asyncio.wait_for(ended.wait(), 1)
    assert got == [7]


@PROTOCOLS
async def test_a_server_stream_takes_one_request(start: Callable[..., Any], headers: dict[str, str]) -> None:
    client = await start(tell=count)
    for requests in (b"", item(headers) * 2):
        stream = await ask(client, TELL, headers, requests)
        assert await stream.rest() == []
        assert stream.end["error"]["code"] == "unimplemented"


async def test_compression_both_ways(start: Callable[..., Any]) -> None:
    client = await start(talk=echo)
    message = Item(text="x" * 10_000).SerializeToString()
    headers = {**CONNECT, "connect-content-encoding": "gzip", "connect-accept-encoding": "gzip"}
    answer = await client.post(TALK, envelope(gzip.compress(message), 1), headers=headers)
    assert answer.header("connect-content-encoding") == "gzip"
    size = int.from_bytes(answer.body[1:5], "big")
    assert answer.body[0] == 1
    assert size < 1000
    assert gzip.decompress(answer.body[5 : 5 + size]) == message
    bomb = gzip.compress(bytes(client.application.config.max_body + 1))
    answer = await client.post(TALK, envelope(bomb, 1), headers={**CONNECT, "connect-content-encoding": "gzip"})
    assert json.loads(answer.body[5:])["error"]["code"] == "resource_exhausted"


@PROTOCOLS
@pytest.mark.parametrize("kind", ["silent", "talking", "requests have ended"])
async def test_a_client_that_hangs_up_stops_the_handler(
    start: Callable[..., Any], headers: dict[str, str], kind: str
) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def talk(requests: Items, context: Context) -> Items:
        started.set()
        try:
            while True:
                if kind == "talking":
                    yield Item(number=1)
                await asyncio.sleep(0.01)
        finally:
            stopped.set()

    client = await start(talk=talk)
    conversation = client.open("POST", TALK, item(headers), more=kind != "requests have ended", headers=headers)
    await asyncio.wait_for(started.wait(), 5)
    if kind == "talking":
        await conversation.head()
        await conversation.part()
    conversation.hang_up()
    await asyncio.wait_for(stopped.wait(), 1)
    await asyncio.wait_for(conversation.task, 1)


@PROTOCOLS
async def test_deadlines(start: Callable[..., Any], headers: dict[str, str]) -> None:
    stopped = asyncio.Event()

    async def talk(requests: Items, context: Context) -> Items:
        assert 0 < (context.time_remaining() or 0) < 1
        try:
            yield Item()
            await asyncio.Event().wait()
        finally:
            stopped.set()

    client = await start(talk=talk)
    timeout = {"grpc-timeout": "200m"} if headers is WEB else {"connect-timeout-ms": "200"}
    stream = Stream(client.open("POST", TALK, item(headers), more=True, headers={**headers, **timeout}), headers)
    await stream.conversation.head()
    assert len(await stream.rest()) == 1
    assert stream.end["error"]["code"] == "deadline_exceeded"
    await asyncio.wait_for(stopped.wait(), 1)


@PROTOCOLS
async def test_a_reader_that_stops_stops_the_service(start: Callable[..., Any], headers: dict[str, str]) -> None:
    sent = 0

    async def tell(request: Any, context: Context) -> Items:
        nonlocal sent
        for _ in range(200):
            yield Item(data=bytes(50_000))
            sent += 1

    client = await start(tell=tell)
    stream = await ask(client, TELL, headers, item(headers))
    assert await settled(lambda: sent) < 40
    for _ in range(30):
        await stream.next()
    assert 30 < await settled(lambda: sent) < 70
    assert len(await stream.rest()) == 170


@PROTOCOLS
async def test_a_service_that_does_not_read_stops_the_writer(
    start: Callable[..., Any], headers: dict[str, str]
) -> None:
    go_on = asyncio.Event()

    async def gather(requests: Items, context: Context) -> Any:
        await go_on.wait()
        return Item(number=sum([len(request.data) async for request in requests]))

    client = await start(gather=gather)
    part = item(headers, data=bytes(50_000))
    conversation = client.open("POST", GATHER, *([part] * 200), headers=headers)
    left = conversation.parts_left
    assert await settled(left) > 160
    go_on.set()
    await conversation.head()
    stream = Stream(conversation, headers)
    assert [each.number for each in await stream.rest()] == [200 * 50_000]


async def settled(number: Callable[[], int]) -> int:
    last = -1
    while (now := number()) != last:
        last = now
        await asyncio.sleep(0.2)
    return last


@PROTOCOLS
async def test_a_service_that_ends_early(start: Callable[..., Any], headers: dict[str, str]) -> None:
    async def gather(requests: Items, context: Context) -> Any:
        return await anext(aiter(requests))

    client = await start(gather=gather)
    stream = await ask(client, GATHER, headers, item(headers, number=5), more=True)
    assert [each.number for each in await stream.rest()] == [5]
    assert stream.end == {}
    await asyncio.wait_for(stream.conversation.task, 1)


@PROTOCOLS
async def test_methods_and_services_that_are_not_there(world: World, headers: dict[str, str]) -> None:
    server = await serve(await world.connection(), world.prefix, tell=count)
    client = await world.ready_gateway()
    stream = await ask(client, TALK, headers, item(headers), more=True)
    assert await stream.rest() == []
    assert stream.end["error"]["code"] == "unimplemented"
    await server.stop(0)
    for path in (TELL, TALK):
        stream = await ask(client, path, headers, item(headers))
        assert await stream.rest() == []
        assert stream.end["error"]["code"] == "unavailable"


async def test_large_messages(start: Callable[..., Any]) -> None:
    client = await start({"max_body": 3_000_000}, talk=echo)
    large = item(CONNECT, data=bytes(2_500_000))
    answer = await client.post(TALK, [large, large], headers=CONNECT)
    assert answer.body == large + large + envelope(b"{}", 2)
    answer = await client.post(TALK, item(CONNECT, data=bytes(3_000_001)), headers=CONNECT)
    assert json.loads(answer.body[5:])["error"]["code"] == "resource_exhausted"


async def test_as_many_streams_as_may_be(start: Callable[..., Any]) -> None:
    client = await start({"max_streams": 2}, tell=count, talk=echo)
    open_streams = []
    for number in range(2):
        conversation = client.open("POST", TALK, item(CONNECT, number=number), more=True, headers=CONNECT)
        await conversation.head()
        open_streams.append(Stream(conversation, CONNECT))
        assert (await open_streams[-1].next()).number == number
    for headers in (CONNECT, JSON, WEB):
        for path in (TELL, TALK):
            stream = await ask(client, path, headers, item(headers))
            assert await stream.rest() == []
            assert stream.end["error"]["code"] == "unavailable"
    answer = await client.get("/v1/tell/x")
    assert (answer.status, answer.json["code"]) == (503, 14)
    open_streams.pop().conversation.send(b"", more=False)
    open_streams.pop().conversation.hang_up()
    await until(lambda: client.application._unary.streams == 0)
    stream = await ask(client, TELL, CONNECT, item(CONNECT, number=1))
    assert len(await stream.rest()) == 1


@PROTOCOLS
async def test_requests_that_do_not_go_on(start: Callable[..., Any], headers: dict[str, str]) -> None:
    client = await start({"body_patience": 0.1}, tell=count, talk=echo)
    stream = Stream(client.open("POST", TELL, item(headers)[:3], more=True, headers=headers), headers)
    assert (await stream.conversation.head()).status == 200
    assert await stream.rest() == []
    assert stream.end["error"]["code"] == "deadline_exceeded"
    # A stream of requests may pause as long as it likes.
    conversation = client.open("POST", TALK, item(headers, number=1), more=True, headers=headers)
    await conversation.head()
    stream = Stream(conversation, headers)
    assert (await stream.next()).number == 1
    with pytest.raises(TimeoutError):
        await stream.next(timeout=0.4)
    conversation.send(item(headers, number=2), more=False)
    assert [each.number for each in await stream.rest()] == [2]


async def test_what_requests_hold_is_bounded(start: Callable[..., Any]) -> None:
    client = await start({"max_body": 1_000_000, "max_held": 1_000_000}, talk=echo)
    half = item(CONNECT, data=bytes(900_000))[:600_000]
    first = client.open("POST", TALK, half, more=True, headers=CONNECT)
    await until(lambda: client.application._unary.bodies.held_by != {})
    stream = await ask(client, TALK, CONNECT, half, more=True)
    assert await stream.rest() == []
    assert stream.end["error"]["code"] == "unavailable"
    # Whole messages that pass are held by nobody, however many they are.
    first.hang_up()
    await until(lambda: client.application._unary.bodies.held_by == {})
    stream = await ask(client, TALK, CONNECT, *([item(CONNECT, data=bytes(90_000))] * 30))
    assert len(await stream.rest()) == 30
    await until(lambda: client.application._unary.bodies.held_by == {})
    assert client.application._unary.bodies._held == 0


async def test_responses_that_are_too_large(start: Callable[..., Any]) -> None:
    async def tell(request: Any, context: Context) -> Items:
        yield Item(data=bytes(200_000))

    client = await start({"max_response": 100_000}, tell=tell)
    stream = await ask(client, TELL, CONNECT, item(CONNECT))
    assert await stream.rest() == []
    assert stream.end["error"]["code"] == "resource_exhausted"


async def test_nothing_is_left_over(start: Callable[..., Any]) -> None:
    """After streams that ended in every way, tasks and calls are back where they were."""

    async def talk(requests: Items, context: Context) -> Items:
        async for request in requests:
            if request.text == "fail":
                await context.abort(StatusCode.ABORTED, "enough")
            if request.text == "wait":
                await asyncio.Event().wait()
            yield request

    client = await start({"max_streams": 1000}, tell=count, talk=talk)
    await (await ask(client, TALK, CONNECT, item(CONNECT))).rest()
    tasks = len(asyncio.all_tasks())

    async def one(number: int) -> None:
        text = ("", "fail", "wait", "wait")[number % 4]
        headers = [CONNECT, JSON, WEB][number % 3]
        conversation = client.open("POST", TALK, item(headers), more=True, headers=headers)
        await conversation.head()
        stream = Stream(conversation, headers)
        await stream.next()
        conversation.send(item(headers, text=text), more=number % 4 > 1)
        if text == "wait":
            await asyncio.sleep(0.01 * (number % 5))
            conversation.hang_up()
        else:
            await stream.rest()
        await asyncio.wait_for(conversation.task, 5)

    await asyncio.gather(*(one(number) for number in range(200)))
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert (client.application._unary.streams, len(client.application._unary.watch)) == (0, 0)
    await until(lambda: client.application._channel._transport.in_flight == 0)
