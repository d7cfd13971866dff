"""Call objects: what a stub's method returns before the answer is there, as in ``grpc.aio.UnaryUnaryCall``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import grpc
from grpc import aio

from rpc.call import Call, Handler
from rpc.metadata import Metadata
from rpc.status import StatusCode, StatusError

logger = logging.getLogger(__name__)

LOCALLY_CANCELLED = "Locally cancelled by application!"
"""The text that grpc.aio gives."""


def aio_metadata(metadata: Metadata) -> aio.Metadata:
    """Return metadata in the class that grpc.aio's users get."""
    return aio.Metadata(*metadata)


class UnaryUnaryCall(aio.UnaryUnaryCall[Any, Any]):
    """A unary call that is under way. Awaiting it gives the response or raises ``grpc.aio.AioRpcError``."""

    def __init__(
        self,
        handler: Handler,
        call: Call,
        request: Any,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._call = call
        self._error: StatusError | None = None
        self._response: Any = None
        self._loop = loop
        self._locally_cancelled = False
        self._task: asyncio.Task[None] = loop.create_task(self._run(handler, request, serializer, deserializer))

    async def _run(
        self,
        handler: Handler,
        request: Any,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
    ) -> None:
        call = self._call
        try:
            if serializer is not None:
                call.request = _convert(serializer, request, "serializing request")
            else:
                call.request = request
            await handler(call)
            if deserializer is not None:
                self._response = _convert(deserializer, call.response, "deserializing response")
            else:
                self._response = call.response
        except StatusError as error:
            self._error = error
            self._locally_cancelled = call.cancelled is not None and error.code is StatusCode.CANCELLED
        except asyncio.CancelledError:
            # A task does not keep its CancelledError; the status is what code() and details() report.
            self._locally_cancelled = True
            self._error = StatusError(StatusCode.CANCELLED, LOCALLY_CANCELLED)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            yield from self._task.__await__()
        except asyncio.CancelledError:
            self._mark_cancelled()
            raise
        if self._error is not None:
            if self._locally_cancelled:
                raise asyncio.CancelledError
            raise self._rpc_error(self._error)
        return self._response

    def _rpc_error(self, error: StatusError) -> aio.AioRpcError:
        return aio.AioRpcError(
            error.code,
            aio_metadata(self._call.initial_metadata),
            aio_metadata(self._call.trailing_metadata),
            error.details,
            f"{self._call.info.full_name}, attempt {self._call.attempt}: {error.code.name}: {error.details}",
        )

    def cancel(self) -> bool:
        """Cancel the call, here and in the back-end. Returns False when it is over already."""
        if self._task.done() or self._locally_cancelled:
            return False
        self._mark_cancelled()
        self._task.cancel()
        return True

    def _mark_cancelled(self) -> None:
        if not self._task.done() or self._task.cancelled():
            self._locally_cancelled = True
            self._error = StatusError(StatusCode.CANCELLED, LOCALLY_CANCELLED)

    def cancelled(self) -> bool:
        """Return True when the call ended with CANCELLED."""
        return self.done() and self._error is not None and self._error.code is StatusCode.CANCELLED

    def done(self) -> bool:
        """Return True when the call is over."""
        return self._task.done() or self._locally_cancelled

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, at least 0, or None when there is none."""
        return None if self._call.deadline is None else max(0.0, self._call.deadline - self._loop.time())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback(call)`` when the call is over."""
        self._task.add_done_callback(lambda _task: callback(self))

    async def _finished(self) -> None:
        if not self._task.done():
            await asyncio.wait([self._task])

    async def initial_metadata(self) -> aio.Metadata:
        """Return the back-end's initial metadata (a unary call has it in its reply)."""
        await self._finished()
        return aio_metadata(self._call.initial_metadata)

    async def trailing_metadata(self) -> aio.Metadata:
        """Return the metadata that came with the status."""
        await self._finished()
        return aio_metadata(self._call.trailing_metadata)

    async def code(self) -> StatusCode:
        """Return the status code, once the call is over."""
        await self._finished()
        return StatusCode.OK if self._error is None else self._error.code

    async def details(self) -> str:
        """Return the text of the status, once the call is over."""
        await self._finished()
        return "" if self._error is None else self._error.details

    async def debug_error_string(self) -> str:
        """Return a text for people who look into an error."""
        await self._finished()
        return "" if self._error is None else str(self._rpc_error(self._error).debug_error_string())

    async def wait_for_connection(self) -> None:
        """Return when the call got through, which for a unary call is its end. Raises like awaiting it."""
        await self._finished()
        if self._error is not None:
            if self._locally_cancelled:
                raise asyncio.CancelledError
            raise self._rpc_error(self._error)


def _convert(function: Callable[[Any], Any], value: Any, what: str) -> Any:
    try:
        return function(value)
    except Exception as error:
        logger.exception("exception while %s", what)
        raise StatusError(StatusCode.INTERNAL, f"Exception {what}!") from error


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


class InterceptedUnaryUnaryCall(aio.UnaryUnaryCall[Any, Any]):
    """A call behind client interceptors: they run in a task, which ends with the call they chose."""

    def __init__(self, run: Coroutine[Any, Any, aio.UnaryUnaryCall[Any, Any]], loop: asyncio.AbstractEventLoop) -> None:
        self._task: asyncio.Task[aio.UnaryUnaryCall[Any, Any]] = loop.create_task(run)
        self._callbacks: list[Callable[[Any], None]] = []
        self._task.add_done_callback(self._interceptors_ended)

    def _interceptors_ended(self, task: asyncio.Task[Any]) -> None:
        inner = self._inner()
        if inner is None:
            if not task.cancelled():
                task.exception()  # It is raised to whoever awaits the call; asyncio need not complain if nobody does.
            self._run_callbacks()
        else:
            inner.add_done_callback(lambda _inner: self._run_callbacks())

    def _run_callbacks(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def _inner(self) -> aio.UnaryUnaryCall[Any, Any] | None:
        if not self._task.done() or self._task.cancelled() or self._task.exception() is not None:
            return None
        return self._task.result()

    def _failure(self) -> BaseException | None:
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None

    def __await__(self) -> Generator[Any, None, Any]:
        inner = yield from self._task.__await__()
        response = yield from inner.__await__()
        return response

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
        if self.done():
            callback(self)
        else:
            self._callbacks.append(callback)

    def time_remaining(self) -> float | None:
        inner = self._inner()
        return inner.time_remaining() if inner is not None else None

    async def _settled(self) -> aio.UnaryUnaryCall[Any, Any] | BaseException:
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


def check_credentials(credentials: grpc.CallCredentials | None) -> None:
    """Raise for per-call credentials, which need a channel security that is not there."""
    if credentials is not None:
        raise aio.UsageError("Call credentials are only valid on secure channels; send tokens as metadata instead")
