"""``rpc.Channel``: the shape of ``grpc.aio.Channel``, without an address.

A stub made on it calls whichever back-end NATS picks. Channels are cheap: all calls of one share a connection, an inbox
and a table.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import grpc
from grpc import aio

from rpc import telemetry
from rpc.call import Call
from rpc.client_call import InterceptedUnaryUnaryCall, RespondedCall, UnaryUnaryCall, check_credentials
from rpc.connections import as_connection
from rpc.deadline import current_deadline, earliest
from rpc.discovery.schema import find_service, methods_of
from rpc.metadata import MetadataValue, normalize
from rpc.method import MethodInfo
from rpc.policy import client_stack
from rpc.policy.retry import Retry
from rpc.stats import Stats
from rpc.status import Refusal, StatusCode, StatusError
from rpc.subjects import Subjects
from rpc.transport.base import Connection
from rpc.transport.client import ClientTransport

Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]

_RECONNECT_PAUSE = 0.1


class Channel(aio.Channel):
    """Calls services over NATS. Source of the semantics: ``grpc.aio.Channel``.

    It connects at the first call, or at ``async with``, or at ``channel_ready()``; it belongs to one event loop.
    """

    def __init__(
        self,
        target: str | Connection | None = None,
        *,
        options: object = None,
        credentials: object = None,
        compression: grpc.Compression | None = None,
        interceptors: Sequence[aio.ClientInterceptor] | None = None,
        prefix: str = "",
        retry: bool = True,
    ) -> None:
        """``target``: a NATS URL, or a connection that others use too; None is ``$NATS_URL`` or nats-server's default.

        ``prefix`` separates meshes on one NATS account. ``retry=False`` sends no call twice, whatever happens to it.
        """
        self._connection, self._owns_connection = as_connection(target)
        self._unary_interceptors: list[aio.UnaryUnaryClientInterceptor] = []
        for interceptor in interceptors or ():
            if not isinstance(interceptor, aio.ClientInterceptor):
                raise TypeError(f"{interceptor!r} is not a grpc.aio.ClientInterceptor")
            if isinstance(interceptor, aio.UnaryUnaryClientInterceptor):
                self._unary_interceptors.append(interceptor)
        self._transport = ClientTransport(self._connection, Subjects(prefix))
        self._starting = asyncio.Lock()
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
            retry=Retry() if retry else None,
        )
        """The stack that every call passes, as a ``Handler``."""

    # ---------------------------------------------------------------------------------------------- the call path

    async def invoke(self, call: Call) -> None:
        """Carry one call of bytes, for gateways and proxies: no stub, no call object, no task of its own.

        Raises ``StatusError``; the response and all metadata are on the call. Cancelling the awaiting task, or
        ``call.cancel()``, cancels the handler in the back-end.
        """
        await self.handler(call)

    async def _carry(self, call: Call) -> None:
        """The innermost Handler: the transport, started when it is needed first."""
        if not self._started:
            await _until_cancelled(call, self._start(wait=call.wait_for_ready))
        elif call.wait_for_ready and not self._connection.is_connected and not self._closed:
            await _until_cancelled(call, self._connection.wait_connected())
        await self._transport(call)

    async def _start(self, *, wait: bool = False) -> None:
        async with self._starting:
            while not self._started:
                if self._closed:
                    raise StatusError(StatusCode.CANCELLED, "the channel is closed")
                try:
                    await self._connection.connect()
                except ConnectionError as error:
                    if not wait:
                        raise Refusal(str(error), "not-connected") from error
                    await asyncio.sleep(_RECONNECT_PAUSE)
                    continue
                self._remove_listener = self._connection.on_state_change(self._on_state_change)
                await self._transport.start()
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
        return UnaryUnaryMultiCallable(self, _method_info(method), request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return a callable that fails: this version carries unary calls only."""
        return _NoStreams(method)

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return a callable that fails: this version carries unary calls only."""
        return _NoStreams(method)

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return a callable that fails: this version carries unary calls only."""
        return _NoStreams(method)

    def start_call(
        self,
        info: MethodInfo,
        request: Any,
        details: aio.ClientCallDetails,
        serializer: Serializer | None,
        deserializer: Deserializer | None,
    ) -> UnaryUnaryCall:
        """Start one call, past all interceptors."""
        check_credentials(details.credentials)
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        if self._closed:
            raise aio.UsageError("Channel is closed.")
        deadline = current_deadline.get()
        if details.timeout is not None:
            deadline = earliest(deadline, loop.time() + details.timeout)
        call = Call(
            info,
            metadata=normalize(details.metadata) if details.metadata else (),
            deadline=deadline,
            wait_for_ready=bool(details.wait_for_ready),
        )
        return UnaryUnaryCall(self.handler, call, request, serializer, deserializer, loop)

    @property
    def unary_interceptors(self) -> Sequence[aio.UnaryUnaryClientInterceptor]:
        """The interceptors that unary calls pass, outermost first."""
        return self._unary_interceptors

    # ----------------------------------------------------------------------------------------------------- states

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the connection to NATS. ``try_to_connect`` is for grpc.aio's shape: calls connect."""
        if self._closed or self._connection.is_closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self._connection.is_connected:
            return grpc.ChannelConnectivity.READY
        return grpc.ChannelConnectivity.TRANSIENT_FAILURE if self._started else grpc.ChannelConnectivity.IDLE

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
        if self._started:
            if grace:
                await self._transport.wait_idle(grace)
            await self._transport.close()
        if self._remove_listener is not None:
            self._remove_listener()
        if self._owns_connection:
            await self._connection.close()


class UnaryUnaryMultiCallable(aio.UnaryUnaryMultiCallable[Any, Any]):
    """One unary method of one channel."""

    def __init__(
        self, channel: Channel, info: MethodInfo, serializer: Serializer | None, deserializer: Deserializer | None
    ) -> None:
        self._channel = channel
        self._info = info
        self._serializer = serializer
        self._deserializer = deserializer

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, MetadataValue]] | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> aio.UnaryUnaryCall[Any, Any]:
        """Start the call. ``timeout`` is in seconds; a deadline of the handler that calls counts as well."""
        details = aio.ClientCallDetails(self._info.path, timeout, metadata, credentials, wait_for_ready)  # type: ignore[arg-type]
        channel = self._channel
        if not channel.unary_interceptors:
            return channel.start_call(self._info, request, details, self._serializer, self._deserializer)
        return InterceptedUnaryUnaryCall(self._intercept(0, details, request), asyncio.get_running_loop())

    async def _intercept(self, at: int, details: aio.ClientCallDetails, request: Any) -> aio.UnaryUnaryCall[Any, Any]:
        """Run the interceptors from the one at this position on, then the call itself."""
        interceptors = self._channel.unary_interceptors
        if at < len(interceptors):

            async def proceed(next_details: aio.ClientCallDetails, next_request: Any) -> aio.UnaryUnaryCall[Any, Any]:
                return await self._intercept(at + 1, next_details, next_request)

            outcome: Any = await interceptors[at].intercept_unary_unary(proceed, details, request)
            return outcome if isinstance(outcome, aio.UnaryUnaryCall) else RespondedCall(outcome)
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        info = self._info if method == self._info.path else _method_info(method)
        return self._channel.start_call(info, request, details, self._serializer, self._deserializer)


class _NoStreams:
    def __init__(self, method: str) -> None:
        self._method = method

    def __call__(self, *_arguments: Any, **_keywords: Any) -> Any:
        raise NotImplementedError(f"{self._method} is a streaming method; this version carries unary calls only")


def _method_info(path: str) -> MethodInfo:
    """Return what is known of a method, with what its ``.proto`` promises when its descriptor is loaded here."""
    info = MethodInfo.from_path(path)
    service = find_service(info.service)
    return info if service is None else methods_of(service).get(info.name, info)


async def _until_cancelled(call: Call, work: Any) -> None:
    """Await something on behalf of a call; a cancellation or the deadline of the call ends it."""
    task = asyncio.ensure_future(work)
    call.on_cancel(lambda _error: task.cancel())
    try:
        await task
    except asyncio.CancelledError:
        if call.cancelled is not None:
            raise call.cancelled from None
        task.cancel()
        raise
    except ConnectionError as error:
        raise Refusal(str(error), "not-connected") from error
    finally:
        call.on_cancel(None)
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
