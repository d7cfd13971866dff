"""The call object of a unary method, in the shape of ``grpc.aio.UnaryUnaryCall``."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from grpc import aio

from rpc.call import Call, Handler
from rpc.client_calls.base import LOCALLY_CANCELLED, CallBase, Deserializer, Serializer, convert
from rpc.status import StatusCode, StatusError


class UnaryUnaryCall(CallBase, aio.UnaryUnaryCall[Any, Any]):
    """A unary call that is under way. Awaiting it gives the response or raises ``grpc.aio.AioRpcError``."""

    def __init__(
        self,
        handler: Handler,
        call: Call,
        request: Any,
        serializer: Serializer | None,
        deserializer: Deserializer | None,
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
        serializer: Serializer | None,
        deserializer: Deserializer | None,
    ) -> None:
        call = self._call
        try:
            call.request = convert(serializer, request, "serializing request")
            await handler(call)
            self._response = convert(deserializer, call.response, "deserializing response")
        except StatusError as error:
            self._ended_with(error)
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
        self._raise_error()
        return self._response

    async def wait_for_connection(self) -> None:
        """Return when the call got through, which for a unary call is its end. Raises like awaiting it."""
        await self._finished()
        self._raise_error()
