"""Clients that take their time, and clients that are too many."""

import asyncio
import contextlib
import resource
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.hostile.http2 import END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, block, frame, pairs, start
from tests.gateway.processes import GatewayProcess, RawClient
from tests.gateway.test_server import PATH, POST, Servicer, wait_for, wait_until
from tests.gateway.test_tls import Files

PATIENCE = 0.3
BODY = b'{"name":"a"}'
WHOLE = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


class Echo(Servicer):
    """Takes large requests as well."""

    async def _do(self, request: bytes, context: Any) -> bytes:
        return request if len(request) > 100 else await super()._do(request, context)


@pytest.fixture(scope="module")
def prefix() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def servicer(nats_url: str, prefix: str) -> Iterator[Servicer]:
    servicer = Echo(nats_url, prefix)
    yield servicer
    servicer.close()


@pytest.fixture(scope="module")
def gateway(
    nats_url: str, prefix: str, servicer: Servicer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway with little patience, but for idle connections."""
    folder = tmp_path_factory.mktemp("gateway")
    gateway = GatewayProcess(
        folder,
        nats_url,
        prefix,
        head_patience=PATIENCE,
        body_patience=PATIENCE,
        write_patience=PATIENCE,
        max_body=2**26,
    ).start()
    yield gateway
    assert "Traceback" not in gateway.log
    gateway.close()


@pytest.mark.parametrize("begin", [b"", b"G", b"PRI * HTTP/2.0\r\n", POST, b"\r\n"])
async def test_a_head_that_does_not_go_on(gateway: GatewayProcess, begin: bytes) -> None:
    """408 says so to those who have begun."""
    async with RawClient(gateway.port) as client:
        begun = time.monotonic()
        await client.send(begin)
        answer = await client.closed(timeout=5)
        assert time.monotonic() - begun >= PATIENCE
        if begin.startswith((b"G", POST)):
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"connection: close" in answer


async def test_a_head_that_comes_byte_by_byte(gateway: GatewayProcess) -> None:
    async with RawClient(gateway.port) as client:
        answer = asyncio.create_task(client.closed(timeout=5))
        for byte in POST * 10:
            if answer.done():
                break
            with contextlib.suppress(ConnectionError):
                await client.send(bytes([byte]))
            await asyncio.sleep(0.01)
        assert (await answer).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_comes_byte_by_byte(gateway: GatewayProcess) -> None:
    async with RawClient(gateway.port) as client:
        answer = asyncio.create_task(client.answer())
        await client.send(POST + b"content-length: 1000000\r\n\r\n")
        while not answer.done():
            with contextlib.suppress(ConnectionError):
                await client.send(b"x")
            await asyncio.sleep(0.01)
        assert answer.result()[0] == 408


async def test_a_second_head_that_does_not_go_on(gateway: GatewayProcess) -> None:
    async with RawClient(gateway.port) as client:
        await client.send(WHOLE)
        assert (await client.answer())[0] == 200
        await client.send(POST)
        assert (await client.answer())[0] == 408
        assert await client.closed() == b""


def test_tls(nats_url: str, prefix: str, servicer: Servicer, tmp_path: Path) -> None:
    """No handshake, or no word after it, by either HTTP."""
    files = Files(tmp_path)
    gateway = GatewayProcess(tmp_path, nats_url, prefix, head_patience=PATIENCE, tls=files.options())
    gateway.verify = context = files.client()
    gateway.start()
    try:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as client:
            assert client.recv(1) == b""
        for protocol in ("http/1.1", "h2"):
            context.set_alpn_protocols([protocol])
            with (
                socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as client,
                context.wrap_socket(client, server_hostname="127.0.0.1") as secured,
            ):
                said = b""
                while part := secured.recv(1000):
                    said += part
                assert said.startswith(b"HTTP/1.1 408 ") if protocol == "http/1.1" else b"HTTP/1.1" not in said
        assert httpx.get(f"{gateway.url}/healthz", verify=context).status_code == 200
        assert "Traceback" not in gateway.log
    finally:
        gateway.close()


async def test_idle_connections_stay_open(gateway: GatewayProcess) -> None:
    """Between requests it is ``keep_alive`` that counts; HTTP/2 counts as idle from its preface on."""
    async with RawClient(gateway.port) as idle, RawClient(gateway.port) as http2, httpx.AsyncClient() as healthy:
        await idle.send(WHOLE)
        assert (await idle.answer())[0] == 200
        await http2.send(start())
        for _ in range(2):
            async with RawClient(gateway.port) as clock:
                assert await clock.closed() == b""
        await idle.send(WHOLE)
        assert (await idle.answer())[0] == 200
        await http2.send(frame(PING, 0, 0, b"12345678"))
        async with asyncio.timeout(5):
            while b"12345678" not in await http2.reader.read(1000):
                pass
        assert (await healthy.get(f"{gateway.url}/healthz")).status_code == 200


async def test_the_rest_of_a_body_that_nobody_wants(gateway: GatewayProcess) -> None:
    """Who was answered before the end of a body does not stay for ever either."""
    async with RawClient(gateway.port) as client:
        await client.send(b"POST /nope HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx")
        assert (await client.answer())[0] == 404
        await client.send(b"x")
        assert await client.closed(timeout=5) == b""


async def test_a_client_that_does_not_take_the_end(gateway: GatewayProcess) -> None:
    """A connection that is closed, but whose client has not taken all, is cut."""
    body = b'{"name":"%s"}' % (b"a" * 4_000_000)
    request = POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    for taken in (0, 2_000_000):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", gateway.port))
            await asyncio.to_thread(client.sendall, request + body)
            size = 0
            while size < taken:
                part = await asyncio.to_thread(client.recv, 2**20)
                assert part
                size += len(part)
            await wait_until(lambda: gateway.connections == 0)


async def test_requests_in_a_row_while_one_is_served(gateway: GatewayProcess, servicer: Servicer) -> None:
    """They wait in the client, not in our memory; then all are served."""
    async with RawClient(gateway.port) as client:
        await client.send(POST + b'content-length: 15\r\n\r\n{"name":"slow"}')
        await servicer.has_started()
        before = gateway.resident
        number = 2**26 // len(WHOLE)
        client.writer.write(WHOLE * number)
        left = -1
        while left != (left := client.writer.transport.get_write_buffer_size()):
            await asyncio.sleep(0.1)
        assert left > 2**25
        assert gateway.resident - before < 2**22
        servicer.release()
        for number in range(100):
            answer = await client.answer()
            assert answer[0] == 200, (number, answer)
        client.abort()


async def test_pings_whose_answers_nobody_takes(gateway: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.setblocking(False)
        before = gateway.resident
        flood = start() + frame(PING, 0, 0, b"12345678") * 10_000
        with pytest.raises(ConnectionError):  # It is cut once it has taken nothing for a while.
            await asyncio.wait_for(_send_all(client, flood, 2**30), 20)
        assert gateway.resident - before < 2**24


async def _send_all(client: socket.socket, data: bytes, size: int) -> None:
    loop = asyncio.get_running_loop()
    while size > 0:
        await loop.sock_sendall(client, data)
        size -= len(data)
        data = data[-17 * 10_000 :]


async def test_requests_that_are_reset_at_once(gateway: GatewayProcess, servicer: Servicer) -> None:
    """Those that come together with their reset make no call."""
    servicer.calls = 0
    header = block(pairs(b"GET", b"/served/x", "reset", 0))
    parts = [
        frame(HEADERS, END_HEADERS | END_STREAM, stream, header) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
        for stream in range(1, 400, 2)
    ]
    last = frame(HEADERS, END_HEADERS | END_STREAM, 401, header)
    async with RawClient(gateway.port) as client:
        await client.send(start() + b"".join(parts) + last)
        async with asyncio.timeout(5):
            while b'{"name":"x"}' not in await client.reader.read(10_000):
                pass
    assert servicer.calls <= 3  # One read does not take all: at its border request and reset may be apart.


async def test_a_broken_body_after_an_early_answer(gateway: GatewayProcess) -> None:
    """There is one answer, and no traceback."""
    for target, status in ((b"/nope", 404), (PATH.encode(), 415)):
        async with RawClient(gateway.port) as client:
            head = (
                b"POST " + target + b" HTTP/1.1\r\nhost: x\r\ncontent-type: a/b\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            await client.send(head)
            assert (await client.answer())[0] == status
            await client.send(b"zz\r\n")
            assert await client.closed() == b""
        async with RawClient(gateway.port) as client:  # All at once: the body is known to be none before we answer.
            await client.send(head + b"zz\r\n")
            assert (await client.answer())[0] in (400, status)
            assert await client.closed() == b""


def test_more_connections_than_allowed(nats_url: str, prefix: str, servicer: Servicer, tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, nats_url, prefix, max_connections=5).start()
    try:
        wait_for(lambda: gateway.connections == 0)
        clients = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(5)]
        wait_for(lambda: gateway.connections == 5)
        answer = httpx.get(f"{gateway.url}/healthz")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        clients.pop().close()
        wait_for(lambda: httpx.get(f"{gateway.url}/healthz").status_code == 200)
        for client in clients:
            client.close()
    finally:
        gateway.close()


def test_thousands_of_idle_connections(nats_url: str, prefix: str, servicer: Servicer, tmp_path: Path) -> None:
    """As many as this machine allows, up to 3,000: they cost little memory, and others are served."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(3000, soft - 200)
    gateway = GatewayProcess(tmp_path, nats_url, prefix, head_patience=60).start()
    clients: list[socket.socket] = []
    try:
        before = gateway.resident
        for _ in range(number):
            clients.append(socket.create_connection(("127.0.0.1", gateway.port)))
        wait_for(lambda: gateway.connections >= number)
        assert (gateway.resident - before) / number < 8 * 1024
        for each in range(50):
            assert httpx.get(f"{gateway.url}/served/{each}").json() == {"name": str(each)}
        for client in clients:
            client.close()
        wait_for(lambda: gateway.connections == 0)
    finally:
        gateway.close()
