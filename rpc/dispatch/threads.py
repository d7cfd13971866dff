"""Methods that are plain functions: they run in a thread pool and see the same call from there.

Each call has one thread from its beginning to its end, whatever streams it has: what a method keeps in its thread (a
connection of sqlite3, for one) stays usable, as in grpc.aio.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from typing import Any

from rpc.context import ServicerContext, SyncServicerContext

Behavior = Callable[[Any, Any], Any]
Run = Callable[[Any, ServicerContext], Coroutine[Any, Any, Any]]


def in_thread(behavior: Behavior, executor: Executor | None) -> Run:
    """Adapt a function that returns the response; ``executor`` None is the event loop's default pool."""

    async def run(request: Any, context: ServicerContext) -> Any:
        loop = asyncio.get_running_loop()
        if hasattr(request, "__aiter__"):
            request = _BlockingRequests(context, loop)
        # The thread sees the context variables of the call: its deadline, its span.
        variables = contextvars.copy_context()
        sync_context = context.for_thread(loop)
        return await loop.run_in_executor(executor, variables.run, _call, behavior, request, sync_context)

    return run


def responses_in_thread(behavior: Behavior, executor: Executor | None) -> Run:
    """Adapt a generator, or a function that returns an iterator of responses."""

    async def run(request: Any, context: ServicerContext) -> None:
        loop = asyncio.get_running_loop()

        def produce(request: Any, sync_context: SyncServicerContext) -> None:
            responses = iter(behavior(request, sync_context))
            try:
                for response in responses:
                    asyncio.run_coroutine_threadsafe(context.write(response), loop).result()
            finally:
                if hasattr(responses, "close"):
                    responses.close()  # Its ``finally`` runs now, also when the call is over before its last response.

        await in_thread(produce, executor)(request, context)

    return run


def _call(behavior: Behavior, request: Any, context: SyncServicerContext) -> Any:
    try:
        return behavior(request, context)
    except StopIteration as error:
        # No future can carry it: who awaits one would wait for ever.
        raise RuntimeError("the method raised StopIteration") from error


class _BlockingRequests(Iterator[Any]):
    """The requests of a stream, for a thread: each step waits for the event loop."""

    def __init__(self, context: ServicerContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop

    def __next__(self) -> Any:
        message = asyncio.run_coroutine_threadsafe(self._context.next_request(), self._loop).result()
        if message is None:
            raise StopIteration
        return message
