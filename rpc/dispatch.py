"""Turns the method handlers that generated code registers into ``Handler``s.

Here, and nowhere else on the server's side, bytes become messages and a servicer's exceptions become statuses.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

import grpc
from grpc import aio

from rpc.call import Call, Handler
from rpc.context import ServicerContext, SyncServicerContext
from rpc.deadline import current_deadline
from rpc.metadata import Metadata
from rpc.method import MethodInfo
from rpc.status import StatusCode, StatusError

logger = logging.getLogger(__name__)

Behavior = Callable[[Any, Any], Any]


def method_handler(handler: grpc.RpcMethodHandler[Any, Any], info: MethodInfo, executor: Executor | None) -> Handler:
    """Adapt one ``grpc.RpcMethodHandler``, once, when a server is built.

    ``executor`` runs plain functions; None is the event loop's default pool.
    """
    if handler.request_streaming or handler.response_streaming:
        return _unimplemented(f"{info.full_name} is a streaming method; this version carries unary calls only")
    behavior: Behavior | None = handler.unary_unary
    if behavior is None:
        return _unimplemented(f"{info.full_name} has no implementation")
    if not _is_coroutine_function(behavior):
        behavior = _in_thread(behavior, executor)
    deserialize: Callable[[bytes], Any] = handler.request_deserializer or _identity
    serialize: Callable[[Any], bytes] = handler.response_serializer or _identity

    async def serve_unary(call: Call) -> None:
        try:
            request = deserialize(call.request)
        except Exception:
            logger.warning("a request of %s could not be deserialized", info.full_name, exc_info=True)
            raise StatusError(StatusCode.INTERNAL, "Exception deserializing request!") from None
        current_deadline.set(call.deadline)
        context = ServicerContext(call)
        try:
            response = await behavior(request, context)
            context.raise_for_status()
        except StatusError:
            raise
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise _status_of(error, context, info) from error
        finally:
            context.finish()
        try:
            call.response = serialize(response)
        except Exception:
            logger.exception("%s returned %s, which cannot be serialized", info.full_name, type(response).__name__)
            raise StatusError(StatusCode.INTERNAL, "Exception serializing response!") from None

    return serve_unary


def _status_of(error: Exception, context: ServicerContext, info: MethodInfo) -> StatusError:
    """Return the status for an exception that the handler did not mean as one."""
    if context.aborted is not None:
        return context.aborted
    logger.error("unexpected exception in %s", info.full_name, exc_info=error)
    code = context.code()
    if code is not None and code is not StatusCode.OK:
        return StatusError(code, context.details())
    # The text stays here: it may hold what callers must not see.
    return StatusError(StatusCode.UNKNOWN, f"Unexpected exception in {info.full_name}")


def _identity(message: bytes) -> bytes:
    return message


def _unimplemented(details: str) -> Handler:
    async def refuse(_call: Call) -> None:
        raise StatusError(StatusCode.UNIMPLEMENTED, details)

    return refuse


def _is_coroutine_function(behavior: Behavior) -> bool:
    return inspect.iscoroutinefunction(behavior) or inspect.iscoroutinefunction(getattr(behavior, "__call__", None))  # noqa: B004 - a callable object with an async __call__ is one too


def _in_thread(behavior: Behavior, executor: Executor | None) -> Behavior:
    async def run(request: Any, context: ServicerContext) -> Any:
        loop = asyncio.get_running_loop()
        # The thread sees the context variables of the call: its deadline, its span.
        variables = contextvars.copy_context()
        return await loop.run_in_executor(
            executor, variables.run, behavior, request, SyncServicerContext(context, loop)
        )

    return run


class HandlerCallDetails(grpc.HandlerCallDetails):
    """What server interceptors learn of a call: ``method`` (the path) and ``invocation_metadata``."""

    __slots__ = ("invocation_metadata", "method")

    def __init__(self, method: str, invocation_metadata: Metadata) -> None:
        self.method = method
        self.invocation_metadata = invocation_metadata


Resolver = Callable[[HandlerCallDetails], "grpc.RpcMethodHandler[Any, Any] | None"]


def intercepted(
    resolve: Resolver,
    interceptors: Sequence[aio.ServerInterceptor],
    info: MethodInfo,
    executor: Executor | None,
) -> Handler:
    """Return a Handler that resolves the method anew for each call, through ``grpc.aio.ServerInterceptor``s.

    Interceptors may choose another handler for each call: that is their contract in grpc.aio.
    """

    async def innermost(details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return resolve(HandlerCallDetails(details.method, tuple(details.invocation_metadata)))

    chain: Callable[[grpc.HandlerCallDetails], Awaitable[Any]] = innermost
    for interceptor in reversed(interceptors):
        chain = _link(interceptor, chain)

    async def serve(call: Call) -> None:
        details = HandlerCallDetails(info.path, call.metadata)
        try:
            chosen = await chain(details)
        except StatusError:
            raise
        except Exception as error:
            logger.exception("a server interceptor raised in %s", info.full_name)
            raise StatusError(StatusCode.UNKNOWN, f"Unexpected exception in {info.full_name}") from error
        if chosen is None:
            raise StatusError(StatusCode.UNIMPLEMENTED, "Method not found!")
        await method_handler(chosen, info, executor)(call)

    return serve


def _link(
    interceptor: aio.ServerInterceptor, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]]
) -> Callable[[grpc.HandlerCallDetails], Awaitable[Any]]:
    def call(details: grpc.HandlerCallDetails) -> Awaitable[Any]:
        return interceptor.intercept_service(continuation, details)

    return call


def first_match(handlers: Iterable[grpc.GenericRpcHandler], details: HandlerCallDetails) -> Any:
    """Return the first handler that a list of generic handlers gives for a call, or None."""
    for generic in handlers:
        found = generic.service(details)
        if found is not None:
            return found
    return None
