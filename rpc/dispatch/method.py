"""Adapts one ``grpc.RpcMethodHandler`` to a ``Handler``: messages, exceptions, threads, for all four kinds of call."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any

import grpc

from rpc.call import Call, Handler
from rpc.context import Codec, HandlerMetadataError, ServicerContext
from rpc.deadline import current_deadline
from rpc.dispatch.threads import Behavior, in_thread, responses_in_thread
from rpc.method import MethodInfo
from rpc.status import Refusal, StatusCode, StatusError

logger = logging.getLogger(__name__)

Run = Callable[[Any, ServicerContext], Any]
MakeContext = Callable[[Call, Codec], ServicerContext]

_END_OF_PROCESS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends more than a call. Any other exception is the method's, also where it is no ``Exception``."""


def method_handler(
    handler: grpc.RpcMethodHandler[Any, Any],
    info: MethodInfo,
    executor: Executor | None,
    make_context: MakeContext = ServicerContext,
) -> Handler:
    """Adapt a method, once, when a server is built.

    ``executor`` runs plain functions; None is the event loop's default pool. ``make_context`` makes what the method
    sees of its call.
    """
    requests, responses = bool(handler.request_streaming), bool(handler.response_streaming)
    # One message where there may be many is fine: an interceptor that refuses calls has such a handler for every kind.
    if (requests and not info.client_streaming) or (responses and not info.server_streaming):
        return _unimplemented(f"{info.full_name} is registered as a method with streams, unlike its .proto says")
    behavior: Behavior | None = {
        (False, False): handler.unary_unary,
        (False, True): handler.unary_stream,
        (True, False): handler.stream_unary,
        (True, True): handler.stream_stream,
    }[requests, responses]
    if behavior is None:
        return _unimplemented(f"{info.full_name} has no implementation")
    codec = Codec(info, handler.request_deserializer, handler.response_serializer)
    if info.is_unary:
        run = behavior if _is_async(behavior) else in_thread(behavior, executor)
        return _Serving(info, codec, make_context).unary(run)
    if responses:
        run = _async_responses(behavior) if _is_async(behavior) else responses_in_thread(behavior, executor)
    else:
        run = behavior if _is_async(behavior) else in_thread(behavior, executor)
    return _Serving(info, codec, make_context).streaming(run, requests=requests, responses=responses)


class _Serving:
    """What is common to all calls of one method."""

    def __init__(self, info: MethodInfo, codec: Codec, make_context: MakeContext) -> None:
        self._info = info
        self._codec = codec
        self._make_context = make_context

    def unary(self, run: Run) -> Handler:
        """Serve one request with one response; ``run(request, context)`` gives the response."""
        codec, info, make_context = self._codec, self._info, self._make_context

        async def serve_unary(call: Call) -> None:
            data = call.request if call.stream is None else await call.receive()
            if data is None:
                raise StatusError(StatusCode.INTERNAL, "the request has no message")
            request = codec.decode(data)
            current_deadline.set(call.deadline)
            context = make_context(call, codec)
            try:
                response = await run(request, context)
                context.raise_for_status()
            except Refusal as error:
                raise started(error) from error
            except (StatusError, asyncio.CancelledError, *_END_OF_PROCESS):
                raise
            except BaseException as error:
                raise _status_of(error, context, info) from error
            finally:
                context.finish()
            call.response = codec.encode(response)

        return serve_unary

    def streaming(self, run: Run, *, requests: bool, responses: bool) -> Handler:
        """Serve a call with streams.

        ``run`` takes the iterator of ``requests``, or the first one; it gives the response, or sends the ``responses``
        through the context.
        """
        codec, info, make_context = self._codec, self._info, self._make_context

        async def serve_streaming(call: Call) -> None:
            current_deadline.set(call.deadline)
            context = make_context(call, codec)
            request: Any
            if requests:
                request = _requests(context)
            else:
                data = await call.receive()
                if data is None:
                    raise StatusError(StatusCode.INTERNAL, "the request has no message")
                request = codec.decode(data)
            try:
                response = await run(request, context)
                context.raise_for_status()
            except Refusal as error:
                raise started(error) from error
            except (StatusError, asyncio.CancelledError, *_END_OF_PROCESS):
                raise
            except BaseException as error:
                raise _status_of(error, context, info) from error
            finally:
                context.finish()
            if not responses:
                await call.send(codec.encode(response))

        return serve_streaming


def started(refusal: Refusal) -> StatusError:
    """Return the status for a refusal that ended a method: it was of a call that the method made, not of its own."""
    return StatusError(refusal.code, refusal.details)


def _status_of(error: BaseException, context: ServicerContext, info: MethodInfo) -> StatusError:
    """Return the status for an exception that the handler did not mean as one."""
    if context.aborted is not None:
        return context.aborted
    logger.error("unexpected exception in %s", info.full_name, exc_info=error)
    if isinstance(error, HandlerMetadataError):
        return StatusError(StatusCode.INTERNAL, f"{info.full_name} gave metadata that cannot be sent")
    code = context.code()
    if code is not None and code is not StatusCode.OK:
        return StatusError(code, context.details())
    # The text stays here: it may hold what callers must not see.
    return StatusError(StatusCode.UNKNOWN, f"Unexpected exception in {info.full_name}")


def _unimplemented(details: str) -> Handler:
    async def refuse(_call: Call) -> None:
        raise StatusError(StatusCode.UNIMPLEMENTED, details)

    return refuse


def _is_async(behavior: Behavior) -> bool:
    call = getattr(behavior, "__call__", None)  # noqa: B004 - a callable object with an async __call__ is one, too
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function) for function in (behavior, call)
    )


async def _requests(context: ServicerContext) -> AsyncIterator[Any]:
    """The request iterator of a coroutine method, which may also leave it alone and use ``context.read()``."""
    while (message := await context.next_request()) is not None:
        yield message


def _async_responses(behavior: Behavior) -> Run:
    async def run(request: Any, context: ServicerContext) -> None:
        outcome = behavior(request, context)
        if inspect.isasyncgen(outcome):
            # Closed here, and not when it is collected: its ``finally`` runs before the call is over.
            async with aclosing(outcome) as responses:
                async for response in responses:
                    await context.write(response)
        elif hasattr(outcome, "__aiter__"):
            async for response in outcome:
                await context.write(response)
        else:
            await outcome  # It writes by context.write().

    return run
