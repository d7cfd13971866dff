"""What streams cost that are open and silent: memory of gateway and back-end, and the latency of other calls meanwhile.

python -m benchmarks.idle_streams [--streams 1000] [--seconds 4] [--kind WebSocket]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc

from benchmarks import load
from benchmarks.processes import HOST, BenchmarkError, Role, Stage
from benchmarks.setups.natsmesh import start_broker, start_gateway

GREETER = "/greeter.v1.Greeter/SayHello"
CONNECTIONS = 8
"""Connections that make unary calls, one after the other: enough to keep the gateway busy, not to fill it."""
STREAMS_A_CONNECTION = 100
"""gRPC streams on one connection; a server allows 128."""
WELCOME = b"welcome"
ROLES: tuple[Role, ...] = ("gateway", "back-end")


async def _http1(port: int, head: bytes, body: bytes) -> Callable[[], None]:
    reader, writer = await asyncio.open_connection(HOST, port, limit=4096)
    writer.write(head + body)
    await reader.readuntil(WELCOME)
    return writer.close


async def events(port: int, count: int) -> AsyncIterator[Callable[[], None]]:
    """Server-sent events, a connection each."""
    for _ in range(count):
        yield await _http1(port, b"GET /v1/listen HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n", b"")


async def connect(port: int, count: int) -> AsyncIterator[Callable[[], None]]:
    """Connect server streams, a connection each."""
    head = (
        b"POST /bench.v1.Idle/Listen HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
        b"content-type: application/connect+proto\r\n\r\n"
    )
    for _ in range(count):
        yield await _http1(port, head, bytes(5))


async def websocket(port: int, count: int) -> AsyncIterator[Callable[[], None]]:
    """WebSockets with JSON."""
    head = (
        b"GET /bench.v1.Idle/Talk HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    message = b'{"text":"%b"}' % WELCOME
    frame = bytes((0x81, 0x80 | len(message), 0, 0, 0, 0)) + message
    for _ in range(count):
        reader, writer = await asyncio.open_connection(HOST, port, limit=4096)
        writer.write(head)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame)
        await reader.readuntil(WELCOME)
        yield writer.close


async def grpc_bidi(port: int, count: int) -> AsyncIterator[Callable[[], None]]:
    """gRPC, streams both ways, 100 on a connection."""
    channel = None
    for number in range(count):
        if number % STREAMS_A_CONNECTION == 0:
            channel = grpc.aio.insecure_channel(f"{HOST}:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        assert channel is not None
        call = channel.stream_stream("/bench.v1.Idle/Talk")()
        await call.write(b"\x0a\x07" + WELCOME)
        assert WELCOME in await call.read()
        yield call.cancel


KINDS: dict[str, Callable[[int, int], AsyncIterator[Callable[[], None]]]] = {
    "server-sent events": events,
    "Connect server stream": connect,
    "WebSocket": websocket,
    "gRPC bidirectional": grpc_bidi,
}


async def until_answered(ask: Callable[[], Awaitable[object]]) -> None:
    """Repeats the first call until discovery has got round."""
    end = asyncio.get_running_loop().time() + 10
    while True:
        try:
            await asyncio.wait_for(ask(), 1)
            return
        except (OSError, asyncio.IncompleteReadError, TimeoutError, grpc.aio.AioRpcError):
            if asyncio.get_running_loop().time() > end:
                raise
            await asyncio.sleep(0.1)  # Between two tries; the state that is waited for tells nobody that it has come.


async def measure(name: str, count: int, seconds: float) -> str:
    """One row: everything is started anew, so that no kind profits from the memory that another one freed."""
    kind = KINDS[name]
    with Stage() as stage:
        nats_url = start_broker(stage)
        backend = stage.spawn("back-end", [sys.executable, "-m", "benchmarks.programs.idle_service", nats_url])
        start_gateway(stage, nats_url, {})
        port = stage.gateway_port

        async def first() -> None:
            async for close in kind(port, 1):
                close()

        try:
            await until_answered(first)
            for _ in range(50):
                await first()
            before_p99 = await unary_p99(port, seconds)
            before = memory(stage)
            closers = [close async for close in kind(port, count)]
            await asyncio.sleep(2)  # What was to be cleaned up is; roll calls have begun.
            after = memory(stage)
            cpu = stage.cpu_seconds()
            await asyncio.sleep(seconds)
            idle = {role: (stage.cpu_seconds()[role] - cpu[role]) / seconds for role in cpu}
            with_p99 = await unary_p99(port, seconds)
            for close in closers:
                with contextlib.suppress(Exception):
                    close()
            await asyncio.sleep(1)  # The closed streams are cleared away: what is measured is what stays.
            after_p99 = await unary_p99(port, seconds)
        except Exception as error:
            raise BenchmarkError(f"{name}: {error!r}\n{stage.logs()}") from error
        backend.check_alive()
        gateway_kb, backend_kb = ((after[role] - before[role]) / count / 1024 for role in ROLES)
        return (
            f"| {name} | {gateway_kb:.0f} | {backend_kb:.0f} | {sum(idle[role] for role in ROLES) * 100:.1f} % | "
            f"{before_p99 / 1000:.2f} | {with_p99 / 1000:.2f} | {after_p99 / 1000:.2f} |"
        )


def memory(stage: Stage) -> dict[Role, int]:
    """Resident bytes."""
    return {role: stage.resident_bytes(role) for role in ROLES}


async def unary_p99(port: int, seconds: float) -> float:
    """p99 of unary JSON calls, microseconds."""
    result = await asyncio.to_thread(load.run, port, GREETER, seconds, CONNECTIONS)
    if result.errors:
        raise BenchmarkError(f"{result.errors} unary calls failed")
    return result.p99_us


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle_streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--kind", choices=KINDS, help="one kind only")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each window of unary calls")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * options.streams)), hard))  # inherited, too
    print(f"{options.streams} streams, silent; unary calls on {CONNECTIONS} connections ({load.tool()})\n")
    print(
        "| streams | gateway, KiB each | back-end, KiB each | CPU of both | unary p99, ms | with the streams | after |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in [options.kind] if options.kind else KINDS:
        print(await measure(name, options.streams, options.seconds), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
