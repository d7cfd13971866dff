"""What all call objects share: how a call ends, and how its messages become bytes and back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
from grpc import aio

from rpc.call import Call
from rpc.metadata import Metadata
from rpc.status import StatusCode, StatusError

logger = logging.getLogger(__name__)

Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]

# The texts that grpc.aio gives.
LOCALLY_CANCELLED = "Locally cancelled by application!"
ALREADY_FINISHED = "RPC already finished."
HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
MIXED_STYLES = "The iterator and read/write APIs may not be mixed on a single RPC."


def aio_metadata(metadata: Metadata) -> aio.Metadata:
    """Return metadata in the class that grpc.aio's users get."""
    return aio.Metadata(*metadata)


def convert(function: Callable[[Any], Any] | None, value: Any, what: str) -> Any:
    """Serialize or deserialize; a failure is INTERNAL, as in grpc. Raises ``StatusError``."""
    if function is None:
        return value
    try:
        return function(value)
    except Exception as error:
        logger.exception("exception while %s", what)
        raise StatusError(StatusCode.INTERNAL, f"Exception {what}!") from error


class CallBase:
    """A call that a task carries: ``_task`` ends when the call has ended, and never raises."""

    _call: Call
    _task: asyncio.Task[None]
    _loop: asyncio.AbstractEventLoop
    _error: StatusError | None
    _locally_cancelled: bool

    def _ended_with(self, error: StatusError) -> None:
        self._error = error
        self._locally_cancelled = self._call.cancelled is not None and error.code is StatusCode.CANCELLED

    def _mark_cancelled(self) -> None:
        if not self._task.done() or self._task.cancelled():
            self._locally_cancelled = True
            self._error = StatusError(StatusCode.CANCELLED, LOCALLY_CANCELLED)

    def _raise_error(self) -> None:
        """Raise what the call ended with, if it was not OK."""
        if self._error is not None:
            if self._locally_cancelled:
                raise asyncio.CancelledError
            raise self._rpc_error(self._error)

    def _rpc_error(self, error: StatusError) -> aio.AioRpcError:
        return aio.AioRpcError(
            error.code,
            aio_metadata(self._call.initial_metadata),
            aio_metadata(self._call.trailing_metadata),
            error.details,
            f"{self._call.info.full_name}, attempt {self._call.attempt}: {error.code.name}: {error.details}",
        )

    async def _finished(self) -> None:
        if not self._task.done():
            await asyncio.wait([self._task])

    def cancel(self) -> bool:
        """Cancel the call, here and in the back-end. Returns False when it is over already."""
        if self._task.done() or self._locally_cancelled:
            return False
        self._mark_cancelled()
        self._task.cancel()
        return True

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


def check_credentials(credentials: grpc.CallCredentials | None) -> None:
    """Raise for per-call credentials, which need a channel security that is not there."""
    if credentials is not None:
        raise aio.UsageError("Call credentials are only valid on secure channels; send tokens as metadata instead")
