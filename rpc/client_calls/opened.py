"""A call of bytes that is under way, whatever its kind: what gateways and proxies hold."""

from __future__ import annotations

import asyncio
from typing import Self

from rpc.call import Call, Handler, MessageStream
from rpc.metadata import Metadata
from rpc.status import StatusCode, StatusError


class OpenCall:
    """One call, read and written message by message; ``rpc.Channel.open`` makes it.

    It is under way inside its ``async with`` block. Whoever leaves the block before the call is over cancels it, in the
    back-end, too. All four kinds are read alike: a call whose kind has one response gives that one. One task reads and
    one task writes at a time; they may be two.
    """

    def __init__(self, handler: Handler, call: Call) -> None:
        self.call = call
        """Trailing metadata stands here once the call is over."""
        self._handler = handler
        self._error: StatusError | None = None
        self._response_is_due = not call.info.server_streaming
        self._stream: asyncio.Future[MessageStream | None]
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._stream = loop.create_future()
        self.call.on_stream = self._on_stream
        self._task = loop.create_task(self._run())
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # Whoever has left does not want to know; asyncio need not complain.

    def _on_stream(self, stream: MessageStream) -> None:
        if not self._stream.done():
            self._stream.set_result(stream)

    async def _run(self) -> None:
        try:
            await self._handler(self.call)
        except StatusError as error:
            self._error = error
        finally:
            if not self._stream.done():
                self._stream.set_result(None)

    async def _accepted(self) -> MessageStream | None:
        """Wait until a back-end has the call; None when it ended before."""
        return self._stream.result() if self._stream.done() else await asyncio.shield(self._stream)

    async def headers(self) -> Metadata:
        """Return the initial metadata, as soon as it is here: at the latest with the first message or the end.

        A call that failed before gives what came with its status.
        """
        stream = await self._accepted()
        if stream is None:
            await self._ended()
            return self.call.initial_metadata
        return stream.headers.result() if stream.headers.done() else await asyncio.shield(stream.headers)

    async def read(self) -> bytes | None:
        """Return the next response message, or None once the call has ended with OK. Raises ``StatusError``.

        It can be cancelled and called again: no message gets lost.
        """
        if self.call.info.server_streaming:
            stream = await self._accepted()
            if stream is not None:
                try:
                    message = await stream.read()
                except StatusError:
                    message = None  # The call says why, with its metadata.
                if message is not None:
                    return message
        await self._ended()
        if self._error is not None:
            raise self._error
        if self._response_is_due:
            self._response_is_due = False
            return self.call.response
        return None

    async def write(self, message: bytes) -> bool:
        """Send a request message; returns once the back-end has room for more: that is the back-pressure.

        Returns False when the call is over: ``read`` says how it ended.
        """
        stream = await self._accepted()
        if stream is None:
            return False
        try:
            await stream.write(message)
        except StatusError:
            return False
        return True

    async def half_close(self) -> None:
        """Say that there are no more request messages."""
        stream = await self._accepted()
        if stream is not None:
            stream.half_close()

    def cancel(self, code: StatusCode = StatusCode.CANCELLED, details: str = "the caller cancelled the call") -> None:
        """End the call from this side: ``read`` raises this status, and the back-end's handler is cancelled."""
        self.call.cancel(code, details)

    async def _ended(self) -> None:
        if not self._task.done():
            await asyncio.wait([self._task])
        if self._task.cancelled():
            raise StatusError(StatusCode.CANCELLED, "the call was left before it was over")
        self._task.result()  # What is no status is a bug, and raised as one.
