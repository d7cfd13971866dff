"""WebSockets and those who mean no good, or are slow: limits, origins, flow control, the end of the gateway."""

import asyncio
import base64
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from gateway.config import Config
from gateway.filters.cors import CorsOptions
from tests.gateway.conftest import CannedGateway
from tests.gateway.processes import GatewayProcess, RawClient
from tests.gateway.sockets import PROTO, SCHEMA, SERVICE, Context, Note, Notes, Sockets

TALK = f"/{SERVICE}/Talk"
LIMIT = 100_000
STRICT = {
    "max_websocket_message": LIMIT,
    "max_streams": 3,
    "heartbeat": 0.1,
    "write_patience": 0.6,
    "grace": 1,
}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, nats_url: str) -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), nats_url, "strict", **STRICT)
    yield gateway
    gateway.close()


@pytest.fixture
async def sockets(strict: GatewayProcess, nats_url: str) -> AsyncIterator[Sockets]:
    sockets = Sockets(strict, nats_url, "strict")
    yield sockets
    await sockets.stop()
    assert "Traceback" not in strict.log
    assert "ERROR" not in strict.log


@pytest.fixture
async def patient(tmp_path: Path, nats_url: str) -> AsyncIterator[Sockets]:
    gateway = GatewayProcess(tmp_path, nats_url, "patient", grace=1)
    sockets = Sockets(gateway, nats_url, "patient")
    yield sockets
    await sockets.stop()
    gateway.close()


async def echo(requests: Notes, context: Context) -> Notes:
    async for note in requests:
        yield note


def handshake(path: str = TALK, *more: str, method: str = "GET", key: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: x", "connection: upgrade", "upgrade: websocket", *more]
    if key:
        lines.append("sec-websocket-key: " + base64.b64encode(os.urandom(16)).decode())
    if not any(line.startswith("sec-websocket-version") for line in lines):
        lines.append("sec-websocket-version: 13")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def frame(opcode: int, data: bytes, *, fin: bool = True, masked: bool = True) -> bytes:
    first = (0x80 if fin else 0) | opcode
    mask = 0x80 if masked else 0
    if len(data) < 126:
        head = struct.pack("!BB", first, mask | len(data))
    else:
        head = struct.pack("!BBQ", first, mask | 127, len(data))
    return head + (b"\0\0\0\0" if masked else b"") + data  # Masked by zeros, the data stay what they are.


class RawSocket(RawClient):
    """A WebSocket by its bytes."""

    async def shake_hands(self) -> None:
        await self.send(handshake())
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 101 "), head

    async def next_frame(self) -> tuple[int, bytes]:
        async with asyncio.timeout(5):
            first, length = await self.reader.readexactly(2)
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0xF, await self.reader.readexactly(length)

    async def close_code(self) -> int:
        while True:
            opcode, data = await self.next_frame()
            if opcode == 8:
                return int.from_bytes(data[:2], "big")


async def test_messages_that_are_too_large(sockets: Sockets) -> None:
    await sockets.start(talk=echo)
    async with sockets.talking(TALK) as talk:
        await talk.send({"text": "x" * (LIMIT - 20)})
        assert len((await talk.read())["text"]) == LIMIT - 20
        await talk.send({"text": "x" * LIMIT})
        assert (await talk.end())[1] == 1009


async def test_fragments(sockets: Sockets) -> None:
    """They may be many and empty, but together they are one message."""
    await sockets.start(talk=echo)
    async with RawSocket(sockets.gateway.port) as socket:
        await socket.shake_hands()
        document = json.dumps({"text": "ä"}, ensure_ascii=False).encode()
        parts = [frame(1, document[:1], fin=False), *(frame(0, document[n : n + 1], fin=False) for n in range(1, 100))]
        await socket.send(b"".join(parts) + frame(0, b"", fin=False) * 20_000 + frame(0, b""))
        while (received := await socket.next_frame())[0] == 9:
            await socket.send(frame(10, received[1]))
        assert received == (1, '{"text":"ä"}'.encode())
        await socket.send(frame(1, b"x" * 60_000, fin=False) + frame(0, b"x" * 60_000, fin=False))
        assert await socket.close_code() == 1009


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, b'"\xff"'), 1007),
        (frame(1, b'"\xc3', fin=False) + frame(0, b'("'), 1007),
        (frame(3, b"x"), 1002),
        (frame(1, b"{}", masked=False), 1002),
        (frame(0, b"{}"), 1002),
        (frame(9, b"x" * 126), 1002),
        (frame(8, b"x"), 1002),
        (b"\xf1\x80\0\0\0\0", 1002),
    ],
)
async def test_frames_that_are_none(sockets: Sockets, data: bytes, code: int) -> None:
    stopped = asyncio.Event()

    async def talk(requests: Notes, context: Context) -> Notes:
        try:
            await asyncio.Event().wait()
            yield Note()
        finally:
            stopped.set()

    await sockets.start(talk=talk)
    await stopped.wait()
    stopped.clear()
    async with RawSocket(sockets.gateway.port) as socket:
        await socket.shake_hands()
        await socket.send(data)
        assert await socket.close_code() == code
    await asyncio.wait_for(stopped.wait(), 5)


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (handshake(key=False), (400,)),
        (handshake(TALK, "sec-websocket-version: 7"), (400, 426)),
        (handshake(method="POST"), (400, 405)),
        (handshake(TALK, "content-length: 3") + b"abc", (400,)),
        (handshake(TALK, *(f"x-{n}: 1" for n in range(200))), (400, 431, 101)),
        (handshake(TALK, "x-long: " + "x" * 9000), (400, 431, 101)),
        (handshake("/\xff"), (400,)),
        (handshake(f"{TALK}?\xff"), (400,)),
        (handshake("/nope"), (404,)),
        (handshake("//"), (404,)),
        (handshake("/%"), (404, 400)),
        (handshake("/v1/rooms/%zz/notes"), (400,)),
        (handshake(TALK, "sec-websocket-protocol: \xff, ,"), (400,)),
        (handshake(TALK, "content-type: application/grpc"), (101,)),
        (handshake(TALK, "origin: null"), (403,)),
        (handshake(TALK, "origin: http://evil"), (403,)),
        (handshake(TALK, "origin: http://X"), (101,)),
        (handshake(TALK, "x-some-bin: %"), (400,)),
        (handshake("/healthz"), (404,)),
    ],
)
async def test_handshakes(sockets: Sockets, request_: bytes, statuses: tuple[int, ...]) -> None:
    await sockets.start(talk=echo)
    async with RawSocket(sockets.gateway.port) as socket:
        await socket.send(request_)
        head = await asyncio.wait_for(socket.reader.readuntil(b"\r\n"), 5)
        assert int(head.split()[1]) in statuses


async def test_garbage_before_the_socket_is_open(sockets: Sockets) -> None:
    await sockets.start(talk=echo)
    for garbage in (frame(3, b"x"), frame(1, b"{}"), b"\xff" * 100_000):
        async with RawSocket(sockets.gateway.port) as socket:
            await socket.send(handshake() + garbage)
            await socket.send(garbage)
            assert (await asyncio.wait_for(socket.reader.readuntil(b"\r\n"), 5)).startswith(b"HTTP/1.1 ")


async def test_as_many_as_may_be(sockets: Sockets) -> None:
    await sockets.start(talk=echo)
    async with sockets.open(TALK), sockets.open(TALK), sockets.open(f"/{SERVICE}/Tell"):
        status, error = await sockets.refusal(TALK)
        assert (status, error["code"]) == (503, 14)
    async with asyncio.timeout(5):
        while True:
            try:
                async with sockets.open(TALK):
                    break
            except Exception:  # noqa: BLE001 - the others are not over yet
                await asyncio.sleep(0.01)


async def test_silence_is_filled_with_pings(sockets: Sockets) -> None:
    async def talk(requests: Notes, context: Context) -> Notes:
        await asyncio.Event().wait()
        yield Note()

    await sockets.start(talk=talk)
    async with RawSocket(sockets.gateway.port) as socket:
        await socket.shake_hands()
        for _ in range(3):
            opcode, data = await socket.next_frame()
            assert opcode == 9
            await socket.send(frame(10, data))
        # Whoever does not answer is given up.
        assert await socket.close_code() == 1011
        await socket.closed()


async def test_a_slow_service_does_not_make_its_client_look_dead(sockets: Sockets) -> None:
    go_on = asyncio.Event()

    async def talk(requests: Notes, context: Context) -> Notes:
        await go_on.wait()
        number = 0
        async for _ in requests:
            number += 1
        yield Note(number=number)

    await sockets.start(talk=talk)
    async with sockets.open(TALK, PROTO) as socket:
        message = Note(text="x" * 60_000).SerializeToString()
        sent = 0
        pending = asyncio.ensure_future(socket.send(message))
        while (await asyncio.wait([pending], timeout=0.3))[0]:
            sent += 1
            assert sent < 1000, "nothing slows the client"
            pending = asyncio.ensure_future(socket.send(message))
        # Longer than a ping would be waited for: pongs cannot be heard now.
        await asyncio.wait([pending], timeout=STRICT["heartbeat"] * 3 + STRICT["write_patience"] * 2)
        assert not pending.done()
        go_on.set()
        await pending
        await socket.send("")
        assert Note.FromString(await asyncio.wait_for(socket.recv(), 10)).number == sent + 1


async def test_a_client_that_takes_nothing_is_cut_off(sockets: Sockets) -> None:
    stopped = asyncio.Event()

    async def talk(requests: Notes, context: Context) -> Notes:
        try:
            while True:
                yield Note(text="x" * 60_000)
        finally:
            stopped.set()

    await sockets.start(talk=talk)
    await stopped.wait()
    stopped.clear()
    async with RawSocket(sockets.gateway.port) as socket:
        await socket.shake_hands()
        await asyncio.wait_for(stopped.wait(), 10)


async def test_a_slow_client_slows_the_service(patient: Sockets) -> None:
    made = 0
    total = 800

    async def talk(requests: Notes, context: Context) -> Notes:
        nonlocal made
        async for _ in requests:
            pass
        for _ in range(total):
            made += 1
            yield Note(text="x" * 64_000)

    await patient.start(talk=talk)
    made = 0
    async with patient.open(TALK, PROTO, max_queue=1) as socket:
        await socket.send("")
        before = -1
        async with asyncio.timeout(10):
            while made != before or not made:
                before = made
                await asyncio.sleep(0.2)
        assert made < total / 2
        received = 0
        try:
            while True:
                received += len(Note.FromString(await socket.recv()).text) // 64_000
        except ConnectionClosed:
            pass
        assert (received, made, socket.close_code) == (total, total, 1000)


async def test_the_end_of_the_gateway(patient: Sockets) -> None:
    await patient.start(talk=echo)
    gateway = patient.gateway
    async with patient.talking(TALK) as talk, patient.talking(TALK) as other:
        await talk.send({"number": 1})
        await talk.read()
        started = time.monotonic()
        gateway.signal(signal.SIGTERM)
        # Those under way have time to end.
        await other.send({"number": 2})
        assert await other.read() == {"number": "2"}
        await other.half_close()
        assert await other.end() == ([], 1000, "")
        ((last,), code, _) = await talk.end()
        assert (last["error"]["code"], code) == (14, 4014)
        assert time.monotonic() - started < 5
    assert await asyncio.to_thread(gateway.wait) == 0
    assert "Traceback" not in gateway.log


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "allowed"),
    [
        (None, "a.example", "ws", True),
        ("http://a.example", "a.example", "ws", True),
        ("https://a.example", "a.example", "ws", True),  # TLS ends in front of the gateway.
        ("https://a.example", "a.example", "wss", True),
        ("http://a.example", "a.example", "wss", False),
        ("http://a.example:81", "a.example", "ws", False),
        ("http://a.example", None, "ws", False),
        ("null", "null", "ws", False),
        ("https://app.example.com", "a.example", "ws", True),
        ("https://evil.example.com", "a.example", "ws", False),
    ],
)
async def test_origins(origin: str | None, host: str | None, scheme: str, allowed: bool) -> None:
    gateway = CannedGateway(SCHEMA, SERVICE, Config(cors=CorsOptions(origins=("https://app.example.com",))))
    headers = [(b"host", host.encode())] if host else []
    headers += [(b"origin", origin.encode())] if origin else []
    sent = await shake_hands(gateway, headers, scheme, {"websocket.http.response": {}})
    if allowed:
        assert sent[0]["type"] == "websocket.accept"
    else:
        assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 403)
        assert b"cors.origins" in sent[1]["body"]


@pytest.mark.parametrize(
    ("origin", "credentials", "cookies"),
    [
        (b"http://a.example", False, ["x=1"]),
        (b"https://app.example.com", False, []),
        (b"https://app.example.com", True, ["x=1"]),
    ],
)
async def test_cookies_count_where_cors_has_them_count(origin: bytes, credentials: bool, cookies: list[str]) -> None:
    cors = CorsOptions(origins=("https://app.example.com",), credentials=credentials)
    gateway = CannedGateway(SCHEMA, SERVICE, Config(cors=cors))
    headers = [(b"host", b"a.example"), (b"origin", origin), (b"cookie", b"x=1"), (b"x-other", b"y")]
    await shake_hands(gateway, headers, "ws", {})
    metadata = gateway.calls[0].metadata
    assert [value for name, value in metadata if name == "cookie"] == cookies
    assert ("x-other", "y") in metadata


async def test_servers_that_cannot_refuse_over_http() -> None:
    gateway = CannedGateway(SCHEMA, SERVICE, Config())
    sent = await shake_hands(gateway, [(b"origin", b"http://evil")], "ws", {})
    assert [message["type"] for message in sent] == ["websocket.close"]


async def shake_hands(
    gateway: CannedGateway, headers: list[tuple[bytes, bytes]], scheme: str, extensions: dict[str, Any]
) -> list[dict[str, Any]]:
    scope = {
        "type": "websocket",
        "scheme": scheme,
        "path": TALK,
        "raw_path": TALK.encode(),
        "query_string": b"",
        "headers": headers,
        "subprotocols": [],
        "extensions": extensions,
    }
    messages = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    application: Callable[..., Any] = gateway.gateway
    await application(scope, receive, send)
    return sent


def test_a_gateway_without_websockets_does_not_load_them() -> None:
    program = "import sys, gateway.server; print(sorted({'websockets', 'wsproto'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
