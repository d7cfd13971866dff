"""Call objects behind client interceptors, as in grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from grpc import aio

from rpc.client_calls.base import LOCALLY_CANCELLED
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
