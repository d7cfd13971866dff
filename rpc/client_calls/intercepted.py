"""Call objects behind client interceptors, as in grpc.aio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Generator, Sequence
from typing import Any

from grpc import aio

from rpc.client_calls.base import ALREADY_FINISHED, HALF_CLOSED, LOCALLY_CANCELLED, MIXED_STYLES
from rpc.status import StatusCode


class RespondedCall(aio.UnaryUnaryCall[Any, Any]):
    """A call that an interceptor answered without making it."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response
        yield  # makes this a generator

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    def time_remaining(self) -> float | None:
        return None

    async def initial_metadata(self) -> aio.Metadata:
        return aio.Metadata()

    async def trailing_metadata(self) -> aio.Metadata:
        return aio.Metadata()

    async def code(self) -> StatusCode:
        return StatusCode.OK

    async def details(self) -> str:
        return ""

    async def debug_error_string(self) -> str:
        return ""

    async def wait_for_connection(self) -> None:
        return


class _InterceptedCall:
    """A call behind client interceptors: they run in a task, whose result is the call they chose.

    Nothing but its owner holds this object, so that the chosen call ends with it when it is forgotten.
    """

    def __init__(self, run: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._task: asyncio.Task[Any] = loop.create_task(run)
        # A failure is raised to whoever awaits the call; asyncio need not complain if nobody does.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _inner(self) -> Any:
        if not self._task.done() or self._task.cancelled() or self._task.exception() is not None:
            return None
        return self._task.result()

    def _failure(self) -> BaseException | None:
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None

    def cancel(self) -> bool:
        if not self._task.done():
            return self._task.cancel()
        inner = self._inner()
        return inner.cancel() if inner is not None else False

    def cancelled(self) -> bool:
        if self._task.cancelled():
            return True
        failure = self._failure()
        if isinstance(failure, aio.AioRpcError):
            return failure.code() is StatusCode.CANCELLED
        inner = self._inner()
        return inner.cancelled() if inner is not None else False

    def done(self) -> bool:
        if not self._task.done():
            return False
        inner = self._inner()
        return inner.done() if inner is not None else True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        def chosen(_task: object = None) -> None:
            inner = self._inner()
            if inner is None or inner.done():
                callback(self)
            else:
                inner.add_done_callback(lambda _inner: callback(self))

        if self._task.done():
            chosen()
        else:
            self._task.add_done_callback(chosen)

    def time_remaining(self) -> float | None:
        inner = self._inner()
        return inner.time_remaining() if inner is not None else None

    async def _settled(self) -> Any:
        if not self._task.done():
            await asyncio.wait([self._task])
        inner = self._inner()
        if inner is not None:
            return inner
        return self._failure() or asyncio.CancelledError()

    async def initial_metadata(self) -> aio.Metadata:
        outcome = await self._settled()
        if isinstance(outcome, aio.AioRpcError):
            return outcome.initial_metadata() or aio.Metadata()
        return aio.Metadata() if isinstance(outcome, BaseException) else await outcome.initial_metadata()

    async def trailing_metadata(self) -> aio.Metadata:
        outcome = await self._settled()
        if isinstance(outcome, aio.AioRpcError):
            return outcome.trailing_metadata() or aio.Metadata()
        return aio.Metadata() if isinstance(outcome, BaseException) else await outcome.trailing_metadata()

    async def code(self) -> StatusCode:
        outcome = await self._settled()
        if isinstance(outcome, aio.AioRpcError):
            return outcome.code()
        if isinstance(outcome, asyncio.CancelledError):
            return StatusCode.CANCELLED
        return StatusCode.UNKNOWN if isinstance(outcome, BaseException) else await outcome.code()

    async def details(self) -> str:
        outcome = await self._settled()
        if isinstance(outcome, aio.AioRpcError):
            return outcome.details() or ""
        if isinstance(outcome, asyncio.CancelledError):
            return LOCALLY_CANCELLED
        return str(outcome) if isinstance(outcome, BaseException) else await outcome.details() or ""

    async def debug_error_string(self) -> str:
        outcome = await self._settled()
        if isinstance(outcome, aio.AioRpcError):
            return outcome.debug_error_string() or ""
        return ""

    async def wait_for_connection(self) -> None:
        inner = await self._task
        await inner.wait_for_connection()


class _AwaitedResponse(_InterceptedCall):
    def __await__(self) -> Generator[Any, None, Any]:
        inner = yield from self._task.__await__()
        response = yield from inner.__await__()
        return response


class _StreamedResponses(_InterceptedCall):
    _responses: AsyncIterator[Any] | None = None
    _exhausted = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._exhausted:
            raise StopAsyncIteration
        try:
            if self._responses is None:
                self._responses = aiter(await self._task)
            return await anext(self._responses)
        except BaseException:
            self._exhausted = True
            raise

    async def read(self) -> Any:
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return aio.EOF


class RequestQueue:
    """Requests that ``write`` gives, as the iterator that interceptors expect; one waits at most."""

    _END = object()

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (request := await self._queue.get()) is not self._END:
            yield request

    async def put(self, request: Any, call: Any) -> None:
        """Hand a request over; raises when the call is over before it was taken."""
        if self._ended and not call.done():
            raise asyncio.InvalidStateError(HALF_CLOSED)
        await self._put(request, call)

    async def end(self, call: Any) -> None:
        """Say that there are no more; idempotent, and nothing to do for a call that is over."""
        if not self._ended and not call.done():
            self._ended = True
            with contextlib.suppress(asyncio.InvalidStateError):
                await self._put(self._END, call)

    async def _put(self, item: Any, call: Any) -> None:
        if call.done():
            raise asyncio.InvalidStateError(ALREADY_FINISHED)
        if not self._queue.full():
            self._queue.put_nowait(item)
            return
        over = asyncio.ensure_future(call.code())
        handed = asyncio.ensure_future(self._queue.put(item))
        try:
            await asyncio.wait([over, handed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            handed.cancel()
        if call.done():
            raise asyncio.InvalidStateError(ALREADY_FINISHED)


class _StreamedRequests(_InterceptedCall):
    def __init__(
        self, run: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop, queue: RequestQueue | None
    ) -> None:
        """``queue`` is what ``write`` fills; None when the requests come from the application's iterator."""
        super().__init__(run, loop)
        self._queue = queue

    def __del__(self) -> None:
        # Nobody will write into the queue any more, and the chosen call would wait for it for ever.
        waiting = self._inner() if self._task.done() else self._task
        if self._queue is not None and waiting is not None and not waiting.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(waiting.cancel)

    async def write(self, request: Any) -> None:
        await self._writable().put(request, await self._chosen())

    async def done_writing(self) -> None:
        await self._writable().end(await self._chosen())

    def _writable(self) -> RequestQueue:
        if self._queue is None:
            raise aio.UsageError(MIXED_STYLES)
        return self._queue

    async def _chosen(self) -> Any:
        try:
            return await asyncio.shield(self._task)
        except (asyncio.CancelledError, aio.AioRpcError) as error:
            if not self._task.done():
                raise
            raise asyncio.InvalidStateError(ALREADY_FINISHED) from error


class InterceptedUnaryUnaryCall(_AwaitedResponse, aio.UnaryUnaryCall[Any, Any]):
    """A unary call behind interceptors."""


class InterceptedUnaryStreamCall(_StreamedResponses, aio.UnaryStreamCall[Any, Any]):
    """A call with a stream of responses behind interceptors."""


class InterceptedStreamUnaryCall(_StreamedRequests, _AwaitedResponse, aio.StreamUnaryCall[Any, Any]):
    """A call with a stream of requests behind interceptors."""


class InterceptedStreamStreamCall(_StreamedRequests, _StreamedResponses, aio.StreamStreamCall[Any, Any]):
    """A call with streams both ways behind interceptors."""


class ResponseIteratorCall:
    """A call whose responses an interceptor gives, in place of those of the call that it made."""

    def __init__(self, call: Any, responses: AsyncIterable[Any]) -> None:
        self._call = call
        self._responses = responses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __aiter__(self) -> AsyncIterator[Any]:
        return aiter(self._responses)


Continuation = Callable[[aio.ClientCallDetails, Any], Coroutine[Any, Any, Any]]


class Interception:
    """One call on its way through the interceptors of its kind."""

    def __init__(
        self,
        methods: Sequence[Callable[[Continuation, aio.ClientCallDetails, Any], Coroutine[Any, Any, Any]]],
        start: Callable[[aio.ClientCallDetails, Any], Any],
        *,
        streams_responses: bool,
    ) -> None:
        """``methods``: the bound ``intercept_...`` methods, outermost first; ``start`` makes the call itself."""
        self._methods = methods
        self._start = start
        self._streams_responses = streams_responses
        self._last: Any = None

    async def run(self, details: aio.ClientCallDetails, request: Any, at: int = 0) -> Any:
        """Return the call that the interceptors from position ``at`` on choose."""
        if at == len(self._methods):
            self._last = self._start(details, request)
            return self._last

        async def proceed(next_details: aio.ClientCallDetails, next_request: Any) -> Any:
            return await self.run(next_details, next_request, at + 1)

        outcome = await self._methods[at](proceed, details, request)
        if not isinstance(outcome, (aio.Call, ResponseIteratorCall)):
            # What is no call is the response, or the responses, that the interceptor gives instead.
            responded = RespondedCall(outcome)
            outcome = ResponseIteratorCall(self._last or responded, outcome) if self._streams_responses else responded
        self._last = outcome
        return outcome
