"""``rpc.Channel``: the shape of ``grpc.aio.Channel``, without an address.

A stub made on it calls whichever back-end NATS picks. Channels are cheap: all calls of one share a connection, an inbox
and a table.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import grpc
from grpc import aio

from rpc import telemetry
from rpc.call import Call
from rpc.client_calls import Deserializer, OpenCall, Serializer, check_credentials
from rpc.connections import as_connection
from rpc.deadline import current_deadline, earliest
from rpc.metadata import normalize
from rpc.method import MethodInfo
from rpc.multicallable import (
    CallOptions,
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
    method_info,
)
from rpc.options import is_compression, read_options
from rpc.policy import client_stack
from rpc.policy.deadline import Deadlines
from rpc.policy.retry import Retry
from rpc.stats import Stats
from rpc.status import Refusal, StatusCode, StatusError
from rpc.subjects import Subjects
from rpc.tasks import TaskSet
from rpc.transport.base import Connection
from rpc.transport.client import ClientTransport

if TYPE_CHECKING:
    from rpc.jobs.caller import JobCaller

_RECONNECT_PAUSE = 0.1

_INTERCEPTORS = {
    (False, False): (aio.UnaryUnaryClientInterceptor, "intercept_unary_unary"),
    (False, True): (aio.UnaryStreamClientInterceptor, "intercept_unary_stream"),
    (True, False): (aio.StreamUnaryClientInterceptor, "intercept_stream_unary"),
    (True, True): (aio.StreamStreamClientInterceptor, "intercept_stream_stream"),
}


class Channel(aio.Channel):
    """Calls services over NATS. Source of the semantics: ``grpc.aio.Channel``.

    It connects at the first call, or at ``async with``, or at ``channel_ready()``; it belongs to one event loop.
    """

    def __init__(
        self,
        target: str | Connection | None = None,
        *,
        options: Iterable[tuple[str, Any]] | None = None,
        credentials: object = None,
        compression: grpc.Compression | None = None,
        interceptors: Sequence[aio.ClientInterceptor] | None = None,
        prefix: str | None = None,
        retry: bool = True,
    ) -> None:
        """``target``: a NATS URL, or a connection that others use too; None is ``$NATS_URL`` or nats-server's default.

        ``options``: those of gRPC that mean something here, see ``rpc.options``. ``compression`` is gzip or none.
        ``prefix`` separates meshes on one NATS account; None is ``$NATSMESH_PREFIX``, or none.
        ``retry=False`` sends no call twice, whatever happens to it.
        """
        self._connection, self._owns_connection = as_connection(target)
        self._interceptors = tuple(interceptors or ())
        for interceptor in self._interceptors:
            if not isinstance(interceptor, aio.ClientInterceptor):
                raise TypeError(f"{interceptor!r} is not a grpc.aio.ClientInterceptor")
        self._options = read_options(options)
        self._compression = compression
        self._subjects = Subjects(prefix)
        self._jobs: JobCaller | None = None
        self._transport = ClientTransport(
            self._connection,
            self._subjects,
            max_message=self._options.max_receive,
            window=self._options.window,
            silence_limit=self._options.silence_limit,
        )
        self._starting = asyncio.Lock()
        self._tasks = TaskSet()
        self._started = False
        self._closed = False
        self._state_changed = asyncio.Event()
        self._remove_listener: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stats = Stats("client")
        """Numbers of the calls that were made, by method."""
        self.handler = client_stack(
            self._carry,
            measure=self.stats.interceptor(),
            trace=telemetry.client_interceptor(),
            deadlines=Deadlines(),
            retry=Retry() if retry else None,
        )
        """The stack that every call passes, as a ``Handler``."""

    # ---------------------------------------------------------------------------------------------- the call path

    async def invoke(self, call: Call) -> None:
        """Carry one unary call of bytes, for gateways and proxies: no stub, no call object, no task of its own.

        Raises ``StatusError``; the response and all metadata are on the call. Cancelling the awaiting task, or
        ``call.cancel()``, cancels the handler in the back-end.
        """
        await self.handler(call)

    def open(self, call: Call) -> OpenCall:
        """Return a call of bytes to be read and written message by message, for gateways and proxies; of any kind.

        ``async with channel.open(call) as opened:`` starts it, and cancels what is not over at the end of the block::

            while (message := await opened.read()) is not None: ...
            call.trailing_metadata
        """
        return OpenCall(self.handler, call)

    async def _carry(self, call: Call) -> None:
        """The innermost Handler: the transport, started when it is needed first."""
        if not self._started:
            await _until_cancelled(call, self._start(wait=call.wait_for_ready))
        elif call.wait_for_ready and not self._connection.is_connected and not self._closed:
            await _until_cancelled(call, self._connection.wait_connected())
        if call.info.is_on_jetstream:
            await (await self._job_caller())(call)
        else:
            await self._transport(call)

    async def _job_caller(self) -> JobCaller:
        """Return what carries calls that JetStream answers, made when it is needed first."""
        if self._jobs is None:
            from rpc.jobs.caller import JobCaller  # noqa: PLC0415 - most channels have no use for it

            jobs = JobCaller(self._connection, self._subjects)
            await jobs.start()
            if self._jobs is None:
                self._jobs = jobs
            else:  # Another call was as early.
                await jobs.close()
        return self._jobs

    async def _start(self, *, wait: bool = False) -> None:
        async with self._starting:
            while not self._started:
                if self._closed:
                    raise StatusError(StatusCode.CANCELLED, "the channel is closed")
                try:
                    await self._connection.connect()
                except ConnectionError as error:
                    if self._connection.is_closed:
                        raise StatusError(StatusCode.UNAVAILABLE, str(error)) from error  # It will not come back.
                    if not wait:
                        raise Refusal(str(error), "not-connected") from error
                    await asyncio.sleep(_RECONNECT_PAUSE)
                    continue
                if self._closed:
                    continue
                await self._transport.start()
                if self._closed:  # close() did not wait for us.
                    await self._transport.close()
                    continue
                self._remove_listener = self._connection.on_state_change(self._on_state_change)
                self._started = True
                self._on_state_change(True)

    # ---------------------------------------------------------------------------------------------------- methods

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnaryMultiCallable:
        """Return the callable of a unary method; generated stubs call it. ``method`` is ``/pkg.Service/Method``."""
        return UnaryUnaryMultiCallable(self, method_info(method), request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryStreamMultiCallable:
        """Return the callable of a method with a stream of responses."""
        info = method_info(method, server_streaming=True)
        return UnaryStreamMultiCallable(self, info, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> StreamUnaryMultiCallable:
        """Return the callable of a method with a stream of requests."""
        info = method_info(method, client_streaming=True)
        return StreamUnaryMultiCallable(self, info, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> StreamStreamMultiCallable:
        """Return the callable of a method with streams both ways."""
        info = method_info(method, client_streaming=True, server_streaming=True)
        return StreamStreamMultiCallable(self, info, request_serializer, response_deserializer)

    def new_call(self, info: MethodInfo, options: CallOptions) -> Call:
        """Return a call for ``handler``, with the deadline that the options and the running handler's call give."""
        timeout, metadata, credentials, wait_for_ready, compression = options
        check_credentials(credentials)
        if self._closed:
            raise aio.UsageError("Channel is closed.")
        deadline = current_deadline.get()
        if timeout is not None and timeout != math.inf:
            deadline = earliest(deadline, self.loop.time() + timeout)
        call = Call(
            info,
            metadata=normalize(metadata) if metadata else (),
            deadline=deadline,
            wait_for_ready=bool(wait_for_ready),
        )
        if compression is not None or self._compression is not None:
            call.compress = is_compression(self._compression if compression is None else compression)
        return call

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the channel belongs to: the one it was used on first."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def interceptors_of(self, info: MethodInfo) -> list[Any]:
        """Return the ``intercept_...`` methods that calls of this kind pass, outermost first."""
        kind, name = _INTERCEPTORS[info.client_streaming, info.server_streaming]
        return [getattr(one, name) for one in self._interceptors if isinstance(one, kind)]

    # ----------------------------------------------------------------------------------------------------- states

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the connection to NATS; ``try_to_connect`` starts to connect an idle channel."""
        if self._closed or self._connection.is_closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self._started:
            connected = self._connection.is_connected
            return grpc.ChannelConnectivity.READY if connected else grpc.ChannelConnectivity.TRANSIENT_FAILURE
        if try_to_connect and not self._tasks:
            self._tasks.spawn(self._start(wait=True))
        return grpc.ChannelConnectivity.CONNECTING if self._tasks else grpc.ChannelConnectivity.IDLE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return as soon as the state is another one."""
        while self.get_state() is last_observed_state:
            self._state_changed.clear()
            await self._state_changed.wait()

    async def channel_ready(self) -> None:
        """Connect, and return once the connection is up, however long it takes."""
        await self._start(wait=True)
        await self._connection.wait_connected()

    def _on_state_change(self, _connected: bool) -> None:
        self._state_changed.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Take no more calls; those under way have ``grace`` seconds to end, then they are cancelled."""
        if self._closed:
            return
        self._closed = True
        self._state_changed.set()
        await self._tasks.close()
        if self._started:
            if grace:
                await self._transport.wait_idle(grace)
            await self._transport.close()
        if self._jobs is not None:
            await self._jobs.close()
        if self._remove_listener is not None:
            self._remove_listener()
        if self._owns_connection:
            await self._connection.close()


async def _until_cancelled(call: Call, work: Any) -> None:
    """Await something on behalf of a call; a cancellation or the deadline of the call ends it."""
    task = asyncio.ensure_future(work)
    try:
        call.on_cancel(lambda _error: task.cancel())
        # Not `await task`: that would pass our own cancellation on, and Python 3.11's wait_for may swallow it there.
        await asyncio.wait([task])
    finally:
        call.on_cancel(None)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if call.cancelled is not None:
        raise call.cancelled
    try:
        task.result()
    except ConnectionError as error:
        raise StatusError(StatusCode.UNAVAILABLE, str(error)) from error  # Closed: it will not come back.
