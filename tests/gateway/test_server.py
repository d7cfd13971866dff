"""The gateway as it is run: processes, sockets, signals."""

import asyncio
import gzip
import os
import queue
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

import rpc
from rpc.embedded import Broker
from tests.gateway.processes import GatewayProcess, RawClient
from tests.gateway.test_live import SERVED

PATH = "/served.v1.Service/Do"
POST = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
LIMIT = 100_000

assert SERVED  # Importing it makes the contract known to rpc.Server.


class Servicer:
    """A back-end on a thread of its own. It echoes; ``slow...`` waits until it is released or cancelled."""

    def __init__(self, nats_url: str, prefix: str) -> None:
        self.started: queue.Queue[str] = queue.Queue()
        self.cancelled: queue.Queue[str] = queue.Queue()
        self.calls = 0
        self._loop = asyncio.new_event_loop()
        self._released = asyncio.Event()
        self._stop = asyncio.Event()
        up = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve(nats_url, prefix, up)))
        self._thread.start()
        assert up.wait(10)

    async def _serve(self, nats_url: str, prefix: str, up: threading.Event) -> None:
        server = rpc.Server(nats_url, prefix=prefix)
        handlers = {"Do": grpc.unary_unary_rpc_method_handler(self._do)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("served.v1.Service", handlers)])
        await server.start()
        up.set()
        await self._stop.wait()
        await server.stop(0)

    async def _do(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        self.calls += 1
        name = request[2:].decode()
        if name.startswith("slow"):
            self.started.put(name)
            try:
                await self._released.wait()
            except asyncio.CancelledError:
                self.cancelled.put(name)
                raise
        return request

    async def has_started(self) -> str:
        return await asyncio.to_thread(self.started.get, timeout=10)

    async def was_cancelled(self) -> str:
        return await asyncio.to_thread(self.cancelled.get, timeout=5)

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._released.set)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(15)
        self._loop.close()


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def servicer(nats_url: str, prefix: str) -> Iterator[Servicer]:
    servicer = Servicer(nats_url, prefix)
    yield servicer
    servicer.close()


@pytest.fixture(scope="module")
def site(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, Servicer]]:
    """A gateway and its back-end, for all tests that leave them as they were."""
    prefix = f"t{secrets.token_hex(4)}"
    servicer = Servicer(nats_url, prefix)
    folder = tmp_path_factory.mktemp("gateway")
    gateway = GatewayProcess(folder, nats_url, prefix, max_body=LIMIT, body_patience=0.3).start()
    yield gateway, servicer
    gateway.close()
    servicer.close()


@pytest.fixture
def backend(site: tuple[GatewayProcess, Servicer]) -> Servicer:
    site[1].calls = 0
    return site[1]


@pytest.fixture
def gateway(site: tuple[GatewayProcess, Servicer]) -> GatewayProcess:
    site[0].forget_log()
    return site[0]


@pytest.fixture
def start(tmp_path: Path, nats_url: str, prefix: str) -> Iterator[Callable[..., GatewayProcess]]:
    processes: list[GatewayProcess] = []

    def start(*, wait: bool = True, **options: Any) -> GatewayProcess:
        processes.append(GatewayProcess(tmp_path, options.pop("url", nats_url), prefix, **options))
        return processes[-1].start(wait=wait)

    yield start
    for process in processes:
        process.close()


async def test_http_1_and_2_on_one_port(gateway: GatewayProcess) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        answer = await client.post(PATH, json={"name": "a"})
        assert (answer.status_code, answer.json()) == (200, {"name": "a"})
        answer = await client.get("/served/b%20c")
        assert answer.json() == {"name": "b c"}
        assert "server" not in answer.headers
    async with httpx.AsyncClient(base_url=gateway.url, http1=False, http2=True) as client:
        answer = await client.get("/served/b")
        assert (answer.http_version, answer.status_code, answer.json()) == ("HTTP/2", 200, {"name": "b"})


async def test_a_grpc_client(gateway: GatewayProcess) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        call = channel.unary_unary(PATH)(b"\x0a\x01x", timeout=10)
        assert await call == b"\x0a\x01x"
        assert await call.code() is grpc.StatusCode.OK


async def test_a_large_body_that_announces_itself_is_refused_before_it_is_sent(
    gateway: GatewayProcess, backend: Servicer
) -> None:
    async with RawClient(gateway.port) as client:
        await client.send(POST + b"content-length: %d\r\n\r\n" % (LIMIT + 1))
        status, _, body = await client.answer()
        assert status == 413
        assert b"100000 bytes" in body
    # With "expect: 100-continue" the answer comes instead of the invitation.
    async with RawClient(gateway.port) as client:
        await client.send(POST + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % (LIMIT + 1))
        assert (await client.answer())[0] == 413
    assert backend.calls == 0


async def test_a_large_body_in_chunks_is_refused_as_soon_as_it_is_too_large(gateway: GatewayProcess) -> None:
    async with RawClient(gateway.port) as client:
        await client.send(POST + b"transfer-encoding: chunked\r\n\r\n")
        chunk = b"x" * 10_000
        for _ in range(11):
            await client.send(b"%x\r\n" % len(chunk) + chunk + b"\r\n")
        # The body has no end yet.
        assert (await client.answer())[0] == 413
        # Whoever sends the rest nevertheless finds the connection usable.
        await client.send(b"%x\r\n" % len(chunk) + chunk + b"\r\n0\r\n\r\n")
        await client.send(POST + b'content-length: 12\r\n\r\n{"name":"a"}')
        assert (await client.answer())[0] == 200


async def test_a_body_that_does_not_go_on(gateway: GatewayProcess, backend: Servicer) -> None:
    for framing in (
        b"content-length: 12\r\n\r\n",
        b'content-length: 12\r\n\r\n{"na',
        b"transfer-encoding: chunked\r\n\r\n",
    ):
        async with RawClient(gateway.port) as client:
            await client.send(POST + framing)
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (408, "close")
            assert await client.closed() == b""
    assert backend.calls == 0


async def test_a_client_that_goes_away_within_its_body(gateway: GatewayProcess, backend: Servicer) -> None:
    for _ in range(5):
        async with RawClient(gateway.port) as client:
            await client.send(POST + b'content-length: 100\r\n\r\n{"name": "')
            client.abort()
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        assert (await client.post(PATH, json={"name": "a"})).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert backend.calls == 1
    assert 'http_response_status_code="499"' in metrics
    assert "Traceback" not in gateway.log


async def test_a_client_that_hangs_up_stops_the_handler(gateway: GatewayProcess, backend: Servicer) -> None:
    async with RawClient(gateway.port) as client:
        await client.send(POST + b'content-length: 16\r\n\r\n{"name": "slow"}')
        await backend.has_started()
        client.abort()
        assert await backend.was_cancelled() == "slow"
    async with RawClient(gateway.port) as client:
        await client.send(b"GET /served/slow2 HTTP/1.1\r\nhost: x\r\n\r\n")
        await backend.has_started()
        client.writer.close()
        assert await backend.was_cancelled() == "slow2"
    assert "Traceback" not in gateway.log


async def test_a_stream_that_is_reset_stops_the_handler(gateway: GatewayProcess, backend: Servicer) -> None:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}")
    call = channel.unary_unary(PATH)(b"\x0a\x04slow")
    await backend.has_started()
    call.cancel()
    assert await backend.was_cancelled() == "slow"
    await channel.close()


BAD_REQUESTS = [
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /served/a b HTTP/1.1\r\nhost: x\r\n\r\n",
    POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx",
    POST + b"content-length: x\r\n\r\nxx",
    POST + b"content-length: +1\r\n\r\nxx",
    POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
    POST + b"x-a: b\r\n c\r\n\r\n",
    POST + b"x a: b\r\ncontent-length: 0\r\n\r\n",
    POST + b"x-a: b\0c\r\ncontent-length: 0\r\n\r\n",
    POST + b"x-a: b\rnats-msg-id: c\r\ncontent-length: 0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
]


@pytest.mark.parametrize("request_bytes", BAD_REQUESTS)
async def test_what_is_not_http(gateway: GatewayProcess, backend: Servicer, request_bytes: bytes) -> None:
    """Refused or cut off, never passed on, never a failure of ours; others are served as before."""
    async with RawClient(gateway.port) as client:
        await client.send(request_bytes)
        client.writer.write_eof()
        answer = await client.closed()
        # HTTP/2 answers in frames.
        assert not answer.startswith(b"HTTP/1.1 5")
        assert not answer.startswith(b"HTTP/1.1 2")
    assert backend.calls == 0
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        assert (await client.post(PATH, json={"name": "a"})).status_code == 200
    assert "Traceback" not in gateway.log


HEADS = {
    "a header": b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-large: %s\r\n\r\n" % (b"x" * 20_000),
    "a path": b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n" % (b"x" * 20_000),
    "many": b"GET /healthz HTTP/1.1\r\nhost: x\r\n%s\r\n" % b"".join(b"x-%d: 1\r\n" % number for number in range(120)),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
async def test_a_head_that_is_too_large(gateway: GatewayProcess, head: bytes) -> None:
    async with RawClient(gateway.port) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer())[0] == 200
        await client.send(head)
        status, headers, body = await client.answer()
        assert status == 431
        assert headers["connection"] == "close"
        assert b"16 KiB" in body
        assert await client.closed() == b""


async def test_headers_that_are_too_large_for_the_bus(gateway: GatewayProcess) -> None:
    large = {f"x-{number}": "x" * 1000 for number in range(20)}
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        answer = await client.post(f"{gateway.url}{PATH}", json={}, headers=large)
        assert answer.status_code == 431
        assert "send fewer or shorter ones" in answer.json()["message"]
        assert (await client.post(f"{gateway.url}{PATH}", json={"name": "a"})).status_code == 200


async def test_requests_in_a_row_on_one_connection(gateway: GatewayProcess) -> None:
    async with RawClient(gateway.port) as client:
        body = b'{"name":"a"}'
        request = POST + b"content-length: %d\r\n\r\n" % len(body) + body
        await client.send(request * 5)
        for _ in range(5):
            assert (await client.answer())[0::2] == (200, body)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_lets_requests_finish(
    servicer: Servicer, start: Callable[..., GatewayProcess], workers: int, number: signal.Signals
) -> None:
    gateway = start(workers=workers, grace=10)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        requests = [asyncio.create_task(client.get(f"/served/slow{each}")) for each in range(4)]
        for _ in requests:
            await servicer.has_started()
        gateway.signal(number)
        # Nobody new is let in.
        await wait_until(lambda: not accepts(gateway.port))
        servicer.release()
        assert [(await request).status_code for request in requests] == [200] * 4
    assert await asyncio.to_thread(gateway.wait) == 0
    assert "Traceback" not in gateway.log


async def test_a_stop_does_not_wait_longer_than_the_grace(
    servicer: Servicer, start: Callable[..., GatewayProcess]
) -> None:
    gateway = start(grace=1)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        request = asyncio.create_task(client.get("/served/slow"))
        await servicer.has_started()
        gateway.signal(signal.SIGTERM)
        assert await asyncio.to_thread(gateway.wait, 10) == 0
        assert await servicer.was_cancelled() == "slow"
        # uvicorn cuts its connection, or gives it a 500.
        (outcome,) = await asyncio.gather(request, return_exceptions=True)
        assert isinstance(outcome, httpx.TransportError) or outcome.status_code >= 500


def test_workers_share_the_port_and_their_numbers(servicer: Servicer, start: Callable[..., GatewayProcess]) -> None:
    gateway = start(workers=3)
    wait_for(lambda: gateway.log.count("Application startup complete") == 3, seconds=20)
    for number in range(60):
        # A connection each: which worker gets it is the kernel's choice.
        assert httpx.get(f"{gateway.url}/served/{number}").json() == {"name": str(number)}

    def counted() -> bool:
        text = httpx.get(f"{gateway.url}/metrics").text
        lines = [line for line in text.splitlines() if "_count{" in line and 'http_route="/served/{name}"' in line]
        return len(lines) == 1 and float(lines[0].rpartition(" ")[2]) == 60

    wait_for(counted)
    gateway.signal(signal.SIGTERM)
    assert gateway.wait() == 0


def test_a_worker_that_dies_is_replaced(servicer: Servicer, start: Callable[..., GatewayProcess]) -> None:
    gateway = start(workers=2)
    wait_for(lambda: gateway.log.count("Started server process") == 2, seconds=20)
    pid = int(gateway.log.partition("Started server process [")[2].partition("]")[0])
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: gateway.log.count("Started server process") == 3, seconds=20)
    gateway.wait_ready()
    assert httpx.get(f"{gateway.url}/served/x").json() == {"name": "x"}


def test_a_taken_port_says_so(start: Callable[..., GatewayProcess]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        gateway = start(wait=False, port=other.getsockname()[1])
        assert gateway.wait() != 0
        assert "is in use by another process: stop it, or choose another port" in gateway.log


def test_no_broker_says_so(start: Callable[..., GatewayProcess]) -> None:
    gateway = start(wait=False, url="nats://127.0.0.1:1")
    assert gateway.wait() == 1
    assert "127.0.0.1:1" in gateway.log
    assert "Traceback" not in gateway.log


def test_the_broker_goes_and_comes_back(start: Callable[..., GatewayProcess], prefix: str) -> None:
    with Broker(port=0) as broker:
        gateway = start(url=broker.url)
        broker.stop()
        wait_for(lambda: httpx.get(f"{gateway.url}/readyz").status_code == 503)
        assert httpx.get(f"{gateway.url}/healthz").status_code == 200
        broker.start()
        wait_for(lambda: httpx.get(f"{gateway.url}/readyz").status_code == 200, seconds=10)


def test_the_access_log(servicer: Servicer, start: Callable[..., GatewayProcess]) -> None:
    gateway = start(access_log=True)
    httpx.get(f"{gateway.url}/served/x?token=secret", headers={"x-request-id": "abc"})
    httpx.get(f"{gateway.url}/nope")
    wait_for(lambda: "/nope" in gateway.log)
    lines = [line for line in gateway.log.splitlines() if "gateway.access" in line]
    assert '"path": "/served/x", "status": 400' in lines[0]
    assert '"request_id": "abc"' in lines[0]
    assert '"path": "/nope", "status": 404' in lines[1]
    assert "secret" not in gateway.log


def accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the state did not come in time"
        time.sleep(0.02)


async def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    await asyncio.to_thread(wait_for, condition, seconds)


def test_compressed_answers_are_not_forced_on_anyone(gateway: GatewayProcess) -> None:
    answer = httpx.get(f"{gateway.url}/served/x", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    body = gzip.compress(b'{"name": "a"}')
    headers = {"content-type": "application/json", "content-encoding": "gzip", "accept-encoding": "gzip"}
    answer = httpx.post(f"{gateway.url}{PATH}", content=body, headers=headers)
    assert answer.json() == {"name": "a"}
