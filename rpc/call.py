"""The one internal call shape: ``Call``, ``Handler``, ``Interceptor``.

A transport is a Handler, a dispatched servicer method is a Handler, and a policy is an Interceptor around either:
client and server are the same function seen from two sides. Messages are bytes here; typed messages exist only at the
edges.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from rpc.status import StatusCode, StatusError

if TYPE_CHECKING:
    import asyncio

    from rpc.metadata import Metadata
    from rpc.method import MethodInfo


class MessageStream(Protocol):
    """The messages of a call that is not one request and one response."""

    headers: asyncio.Future[Metadata]
    """Resolved with the initial metadata that the peer sent, at the latest with its first message or the end."""
    compress: bool
    """Whether messages are sent compressed (gzip)."""
    skip_compression: bool
    """Whether the next message is sent uncompressed."""

    async def read(self) -> bytes | None:
        """Return the next message, or None after the last."""

    async def write(self, message: bytes) -> None:
        """Send a message, when the peer has room for it."""

    def send_headers(self, metadata: Metadata) -> None:
        """Back-end: send initial metadata now."""

    def half_close(self) -> None:
        """Caller: there are no more messages."""


class Call:
    """One call on its way: the request going in, the response, metadata and cancellation coming out.

    A handler that returns has answered OK; one that raises ``StatusError`` has answered with that status. In both cases
    ``initial_metadata`` and ``trailing_metadata`` are what it had to say besides.

    One request and one response travel in ``request`` and ``response``; ``stream`` is there when more is needed.
    ``receive`` and ``send`` serve both. A call belongs to one event loop and is used from there only.
    """

    __slots__ = (
        "_on_cancel",
        "attempt",
        "cancelled",
        "compress",
        "deadline",
        "info",
        "initial_metadata",
        "metadata",
        "on_stream",
        "peer",
        "request",
        "response",
        "stream",
        "trailing_metadata",
        "wait_for_ready",
    )

    def __init__(
        self,
        info: MethodInfo,
        request: bytes = b"",
        *,
        metadata: Metadata = (),
        deadline: float | None = None,
        wait_for_ready: bool = False,
        peer: str = "",
    ) -> None:
        """Create a call.

        ``deadline`` is absolute, in seconds on the clock of the running event loop (``loop.time()``).
        """
        self.info = info
        self.request = request
        self.response: bytes = b""
        self.metadata = metadata
        self.deadline = deadline
        self.wait_for_ready = wait_for_ready
        self.peer = peer
        self.initial_metadata: Metadata = ()
        self.trailing_metadata: Metadata = ()
        self.attempt = 1
        """Which sending of this call it is, from 1."""
        self.compress = False
        """Whether messages that this end sends are compressed with gzip."""
        self.stream: MessageStream | None = None
        self.on_stream: Callable[[MessageStream], None] | None = None
        """Caller's side of a streaming call: told once a back-end has accepted, then ``stream`` can be used."""
        self.cancelled: StatusError | None = None
        """Why the call was cancelled, once it was."""
        self._on_cancel: Callable[[StatusError], None] | None = None

    async def receive(self) -> bytes | None:
        """Return the next request message, or None after the last; without a stream there is the one only."""
        return self.request if self.stream is None else await self.stream.read()

    async def send(self, message: bytes) -> None:
        """Send one response message."""
        if self.stream is not None and self.info.server_streaming:
            await self.stream.write(message)
        else:
            self.response = message

    def cancel(self, code: StatusCode = StatusCode.CANCELLED, details: str = "the caller cancelled the call") -> bool:
        """End the call from outside with ``code``; whoever carries it now is told at once.

        Returns False when it had been cancelled before (the first reason stays).
        """
        if self.cancelled is not None:
            return False
        self.cancelled = error = StatusError(code, details)
        if self._on_cancel is not None:
            self._on_cancel(error)
        return True

    def on_cancel(self, callback: Callable[[StatusError], None] | None) -> None:
        """Name the one who carries the call now and must stop when it is cancelled (None: nobody does).

        Raises the reason when the call is cancelled already.
        """
        if callback is not None and self.cancelled is not None:
            raise self.cancelled
        self._on_cancel = callback


Handler = Callable[[Call], Awaitable[None]]
Interceptor = Callable[[Call, Handler], Awaitable[None]]


def compose(interceptors: Iterable[Interceptor], handler: Handler) -> Handler:
    """Stack interceptors around a handler; the first one is the outermost."""
    for interceptor in reversed(list(interceptors)):
        handler = partial(_run, interceptor, handler)
    return handler


def _run(interceptor: Interceptor, handler: Handler, call: Call) -> Awaitable[None]:
    return interceptor(call, handler)
