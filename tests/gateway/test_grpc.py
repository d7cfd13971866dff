"""Streams at a gateway that runs: gRPC clients (grpc.aio, HTTP/2 without TLS), and bare sockets."""

import asyncio
import contextlib
import json
import secrets
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc import StatusCode
from grpc.aio import EOF, AioRpcError

from tests.gateway.processes import GatewayProcess, RawClient
from tests.gateway.streaming import SERVICE, Context, Item, Items, as_bytes, serve
from tests.waiting import until

TIMEOUT = 10.0
LARGE = 50_000
ASK = f"/{SERVICE}/Ask"


class Backend:
    """A back-end on an event loop of its own, in a thread: what blocks the test does not block it."""

    def __init__(self, nats_url: str, prefix: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.methods = Methods()
        self._server = self.run(
            serve(
                nats_url,
                prefix,
                ask=self.methods.ask,
                tell=self.methods.tell,
                gather=self.methods.gather,
                talk=self.methods.talk,
            )
        )

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    def close(self) -> None:
        self.run(self._server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()


class Methods:
    """What they do is in the text of the request."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.sent = 0
        self.received = 0
        self.may_go_on = threading.Event()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.started += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise

    async def _until_told(self) -> None:
        while not self.may_go_on.is_set():
            await asyncio.sleep(0.01)

    async def ask(self, request: Any, context: Context) -> Any:
        return request

    async def tell(self, request: Any, context: Context) -> Items:
        with self._counted():
            match request.text:
                case "count":
                    await context.send_initial_metadata([("x-lead", "1")])
                    context.set_trailing_metadata([("x-trail", "t"), ("x-some-bin", b"\xff")])
                    for number in range(request.number):
                        yield Item(number=number)
                case "fail":
                    for number in range(request.number):
                        yield Item(number=number)
                    await context.abort(StatusCode.NOT_FOUND, "no more ä", [("x-trail", "t")])
                case "wait":
                    await context.send_initial_metadata([("x-lead", "1")])
                    await self._until_told()
                    yield Item(number=1)
                case "silence":
                    await self._until_told()
                case "flood":
                    for _ in range(request.number):
                        yield Item(data=bytes(LARGE))
                        self.sent += 1

    async def gather(self, requests: Items, context: Context) -> Any:
        with self._counted():
            total = 0
            async for request in requests:
                if request.text == "wait":
                    await self._until_told()
                if request.text == "enough":
                    break
                total += request.number
                self.received += 1
            return Item(number=total)

    async def talk(self, requests: Items, context: Context) -> Items:
        with self._counted():
            async for request in requests:
                self.received += 1
                if request.text == "wait":
                    await self._until_told()
                yield request
                self.sent += 1


@pytest.fixture(scope="module")
def site(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, Backend]]:
    prefix = f"t{secrets.token_hex(4)}"
    backend = Backend(nats_url, prefix)
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), nats_url, prefix, heartbeat=0.1).start()
    yield gateway, backend
    gateway.close()
    backend.close()


@pytest.fixture
def methods(site: tuple[GatewayProcess, Backend]) -> Methods:
    site[1].methods.__init__()  # type: ignore[misc]
    return site[1].methods


@pytest.fixture
def gateway(site: tuple[GatewayProcess, Backend]) -> GatewayProcess:
    site[0].forget_log()
    return site[0]


class Stub:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        options: dict[str, Any] = {"request_serializer": as_bytes, "response_deserializer": Item.FromString}
        self.ask = channel.unary_unary(f"/{SERVICE}/Ask", **options)
        self.tell = channel.unary_stream(f"/{SERVICE}/Tell", **options)
        self.gather = channel.stream_unary(f"/{SERVICE}/Gather", **options)
        self.talk = channel.stream_stream(f"/{SERVICE}/Talk", **options)


@contextlib.asynccontextmanager
async def connected(gateway: GatewayProcess) -> AsyncIterator[Stub]:
    # A connection of its own: grpc shares them between channels otherwise.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}", options=options) as channel:
        yield Stub(channel)


@pytest.fixture
async def stub(gateway: GatewayProcess, methods: Methods) -> AsyncIterator[Stub]:
    async with connected(gateway) as stub:
        yield stub


async def settled(number: Callable[[], int]) -> int:
    last = -1
    while (now := number()) != last:
        last = now
        await asyncio.sleep(0.3)
    return last


async def all_of(call: Any) -> int:
    count = 0
    while await call.read() is not EOF:
        count += 1
    return count


async def items(*texts: str) -> AsyncIterator[Any]:
    for number, text in enumerate(texts, 1):
        yield Item(text=text, number=number)


async def test_all_kinds(stub: Stub) -> None:
    assert (await stub.ask(Item(number=5), timeout=TIMEOUT)).number == 5
    call = stub.tell(Item(text="count", number=3), timeout=TIMEOUT)
    assert [each.number async for each in call] == [0, 1, 2]
    assert await call.code() is StatusCode.OK
    assert ("x-lead", "1") in tuple(await call.initial_metadata())
    trailing = tuple(await call.trailing_metadata())
    assert ("x-trail", "t") in trailing
    assert ("x-some-bin", b"\xff") in trailing
    assert (await stub.gather(items("", "", ""), timeout=TIMEOUT)).number == 6
    assert [each.number async for each in stub.talk(items("", "", ""), timeout=TIMEOUT)] == [1, 2, 3]
    assert [each async for each in stub.tell(Item(text="count"), timeout=TIMEOUT)] == []
    assert (await stub.gather(items(), timeout=TIMEOUT)).number == 0
    assert [each async for each in stub.talk(items(), timeout=TIMEOUT)] == []


async def test_both_directions_at_once(stub: Stub) -> None:
    call = stub.talk(timeout=TIMEOUT)
    for number in range(50):
        await call.write(Item(number=number))
        assert (await call.read()).number == number
    await call.done_writing()
    assert await call.read() is EOF


@pytest.mark.parametrize("messages", [0, 2])
async def test_errors(stub: Stub, messages: int) -> None:
    call = stub.tell(Item(text="fail", number=messages), timeout=TIMEOUT)
    for _ in range(messages):
        assert await call.read() is not EOF
    with pytest.raises(AioRpcError) as caught:
        await call.read()
    assert (caught.value.code(), caught.value.details()) == (StatusCode.NOT_FOUND, "no more ä")
    assert ("x-trail", "t") in tuple(caught.value.trailing_metadata() or ())


async def test_initial_metadata_comes_before_there_is_a_message(stub: Stub, methods: Methods) -> None:
    call = stub.tell(Item(text="wait"), timeout=TIMEOUT)
    assert ("x-lead", "1") in tuple(await asyncio.wait_for(call.initial_metadata(), 2))
    methods.may_go_on.set()
    assert [each.number async for each in call] == [1]


async def test_a_call_that_is_cancelled_stops_the_handler(stub: Stub, methods: Methods) -> None:
    calls = [stub.tell(Item(text="silence")), stub.talk(), stub.gather()]
    await calls[1].write(Item(text="wait"))
    await calls[2].write(Item(text="wait"))
    await until(lambda: methods.started == 3)
    for call in calls:
        call.cancel()
    await until(lambda: methods.cancelled == 3)


async def test_a_connection_that_is_lost_stops_the_handlers(gateway: GatewayProcess, methods: Methods) -> None:
    async with connected(gateway) as stub:
        call = stub.talk()
        await call.write(Item(text="wait"))
        others = [stub.tell(Item(text="silence")) for _ in range(3)]
        assert others
        await until(lambda: methods.started == 4)
    await until(lambda: methods.cancelled == 4, 1)
    assert "Traceback" not in gateway.log


async def test_deadlines(stub: Stub, methods: Methods) -> None:
    for call in (stub.tell(Item(text="silence"), timeout=0.3), stub.talk(items("wait"), timeout=0.3)):
        with pytest.raises(AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
    await until(lambda: methods.cancelled == 2, 1)


async def test_a_service_that_ends_before_its_requests(stub: Stub) -> None:
    call = stub.gather(timeout=TIMEOUT)
    await call.write(Item(number=1))
    await call.write(Item(text="enough"))
    assert (await call).number == 1


async def test_a_slow_reader_slows_the_service_and_nobody_else(stub: Stub, methods: Methods) -> None:
    count = 400
    slow = stub.tell(Item(text="flood", number=count), timeout=60)
    assert await slow.read()
    # 20 MB are to come. Those on their way: a window of 1 MiB on the bus, the buffers of sockets, and what grpc reads
    # ahead: it widens its window as it measures the connection, to some MiB.
    assert await settled(lambda: methods.sent) < 240
    # The same connection goes on: its other streams neither wait nor lose their way.
    for number in range(20):
        assert (await stub.ask(Item(number=number), timeout=2)).number == number
    assert len([each async for each in stub.tell(Item(text="count", number=100), timeout=5)]) == 100
    assert await all_of(slow) == count - 1


async def test_a_slow_service_slows_the_writer_and_nobody_else(stub: Stub, methods: Methods) -> None:
    call = stub.gather(timeout=60)
    written = 0

    async def write() -> None:
        nonlocal written
        await call.write(Item(text="wait"))
        for _ in range(400):
            await call.write(Item(data=bytes(LARGE), number=1))
            written += 1
        await call.done_writing()

    writer = asyncio.create_task(write())
    assert await settled(lambda: written) < 120
    for number in range(20):
        assert (await stub.ask(Item(number=number), timeout=2)).number == number
    # A cancellation gets through as well, although nobody reads.
    other = stub.gather()
    await other.write(Item(text="wait"))
    blocked = asyncio.create_task(_flood(other))
    await settled(lambda: methods.started)
    other.cancel()
    await until(lambda: methods.cancelled == 1, 1)
    await asyncio.gather(blocked, return_exceptions=True)
    methods.may_go_on.set()
    assert (await call).number == 400
    await writer


async def test_a_request_that_is_answered_before_its_end(gateway: GatewayProcess, methods: Methods, stub: Stub) -> None:
    """Whoever sends on, with credit that nobody gives, is told to stop."""
    call = stub.gather(timeout=TIMEOUT)
    await call.write(Item(text="enough", number=1))
    blocked = asyncio.create_task(_flood(call))
    assert (await call).number == 0
    await asyncio.wait([blocked], timeout=5)
    assert blocked.done()

    # As unary requests that are refused by their size.
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(1024 * 1024)

    async with httpx.AsyncClient(base_url=gateway.url, http1=False, http2=True) as client:
        for _ in range(3):
            answer = await client.post(ASK, content=parts(), headers={"content-type": "application/proto"})
            assert answer.status_code == 413
        assert (await client.post(ASK, json={"number": 3})).json() == {"number": "3"}


async def _flood(call: Any) -> None:
    for _ in range(400):
        await call.write(Item(data=bytes(LARGE)))


async def test_an_echo_of_more_than_all_windows(stub: Stub) -> None:
    """Both directions are full at once; whoever read no credit while it waits for credit would wait for ever."""
    count = 300

    async def requests() -> AsyncIterator[Any]:
        for number in range(count):
            yield Item(data=bytes(LARGE), number=number)

    async with asyncio.timeout(30):
        for _ in range(2):
            call = stub.talk(requests())
            numbers = []
            async for each in call:
                numbers.append(each.number)
                if len(numbers) % 50 == 0:
                    await asyncio.sleep(0.05)
            assert numbers == list(range(count))


async def test_streams_at_once_on_one_connection(stub: Stub) -> None:
    async def one(count: int) -> list[int]:
        return [each.number async for each in stub.tell(Item(text="count", number=count), timeout=30)]

    async def both(count: int) -> int:
        return len([each async for each in stub.talk(items(*([""] * count)), timeout=30)])

    results = await asyncio.gather(*(one(count) for count in range(60)), *(both(count) for count in range(60)))
    assert results[:60] == [list(range(count)) for count in range(60)]
    assert results[60:] == list(range(60))


async def test_lines_of_json_over_a_socket(gateway: GatewayProcess, methods: Methods) -> None:
    for options in ({}, {"http1": False, "http2": True}):
        async with httpx.AsyncClient(base_url=gateway.url, **options) as client:
            body = {"text": "fail", "number": 3}
            async with client.stream("POST", "/v1/tell", json=body) as response:
                assert response.status_code == 200
                assert response.http_version == ("HTTP/2" if options else "HTTP/1.1")
                lines = [json.loads(line) async for line in response.aiter_lines()]
            assert lines[:3] == [{}, {"number": "1"}, {"number": "2"}]
            assert lines[3]["error"]["message"] == "no more ä"
            assert (await client.post("/v1/tell", json={"text": "fail"})).status_code == 404


async def test_events_over_a_socket(gateway: GatewayProcess, methods: Methods) -> None:
    async with (
        httpx.AsyncClient(base_url=gateway.url) as client,
        client.stream("GET", "/v1/tell/silence", headers={"accept": "text/event-stream"}) as response,
    ):
        assert response.headers["content-type"] == "text/event-stream"
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith("retry: ")
        for _ in range(3):
            assert (await anext(lines), await anext(lines)) == (":", "")
        methods.may_go_on.set()
        rest = [line async for line in lines]
        assert rest[-3:] == ["event: end", "data: {}", ""]


REQUESTS = {
    "lines": (b"GET /v1/tell/%s HTTP/1.1\r\nhost: x\r\n\r\n", None),
    "events": (b"GET /v1/tell/%s HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n", None),
    "connect": (b"POST /streams.v1.Streams/Tell HTTP/1.1\r\nhost: x\r\ncontent-type: application/connect+json\r\n", 0),
    "grpc-web": (
        b"POST /streams.v1.Streams/Tell HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web+json\r\n",
        0,
    ),
}


def request(kind: str, text: str, number: int = 0) -> bytes:
    head, body = REQUESTS[kind]
    if body is None:
        return head.replace(b"%s HTTP", f"{text}?number={number} HTTP".encode())
    message = json.dumps({"text": text, "number": number}).encode()
    data = b"\0" + len(message).to_bytes(4, "big") + message
    return head + b"content-length: %d\r\n\r\n" % len(data) + data


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_socket_that_is_closed_stops_the_handler(gateway: GatewayProcess, methods: Methods, kind: str) -> None:
    for number, close in enumerate((RawClient.abort, lambda client: client.writer.close()), 1):
        async with RawClient(gateway.port) as client:
            await client.send(request(kind, "silence"))
            await until(lambda: methods.started == number)  # noqa: B023 - it is awaited here
            close(client)
            await until(lambda: methods.cancelled == number, 1)  # noqa: B023
    assert "Traceback" not in gateway.log


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_socket_that_is_not_read_stops_the_service(
    gateway: GatewayProcess, methods: Methods, kind: str
) -> None:
    async with RawClient(gateway.port) as client:
        await client.send(request(kind, "flood", 400))
        # 20 MB are to come. Those on their way: a window on the bus, and what sockets buffer: the kernel's affair.
        assert await settled(lambda: methods.sent) < 300
        client.abort()
        await until(lambda: methods.cancelled == 1, 1)


async def test_readers_that_stop_cost_a_window_each(nats_url: str, tmp_path: Path) -> None:
    """Twenty clients ask for 50 MB each and take nothing; one takes its 50 MB."""
    count, size = 20, 1000
    prefix = f"t{secrets.token_hex(4)}"
    backend = Backend(nats_url, prefix)
    gateway = GatewayProcess(tmp_path, nats_url, prefix).start()
    try:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(RawClient(gateway.port)) for _ in range(count)]
            before = gateway.resident
            for number, client in enumerate(clients):
                await client.send(request(list(REQUESTS)[number % len(REQUESTS)], "flood", size))
            assert await settled(lambda: backend.methods.sent) < count * size / 5
            assert gateway.resident - before < count * 2_500_000
            async with httpx.AsyncClient(base_url=gateway.url) as client:
                assert (await client.post(ASK, json={"number": 3})).status_code == 200
        await until(lambda: backend.methods.cancelled == count)
        before = gateway.resident
        highest = received = 0
        async with RawClient(gateway.port) as client:
            await client.send(request("connect", "flood", size))
            while received < size * LARGE:
                received += len(await client.reader.read(4_000_000))
                highest = max(highest, gateway.resident)
        assert highest - before < 10_000_000
    finally:
        gateway.close()
        backend.close()


async def test_streams_that_do_not_end_are_ended_when_the_gateway_stops(nats_url: str, tmp_path: Path) -> None:
    prefix = f"t{secrets.token_hex(4)}"
    backend = Backend(nats_url, prefix)
    gateway = GatewayProcess(tmp_path, nats_url, prefix, grace=1).start()
    try:
        async with (
            httpx.AsyncClient(base_url=gateway.url) as client,
            client.stream("GET", "/v1/tell/wait") as lines,
            client.stream("GET", "/v1/tell/wait", headers={"accept": "text/event-stream"}) as events,
            connected(gateway) as stub,
        ):
            call = stub.tell(Item(text="wait"))
            await call.initial_metadata()
            gateway.signal(signal.SIGTERM)
            assert json.loads(await lines.aread())["error"]["code"] == 14
            assert b"event: error" in await events.aread()
            with pytest.raises(AioRpcError) as caught:
                await call.read()
            assert caught.value.code() in {StatusCode.CANCELLED, StatusCode.UNAVAILABLE}
        assert await asyncio.to_thread(gateway.wait, 10) == 0
        await until(lambda: backend.methods.cancelled == 3)
        assert "Traceback" not in gateway.log
    finally:
        gateway.close()
        backend.close()


async def test_a_client_that_takes_nothing_is_given_up(nats_url: str, tmp_path: Path) -> None:
    prefix = f"t{secrets.token_hex(4)}"
    backend = Backend(nats_url, prefix)
    gateway = GatewayProcess(tmp_path, nats_url, prefix, write_patience=0.5).start()
    try:
        async with RawClient(gateway.port) as client:
            await client.send(request("lines", "flood", 2000))
            await until(lambda: backend.methods.cancelled == 1, 10)
        # One stream of a connection whose others are read.
        async with connected(gateway) as stub:
            call = stub.tell(Item(text="flood", number=2000))
            assert await call.read()
            await until(lambda: backend.methods.cancelled == 2, 10)
            assert (await stub.ask(Item(number=1), timeout=2)).number == 1
            with pytest.raises(AioRpcError):
                await all_of(call)
    finally:
        gateway.close()
        backend.close()
