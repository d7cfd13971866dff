"""Reading the body of a request: never more of it than is allowed, and not forever."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from gateway.aging import Aging
from gateway.asgi import Message, Receive
from gateway.errors import HttpError
from rpc import StatusCode

SLOWEST: Final = 240
"""Bytes a second that a body has to come with: less only keeps a connection busy. (Kestrel has the same number.)"""


class ClientGone(Exception):  # noqa: N818 - it is no error of ours
    """The client hung up; there is nobody to answer."""


class BodyReader:
    """Reads bodies of at most ``limit`` bytes that keep coming, at ``SLOWEST`` in ``patience`` seconds, roughly.

    Bodies that come in pieces, the large ones, are counted until they are released: together they hold at most
    ``capacity`` bytes. It belongs to the event loop that it is made on.
    """

    __slots__ = ("_capacity", "_enough", "_held", "_loop", "_too_slow", "_waiting", "held_by", "limit", "patience")

    def __init__(self, limit: int, patience: float, capacity: int) -> None:
        self.limit = limit
        self._capacity = capacity
        self._enough = max(1, round(patience * SLOWEST))
        self._held = 0
        self._loop = asyncio.get_running_loop()
        self.patience = patience
        self._waiting: Aging[asyncio.Task[Any], Receive] = Aging(patience, self._give_up)
        self._too_slow: set[asyncio.Task[Any]] = set()
        self.held_by: dict[asyncio.Task[Any], int] = {}
        """Bytes that requests hold, by their tasks; small bodies are not worth the counting."""

    async def read(self, receive: Receive, announced: int) -> bytes:
        """Return the whole body; ``announced`` is its length by the headers. If ``held_by`` has any, call ``release``
        once the body is not needed any more.

        Raises ``HttpError`` 413 before anything is read when the client announces too much, and as soon as too much has
        come; 408 when nothing comes for too long; 503 when others hold too much; ``ClientGone``.
        """
        if announced > self.limit:
            raise self.too_large()
        task: asyncio.Task[Any] = asyncio.current_task(self._loop)  # type: ignore[assignment]  # an application has one
        waiting = self._waiting
        waiting.add(task, receive)
        try:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                body: bytes = message.get("body", b"")
                if len(body) > self.limit:
                    raise self.too_large()
                return body
            return await self._read_on(message, receive, task)
        except asyncio.CancelledError:
            self._raise_too_slow(task)
            raise
        finally:
            waiting.remove(task)

    async def part(self, receive: Receive) -> Message:
        """Return the next part of a body that somebody else puts together. Raises ``HttpError`` 408."""
        task: asyncio.Task[Any] = asyncio.current_task(self._loop)  # type: ignore[assignment]  # an application has one
        self._waiting.add(task, receive)
        try:
            return await receive()
        except asyncio.CancelledError:
            self._raise_too_slow(task)
            raise
        finally:
            self._waiting.remove(task)

    def _raise_too_slow(self, task: asyncio.Task[Any]) -> None:
        """Raise ``HttpError`` 408 if it was us who cancelled the task."""
        if task in self._too_slow:
            self._too_slow.discard(task)
            task.uncancel()
            raise HttpError(
                StatusCode.DEADLINE_EXCEEDED,
                f"the body did not arrive in time: less than {self._enough} bytes came in {self.patience:g} seconds",
                status=408,
                headers=[(b"connection", b"close")],
            ) from None

    async def _read_on(self, message: Message, receive: Receive, task: asyncio.Task[Any]) -> bytes:
        # Not a list: whoever sends byte by byte would make us keep an object for each.
        body = bytearray()
        recent = 0
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            if chunk:
                body += chunk
                recent += len(chunk)
                if len(body) > self.limit:
                    raise self.too_large()
                self.hold(task, len(chunk))
            if not message.get("more_body"):
                return bytes(body)
            if recent >= self._enough:
                recent = 0
                self._waiting.remove(task)
                self._waiting.add(task, receive)
            message = await receive()

    def hold(self, task: asyncio.Task[Any], more: int) -> None:
        """Count bytes of a body that a request holds from now on. Raises ``HttpError`` 503 when it is too much."""
        self.held_by[task] = self.held_by.get(task, 0) + more
        self._held += more
        if self._held > self._capacity:
            raise HttpError(
                StatusCode.UNAVAILABLE,
                "the gateway holds as many request bodies as it may: try again later, or send less at once",
                headers=[(b"retry-after", b"1")],
            )

    def release(self, task: asyncio.Task[Any] | None = None) -> None:
        """The request of a task (None: the running one) needs its body no more."""
        self._held -= self.held_by.pop(task or asyncio.current_task(self._loop), 0)  # type: ignore[arg-type]

    def too_large(self) -> HttpError:
        """Return the 413 that names the limit."""
        return HttpError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"the body is larger than {self.limit} bytes, the most that is allowed",
            status=413,
        )

    def _give_up(self, task: asyncio.Task[Any], _receive: Receive) -> None:
        self._too_slow.add(task)
        task.cancel()

    def close(self) -> None:
        """Wait for no body any more."""
        self._waiting.close()
