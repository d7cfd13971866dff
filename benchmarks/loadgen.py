"""The stand-in for `wrk`: raw HTTP/1.1 over asyncio, as little work a call as Python allows.

Every answer is compared with the first.

    python -m benchmarks.loadgen http://127.0.0.1:8080/greeter.v1.Greeter/SayHello --connections 64 --seconds 5

Prints the same `RESULT {...}` line as `wrk.lua`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast
from urllib.parse import urlsplit

BODY = b'{"name":"x"}'


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one call under way."""

    def __init__(self, request: bytes, run: Run) -> None:
        self._request = request
        self._run = run
        self._received = b""
        self._sent_at = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._run.over:
            self._run.errors += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end].lower()
        mark = head.find(b"content-length:")
        if mark < 0:  # every gateway here answers unary calls with a length
            self._fail()
            return
        length = int(head[mark + 15 :].split(b"\r\n", 1)[0])
        if len(self._received) < end + 4 + length:
            return
        body = self._received[end + 4 : end + 4 + length]
        self._received = b""
        self._run.answered(head.split(b" ", 2)[1] == b"200", body, time.perf_counter_ns() - self._sent_at)
        if not self._run.over:
            self._send()

    def close(self) -> None:
        """Ends the connection, with or without an answer outstanding."""
        if self._transport is not None:
            self._transport.close()

    def _send(self) -> None:
        assert self._transport is not None
        self._sent_at = time.perf_counter_ns()
        self._transport.write(self._request)

    def _fail(self) -> None:
        self._run.errors += 1
        self.close()


class Run:
    """The tally of all connections."""

    def __init__(self) -> None:
        self.over = False
        self.errors = 0
        self.bytes = 0
        self.latencies: list[int] = []
        self._expected: bytes | None = None

    def answered(self, ok: bool, body: bytes, nanoseconds: int) -> None:
        """Counts one answer; one that is not 200, or not the first answer's bytes, is an error."""
        if self._expected is None:
            self._expected = body
        if not ok or body != self._expected:
            self.errors += 1
        self.bytes += len(body)
        self.latencies.append(nanoseconds)


async def load(url: str, connections: int, seconds: float) -> Run:
    """Runs the load; connections that cannot be made raise OSError."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"{url}: give host and port, as in http://127.0.0.1:8080/path")
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )
    request = head.encode() + BODY
    loop = asyncio.get_running_loop()
    run = Run()
    made = [
        await loop.create_connection(lambda: Connection(request, run), parts.hostname, parts.port)
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    run.over = True
    for _, connection in made:
        connection.close()
    return run


def runner() -> Callable[[Coroutine[Any, Any, Run]], Run]:
    """Uvloop's runner where uvloop is installed, asyncio's elsewhere."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.run
    return asyncio.run


def main() -> None:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Loads one HTTP endpoint with JSON posts.")
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    started = time.perf_counter()
    run = runner()(load(options.url, options.connections, options.seconds))
    elapsed = time.perf_counter() - started
    latencies = sorted(run.latencies) or [0]
    print(
        "RESULT "
        + json.dumps(
            {
                "calls": len(run.latencies),
                "seconds": elapsed,
                "p50_us": latencies[len(latencies) // 2] / 1000,
                "p99_us": latencies[len(latencies) * 99 // 100] / 1000,
                "bytes": run.bytes,
                "errors": run.errors,
            }
        )
    )


if __name__ == "__main__":
    main()
