"""The gateway's own routes: is it alive, is it ready, what has it counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.asgi import Receive, Scope, Send
from gateway.connect import literal_template
from rpc import telemetry
from rpc.telemetry import WorkerStats

Answer = tuple[int, bytes, bytes]
"""(status, content type, body)"""

_TEXT = b"text/plain; charset=utf-8"


class OperationRoute:
    """One of the gateway's own paths, by GET."""

    __slots__ = ("_answer", "http_method", "template")

    def __init__(self, path: str, answer: Callable[[], Awaitable[Answer]]) -> None:
        self.http_method = "GET"
        self.template = literal_template(path)
        self._answer = answer

    async def serve(self, _scope: Scope, _receive: Receive, send: Send, _segments: list[bytes]) -> None:
        """Answer."""
        status, content_type, body = await self._answer()
        headers = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def healthz() -> OperationRoute:
    """``/healthz``: the process answers, whatever the bus does."""

    async def answer() -> Answer:
        return 200, _TEXT, b"ok\n"

    return OperationRoute("/healthz", answer)


def readyz(reason_against: Callable[[], str]) -> OperationRoute:
    """``/readyz``: 200 when calls can be served, else 503 and the reason."""

    async def answer() -> Answer:
        reason = reason_against()
        return (503, _TEXT, f"not ready: {reason}\n".encode()) if reason else (200, _TEXT, b"ready\n")

    return OperationRoute("/readyz", answer)


def metrics(workers: WorkerStats | None, queues: Callable[[], Awaitable[bytes]]) -> OperationRoute:
    """``/metrics``: what this process has counted, or all workers of the gateway, and queues, as Prometheus text."""

    def text() -> bytes:
        return telemetry.prometheus_text(*(workers.gather() if workers is not None else ()))

    async def answer() -> Answer:
        # On a thread: it sums over all routes, and reads what other workers have written.
        counted = await asyncio.to_thread(text)
        return 200, telemetry.PROMETHEUS_CONTENT_TYPE.encode(), counted + await queues()

    return OperationRoute("/metrics", answer)
