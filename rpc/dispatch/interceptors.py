"""``grpc.aio.ServerInterceptor``s: they choose the method handler of each call anew."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

import grpc
from grpc import aio

from rpc.call import Call, Handler
from rpc.context import ServicerContext
from rpc.deadline import current_deadline
from rpc.dispatch.method import MakeContext, method_handler, started
from rpc.metadata import Metadata
from rpc.method import MethodInfo
from rpc.status import Refusal, StatusCode, StatusError

logger = logging.getLogger(__name__)


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
    make_context: MakeContext = ServicerContext,
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
        current_deadline.set(call.deadline)
        try:
            chosen = await chain(details)
        except Refusal as error:
            raise started(error) from error
        except StatusError:
            raise
        except Exception as error:
            logger.exception("a server interceptor raised in %s", info.full_name)
            raise StatusError(StatusCode.UNKNOWN, f"Unexpected exception in {info.full_name}") from error
        if chosen is None:
            raise StatusError(StatusCode.UNIMPLEMENTED, "Method not found!")
        await method_handler(chosen, info, executor, make_context)(call)

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
