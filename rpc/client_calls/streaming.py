"""Call objects of the three streaming kinds, in the shapes of grpc.aio: iterators, or ``read`` and ``write``."""

from __future__ import annotations

import asyncio
import enum
import logging
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable
from functools import partial
from typing import Any

from grpc import aio

from rpc.call import Call, Handler, MessageStream
from rpc.client_calls.base import (
    ALREADY_FINISHED,
    HALF_CLOSED,
    LOCALLY_CANCELLED,
    MIXED_STYLES,
    CallBase,
    Deserializer,
    Serializer,
    aio_metadata,
    convert,
)
from rpc.metadata import Metadata
from rpc.status import StatusCode, StatusError

logger = logging.getLogger(__name__)


class _Style(enum.Enum):
    UNKNOWN = enum.auto()
    ITERATOR = enum.auto()
    READER_WRITER = enum.auto()


class _StreamingCall(CallBase):
    """A call with a stream in at least one direction; the stream is there once a back-end has accepted.

    The task that carries the call knows it by a weak reference only: a call that its owner has forgotten is cancelled,
    since there is nobody who could read or write what it waits for.
    """

    def __init__(
        self,
        handler: Handler,
        call: Call,
        serializer: Serializer | None,
        deserializer: Deserializer | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._call = call
        self._serializer = serializer
        self._deserializer = deserializer
        self._loop = loop
        self._error = None
        self._locally_cancelled = False
        self._response: Any = None
        self._stream = stream = loop.create_future()
        self._known = known = asyncio.Event()
        call.on_stream = partial(_resolve, stream, known)
        self._task = loop.create_task(_run(handler, call, weakref.ref(self)))
        self._task.add_done_callback(partial(_never_mind, stream, known))

    def __del__(self) -> None:
        # Whoever collects garbage may do it in another thread.
        if not self._task.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)

    def _ended(self, error: StatusError | asyncio.CancelledError | None) -> None:
        """Take in how the call ended; called once."""
        try:
            if isinstance(error, asyncio.CancelledError):
                self._locally_cancelled = True
                self._error = StatusError(StatusCode.CANCELLED, LOCALLY_CANCELLED)
            elif error is not None:
                self._ended_with(error)
            elif not self._call.info.server_streaming:
                self._response = convert(self._deserializer, self._call.response, "deserializing response")
        except StatusError as failure:
            self._ended_with(failure)

    async def _accepted(self) -> MessageStream | None:
        """Wait until a back-end has the call; None when it ended before."""
        if not self._stream.done():
            await self._known.wait()
        return None if self._stream.cancelled() else self._stream.result()

    async def initial_metadata(self) -> aio.Metadata:
        """Return the back-end's initial metadata, as soon as it came."""
        stream = await self._accepted()
        if stream is None:
            return aio_metadata(self._call.initial_metadata)
        metadata: Metadata = await asyncio.shield(stream.headers)
        return aio_metadata(metadata)

    async def wait_for_connection(self) -> None:
        """Return when a back-end has the call. Raises like the call itself when it ended before."""
        if await self._accepted() is None:
            await self._finished()
            self._raise_error()


async def _run(handler: Handler, call: Call, owner: weakref.ref[_StreamingCall]) -> None:
    error: StatusError | asyncio.CancelledError | None = None
    try:
        await handler(call)
    except (StatusError, asyncio.CancelledError) as failure:
        error = failure
    if (call_object := owner()) is not None:
        call_object._ended(error)  # noqa: SLF001 - it is the object's own task


def _never_mind(future: asyncio.Future[MessageStream], known: asyncio.Event, _task: asyncio.Task[None]) -> None:
    """The call has ended: if no back-end has accepted it until now, none will."""
    future.cancel()
    known.set()


def _resolve(future: asyncio.Future[MessageStream], known: asyncio.Event, stream: MessageStream) -> None:
    known.set()
    if not future.done():
        future.set_result(stream)


class _Responses(_StreamingCall):
    """The half of a call that reads a stream of responses."""

    _style = _Style.UNKNOWN
    _iterated = False

    def __aiter__(self) -> AsyncIterator[Any]:
        self._use(_Style.ITERATOR)
        return self

    async def __anext__(self) -> Any:
        if self._iterated:
            raise StopAsyncIteration
        try:
            message = await self._read()
        except BaseException:
            self._iterated = True
            raise
        if message is aio.EOF:
            self._iterated = True
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        """Return the next response, or ``grpc.aio.EOF`` after the last. Raises ``AioRpcError``."""
        if not self.done():
            self._use(_Style.READER_WRITER)
        return await self._read()

    def _use(self, style: _Style) -> None:
        if self._style is _Style.UNKNOWN:
            self._style = style
        elif self._style is not style:
            raise aio.UsageError(MIXED_STYLES)

    async def _read(self) -> Any:
        try:
            stream = await self._accepted()
            data = None if stream is None or self._locally_cancelled else await stream.read()
        except StatusError:
            data = None  # The call says why.
        except asyncio.CancelledError:
            self.cancel()
            raise
        if data is None:
            await self._finished()
            self._raise_error()
            return aio.EOF
        try:
            return convert(self._deserializer, data, "deserializing response")
        except StatusError as error:
            self._call.cancel(error.code, error.details)
            await self._finished()
            raise self._rpc_error(error) from error


class _Requests(_StreamingCall):
    """The half of a call that writes a stream of requests."""

    _poller: asyncio.Task[None] | None = None
    _done_writing = False

    def start_requests(self, request_iterator: AsyncIterable[Any] | Iterable[Any] | None) -> None:
        """Send what the iterator gives; without one, ``write`` and ``done_writing`` are used."""
        if request_iterator is not None:
            self._poller = poller = self._loop.create_task(self._consume(request_iterator))
            self._task.add_done_callback(lambda _task: poller.cancel())

    async def _consume(self, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self._write(request)
            else:
                for request in requests:
                    await self._write(request)
            await self._half_close()
        except (aio.AioRpcError, asyncio.InvalidStateError) as error:
            logger.debug("the call ended while its requests were sent: %s", error)
        except Exception:
            # As in grpc.aio: the iterator's failure ends the call.
            logger.debug("the request iterator raised", exc_info=True)
            self.cancel()

    async def write(self, request: Any) -> None:
        """Send a request; returns when the back-end has room for it. Raises ``AioRpcError``."""
        self._check_style()
        await self._write(request)

    async def done_writing(self) -> None:
        """Say that there are no more requests; idempotent."""
        self._check_style()
        await self._half_close()

    def _check_style(self) -> None:
        if self._poller is not None:
            raise aio.UsageError(MIXED_STYLES)

    async def _write(self, request: Any) -> None:
        if self.done():
            raise asyncio.InvalidStateError(ALREADY_FINISHED)
        if self._done_writing:
            raise asyncio.InvalidStateError(HALF_CLOSED)
        try:
            data = convert(self._serializer, request, "serializing request")
        except StatusError as error:
            self._call.cancel(error.code, error.details)
        else:
            try:
                stream = await self._accepted()
                if stream is not None:
                    await stream.write(data)
                    return
            except StatusError:
                pass  # The call is over, and says why itself.
            except asyncio.CancelledError:
                self.cancel()
                raise
        await self._finished()
        self._raise_error()
        raise asyncio.InvalidStateError(ALREADY_FINISHED)

    async def _half_close(self) -> None:
        if self.done() or self._done_writing:
            return
        self._done_writing = True
        stream = await self._accepted()
        if stream is not None:
            stream.half_close()


class UnaryStreamCall(_Responses, aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses."""

    def __init__(
        self,
        handler: Handler,
        call: Call,
        serializer: Serializer | None,
        deserializer: Deserializer | None,
        loop: asyncio.AbstractEventLoop,
        request: Any,
    ) -> None:
        async def carry(call: Call) -> None:
            call.request = convert(serializer, request, "serializing request")
            await handler(call)

        super().__init__(carry, call, serializer, deserializer, loop)


class StreamUnaryCall(_Requests, aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response. Awaiting it gives the response or raises ``AioRpcError``."""

    def __del__(self) -> None:
        # Once all requests are sent, nobody is needed for the call to come to its end.
        if not self._done_writing:
            super().__del__()

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            yield from self._task.__await__()
        except asyncio.CancelledError:
            self._mark_cancelled()
            raise
        self._raise_error()
        return self._response


class StreamStreamCall(_Requests, _Responses, aio.StreamStreamCall[Any, Any]):
    """Streams both ways, independent of each other."""
