"""What a handler of a job or of events sees of its call, besides what every handler sees."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from rpc.call import Call
from rpc.context import Codec, ServicerContext, SyncServicerContext
from rpc.metadata import STATUS_DETAILS_KEY, Metadata
from rpc.status import StatusCode

if TYPE_CHECKING:
    from rpc.jetstream.pull import PulledMessage


LONGEST_DELAY = 3650 * 86400.0
"""Seconds; whoever asks for more gets that."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event as it was delivered."""

    id: str
    """The id that its publisher gave it, or that it got."""
    sequence: int
    """Its place in the stream of its type: unique, increasing, and the same whenever it is delivered."""
    published: float
    """When the broker stored it, in Unix seconds."""
    attempt: int
    """How often it was delivered to this group, this time included."""


class DeliveredCall(Call):
    """A call that came out of a queue."""

    __slots__ = ("attempt_number", "deliveries", "job_id", "messages", "operation", "report")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.attempt_number = 1
        self.job_id = ""
        self.operation = ""
        self.deliveries: Sequence[Delivery] = ()
        self.messages: Sequence[PulledMessage] = ()
        """What was delivered: one message, or those of a batch."""
        self.report: Callable[[Any], Awaitable[None]] | None = None


class DeliveryContext(ServicerContext):
    """The context of a call that came out of a queue: it can go back there, for later."""

    _call: DeliveredCall

    def __init__(self, call: Call, codec: Codec) -> None:
        super().__init__(call, codec)

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._call.attempt_number

    async def retry_later(self, delay: float, details: str = "") -> NoReturn:
        """End the call: it goes back into the queue for ``delay`` seconds. It counts as a failed attempt.

        The same as aborting with UNAVAILABLE and a ``google.rpc.RetryInfo`` among the details.
        """
        self.retry_later_now(delay, details)

    def retry_later_now(self, delay: float, details: str = "") -> NoReturn:
        """Do what ``retry_later`` does, from code that cannot await."""
        wait = duration_pb2.Duration()
        wait.FromNanoseconds(int(max(0.0, delay) * 1e9))
        text = details or f"not now: again in {delay:g} s"
        status = status_pb2.Status(code=code_pb2.UNAVAILABLE, message=text)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=wait))
        self.abort_now(StatusCode.UNAVAILABLE, text, ((STATUS_DETAILS_KEY, status.SerializeToString()),))


class JobContext(DeliveryContext):
    """The context of a durable job's handler."""

    @property
    def job_id(self) -> str:
        """The job's id, the same at every attempt."""
        return self._call.job_id

    @property
    def operation(self) -> str:
        """The name of its operation."""
        return self._call.operation

    async def report(self, progress: Any) -> None:
        """Make progress known: a message of the ``metadata_type``, the operation's metadata from now on."""
        if self._call.report is not None:
            await self._call.report(progress)

    def for_thread(self, loop: asyncio.AbstractEventLoop) -> SyncServicerContext:
        """Return this context for a handler that is a plain function."""
        return SyncJobContext(self, loop)


class EventContext(DeliveryContext):
    """The context of a handler of events."""

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """The events of this call, in their order: one, or those of the batch."""
        return self._call.deliveries

    def for_thread(self, loop: asyncio.AbstractEventLoop) -> SyncServicerContext:
        """Return this context for a handler that is a plain function."""
        return SyncEventContext(self, loop)


class SyncJobContext(SyncServicerContext):
    """``JobContext``, seen from a thread."""

    _context: JobContext

    @property
    def attempt(self) -> int:
        """See ``DeliveryContext``."""
        return self._context.attempt

    @property
    def job_id(self) -> str:
        """See ``JobContext``."""
        return self._context.job_id

    @property
    def operation(self) -> str:
        """See ``JobContext``."""
        return self._context.operation

    def report(self, progress: Any) -> None:
        """See ``JobContext``."""
        asyncio.run_coroutine_threadsafe(self._context.report(progress), self._loop).result()

    def retry_later(self, delay: float, details: str = "") -> NoReturn:
        """See ``DeliveryContext``."""
        self._context.retry_later_now(delay, details)


class SyncEventContext(SyncServicerContext):
    """``EventContext``, seen from a thread."""

    _context: EventContext

    @property
    def attempt(self) -> int:
        """See ``DeliveryContext``."""
        return self._context.attempt

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """See ``EventContext``."""
        return self._context.deliveries

    def retry_later(self, delay: float, details: str = "") -> NoReturn:
        """See ``DeliveryContext``."""
        self._context.retry_later_now(delay, details)


def retry_delay(trailing_metadata: Metadata) -> float | None:
    """Return the delay that a status asks for (``google.rpc.RetryInfo``), None when it asks for none."""
    for key, value in trailing_metadata:
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
                for detail in status.details:
                    info = error_details_pb2.RetryInfo()
                    if detail.Unpack(info):
                        return min(LONGEST_DELAY, max(0.0, float(info.retry_delay.ToNanoseconds()) / 1e9))
            except ValueError:  # DecodeError is one
                return None
    return None


def is_unwritten(handler: grpc.RpcMethodHandler[Any, Any]) -> bool:
    """Return whether a handler is the one that generated code has for every method, which answers UNIMPLEMENTED."""
    behavior: Any = handler.unary_unary or handler.stream_unary
    function = getattr(behavior, "__func__", None)
    if function is None:
        return False
    owner = function.__qualname__.partition(".")[0]
    return bool(function.__module__.endswith("_pb2_grpc") and owner.endswith("Servicer"))


def result_handler(handler: grpc.RpcMethodHandler[Any, Any], response_type: str) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a job's method handler that gives the bytes of the result, not of an Operation.

    A result of another type than ``response_type`` is an error.
    """

    def serialize(result: Any) -> bytes:
        if result.DESCRIPTOR.full_name != response_type:
            raise TypeError(f"the handler returned {result.DESCRIPTOR.full_name} instead of {response_type}")
        data: bytes = result.SerializeToString()
        return data

    behavior: Any = handler.unary_unary
    return grpc.unary_unary_rpc_method_handler(behavior, handler.request_deserializer, serialize)
