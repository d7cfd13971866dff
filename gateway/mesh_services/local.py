"""Methods that the gateway answers itself, as a ``Handler``: to all protocols they look like those of a back-end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from rpc import Call, Metadata, StatusCode, StatusError

UnaryMethod = Callable[[bytes], Awaitable[bytes]]
StreamMethod = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
"""Requests in, responses out; a method with one request gets a stream of one. Both may raise ``StatusError``."""


class LocalMethods:
    """Carries calls to functions of this process. ``invoke`` is a ``rpc.Handler``."""

    def __init__(self, unary: Mapping[str, UnaryMethod], streams: Mapping[str, StreamMethod]) -> None:
        """Both by ``pkg.Service/Method``."""
        self._unary = unary
        self._streams = streams

    async def invoke(self, call: Call) -> None:
        """Serve one call. Raises ``StatusError``."""
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # a coroutine runs in one

        def cancel(_reason: StatusError) -> None:
            task.cancel()

        call.on_cancel(cancel)
        try:
            async with asyncio.timeout_at(call.deadline):
                await self._serve(call)
        except TimeoutError:
            raise StatusError(StatusCode.DEADLINE_EXCEEDED, "deadline exceeded") from None
        except asyncio.CancelledError:
            if call.cancelled is None:
                raise
            task.uncancel()
            raise call.cancelled from None
        finally:
            call.on_cancel(None)

    async def _serve(self, call: Call) -> None:
        name = call.info.full_name
        unary = self._unary.get(name)
        if unary is not None:
            call.response = await unary(call.request)
            return
        stream = _LocalStream()
        if not call.info.client_streaming:
            await stream.write(call.request)
            stream.half_close()
        if call.on_stream is not None:
            call.on_stream(stream)
        try:
            async for response in self._streams[name](stream.requests.all()):
                await stream.responses.put(response)
        finally:
            stream.close()


class _LocalStream:
    """Both directions of one call (a ``MessageStream``), one message each: who is faster waits for the other."""

    def __init__(self) -> None:
        self.headers: asyncio.Future[Metadata] = asyncio.get_running_loop().create_future()
        self.headers.set_result(())
        self.compress = False
        self.skip_compression = False
        self.requests = _Slot()
        self.responses = _Slot()

    async def read(self) -> bytes | None:
        """Return the next response, or None after the last."""
        return await self.responses.get()

    async def write(self, message: bytes) -> None:
        """Send a request once the one before was taken. Raises ``StatusError`` when nobody takes any more."""
        if not await self.requests.put(message):
            raise StatusError(StatusCode.CANCELLED, "the call is over")

    def send_headers(self, metadata: Metadata) -> None:
        """Nobody here has metadata."""

    def half_close(self) -> None:
        """There are no more requests."""
        self.requests.close()

    def close(self) -> None:
        """The call is over: nobody waits any more."""
        self.requests.close()
        self.responses.close()


class _Slot:
    """Hands messages over one by one, from one task to another."""

    def __init__(self) -> None:
        self._message: bytes | None = None
        self._closed = False
        self._free = asyncio.Event()
        self._free.set()
        self._filled = asyncio.Event()

    async def put(self, message: bytes) -> bool:
        """Leave a message once there is room. Returns False when it is closed."""
        await self._free.wait()
        if self._closed:
            return False
        self._message = message
        self._free.clear()
        self._filled.set()
        return True

    async def get(self) -> bytes | None:
        """Take the next message; None after the last, once it is closed."""
        await self._filled.wait()
        message, self._message = self._message, None
        if not self._closed:
            self._filled.clear()
            self._free.set()
        return message

    async def all(self) -> AsyncIterator[bytes]:
        """Yield the messages."""
        while (message := await self.get()) is not None:
            yield message

    def close(self) -> None:
        """Take no more; what is there can still be had."""
        self._closed = True
        self._filled.set()
        self._free.set()
