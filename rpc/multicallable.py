"""The callables that a stub has for its methods, one class for each kind of call, as in grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from rpc.client_calls import (
    Deserializer,
    InterceptedUnaryUnaryCall,
    RespondedCall,
    Serializer,
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from rpc.discovery.schema import find_service, methods_of
from rpc.metadata import MetadataValue
from rpc.method import MethodInfo

if TYPE_CHECKING:
    from rpc.channel import Channel

MetadataPairs = Iterable[tuple[str, MetadataValue]]
Requests = AsyncIterable[Any] | Iterable[Any]


def method_info(path: str, *, client_streaming: bool = False, server_streaming: bool = False) -> MethodInfo:
    """Return what is known of a method, with what its ``.proto`` promises when its descriptor is loaded here."""
    info = MethodInfo.from_path(path, client_streaming=client_streaming, server_streaming=server_streaming)
    service = find_service(info.service)
    known = None if service is None else methods_of(service).get(info.name)
    if known is None or (known.client_streaming, known.server_streaming) != (client_streaming, server_streaming):
        return info  # The stub's word counts for the kind of the call.
    return known


class _MultiCallable:
    def __init__(
        self, channel: Channel, info: MethodInfo, serializer: Serializer | None, deserializer: Deserializer | None
    ) -> None:
        self._channel = channel
        self._info = info
        self._serializer = serializer
        self._deserializer = deserializer


class UnaryUnaryMultiCallable(_MultiCallable, aio.UnaryUnaryMultiCallable[Any, Any]):
    """One unary method of one channel."""

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: MetadataPairs | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> aio.UnaryUnaryCall[Any, Any]:
        """Start the call. ``timeout`` is in seconds; a deadline of the handler that calls counts as well."""
        channel = self._channel
        if not channel.unary_interceptors:
            return self._start(self._info, request, timeout, metadata, credentials, wait_for_ready, compression)
        # Interceptors find the method as bytes and the metadata in the class that they may add to, as in grpc.aio.
        pairs = metadata if isinstance(metadata, aio.Metadata) else aio.Metadata(*(metadata or ()))
        method: Any = self._info.path.encode()
        details = aio.ClientCallDetails(method, timeout, pairs, credentials, wait_for_ready)
        return InterceptedUnaryUnaryCall(self._intercept(0, details, request, compression), asyncio.get_running_loop())

    def _start(
        self,
        info: MethodInfo,
        request: Any,
        timeout: float | None,
        metadata: MetadataPairs | None,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> UnaryUnaryCall:
        channel = self._channel
        call = channel.new_call(info, timeout, metadata, credentials, wait_for_ready, compression)
        return UnaryUnaryCall(channel.handler, call, request, self._serializer, self._deserializer, channel.loop)

    async def _intercept(
        self, at: int, details: aio.ClientCallDetails, request: Any, compression: grpc.Compression | None
    ) -> aio.UnaryUnaryCall[Any, Any]:
        """Run the interceptors from the one at this position on, then the call itself."""
        interceptors = self._channel.unary_interceptors
        if at < len(interceptors):

            async def proceed(next_details: aio.ClientCallDetails, next_request: Any) -> aio.UnaryUnaryCall[Any, Any]:
                return await self._intercept(at + 1, next_details, next_request, compression)

            outcome: Any = await interceptors[at].intercept_unary_unary(proceed, details, request)
            return outcome if isinstance(outcome, aio.UnaryUnaryCall) else RespondedCall(outcome)
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        info = self._info if method == self._info.path else method_info(method)
        return self._start(
            info,
            request,
            details.timeout,
            details.metadata,
            details.credentials,
            details.wait_for_ready,
            compression,
        )


class UnaryStreamMultiCallable(_MultiCallable, aio.UnaryStreamMultiCallable[Any, Any]):
    """One method with a stream of responses."""

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: MetadataPairs | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryStreamCall:
        """Start the call; see ``UnaryUnaryMultiCallable``."""
        channel = self._channel
        call = channel.new_call(self._info, timeout, metadata, credentials, wait_for_ready, compression)
        return UnaryStreamCall(channel.handler, call, self._serializer, self._deserializer, channel.loop, request)


class StreamUnaryMultiCallable(_MultiCallable, aio.StreamUnaryMultiCallable[Any, Any]):
    """One method with a stream of requests."""

    def __call__(
        self,
        request_iterator: Requests | None = None,
        timeout: float | None = None,
        metadata: MetadataPairs | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamUnaryCall:
        """Start the call; without an iterator, requests are sent with ``write`` and ``done_writing``."""
        channel = self._channel
        call = channel.new_call(self._info, timeout, metadata, credentials, wait_for_ready, compression)
        result = StreamUnaryCall(channel.handler, call, self._serializer, self._deserializer, channel.loop)
        result.start_requests(request_iterator)
        return result


class StreamStreamMultiCallable(_MultiCallable, aio.StreamStreamMultiCallable[Any, Any]):
    """One method with streams both ways."""

    def __call__(
        self,
        request_iterator: Requests | None = None,
        timeout: float | None = None,
        metadata: MetadataPairs | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamStreamCall:
        """Start the call; without an iterator, requests are sent with ``write`` and ``done_writing``."""
        channel = self._channel
        call = channel.new_call(self._info, timeout, metadata, credentials, wait_for_ready, compression)
        result = StreamStreamCall(channel.handler, call, self._serializer, self._deserializer, channel.loop)
        result.start_requests(request_iterator)
        return result
