"""The callables that a stub has for its methods, one class for each kind of call, as in grpc.aio."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from grpc import aio

from rpc.call import Call
from rpc.client_calls import (
    Deserializer,
    InterceptedStreamStreamCall,
    InterceptedStreamUnaryCall,
    InterceptedUnaryStreamCall,
    InterceptedUnaryUnaryCall,
    Interception,
    RequestQueue,
    Serializer,
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from rpc.discovery.schema import find_service
from rpc.metadata import MetadataValue
from rpc.method import MethodInfo

if TYPE_CHECKING:
    from rpc.channel import Channel

MetadataPairs = Iterable[tuple[str, MetadataValue]]
Requests = AsyncIterable[Any] | Iterable[Any]


class CallOptions(NamedTuple):
    """The keyword arguments of one call, as grpc.aio has them."""

    timeout: float | None = None
    metadata: MetadataPairs | None = None
    credentials: grpc.CallCredentials | None = None
    wait_for_ready: bool | None = None
    compression: grpc.Compression | None = None


def method_info(path: str, *, client_streaming: bool = False, server_streaming: bool = False) -> MethodInfo:
    """Return what is known of a method, with what its ``.proto`` promises when its descriptor is loaded here."""
    info = MethodInfo.from_path(path, client_streaming=client_streaming, server_streaming=server_streaming)
    service = find_service(info.service)
    known = None if service is None else service.methods_by_name.get(info.name)
    if known is None or (known.client_streaming, known.server_streaming) != (client_streaming, server_streaming):
        return info  # The stub's word counts for the kind of the call.
    return MethodInfo.from_descriptor(known)


class _MultiCallable:
    """What the four kinds share: the method, how its messages become bytes, and the interceptors of its kind."""

    def __init__(
        self, channel: Channel, info: MethodInfo, serializer: Serializer | None, deserializer: Deserializer | None
    ) -> None:
        self._channel = channel
        self._info = info
        self._serializer = serializer
        self._deserializer = deserializer
        self._interceptors = channel.interceptors_of(info)

    def _call(self, options: CallOptions) -> Call:
        return self._channel.new_call(self._info, options)

    def _intercepted(self, options: CallOptions, start: Callable[[Call, Any], Any], request: Any) -> Any:
        """Return the coroutine that runs the interceptors and makes the call, with what they made of its details."""
        # Interceptors find the method as bytes and the metadata in the class that they may add to, as in grpc.aio.
        given = options.metadata
        pairs = given if isinstance(given, aio.Metadata) else aio.Metadata(*(given or ()))
        method: Any = self._info.path.encode()
        details = aio.ClientCallDetails(method, options.timeout, pairs, options.credentials, options.wait_for_ready)

        def begin(changed: aio.ClientCallDetails, changed_request: Any) -> Any:
            return start(self._call_with(changed, options.compression), changed_request)

        return Interception(self._interceptors, begin, streams_responses=self._info.server_streaming).run(
            details, request
        )

    def _call_with(self, details: aio.ClientCallDetails, compression: grpc.Compression | None) -> Call:
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        info = self._info
        if method != info.path:
            info = method_info(method, client_streaming=info.client_streaming, server_streaming=info.server_streaming)
        options = CallOptions(
            details.timeout, details.metadata, details.credentials, details.wait_for_ready, compression
        )
        return self._channel.new_call(info, options)


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
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        if not self._interceptors:
            return self._start(self._call(options), request)
        return InterceptedUnaryUnaryCall(self._intercepted(options, self._start, request), self._channel.loop)

    def _start(self, call: Call, request: Any) -> UnaryUnaryCall:
        channel = self._channel
        return UnaryUnaryCall(channel.handler, call, request, self._serializer, self._deserializer, channel.loop)


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
    ) -> aio.UnaryStreamCall[Any, Any]:
        """Start the call; see ``UnaryUnaryMultiCallable``."""
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        if not self._interceptors:
            return self._start(self._call(options), request)
        return InterceptedUnaryStreamCall(self._intercepted(options, self._start, request), self._channel.loop)

    def _start(self, call: Call, request: Any) -> UnaryStreamCall:
        channel = self._channel
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
    ) -> aio.StreamUnaryCall[Any, Any]:
        """Start the call; without an iterator, requests are sent with ``write`` and ``done_writing``."""
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        if not self._interceptors:
            return self._start(self._call(options), request_iterator)
        queue = RequestQueue() if request_iterator is None else None
        run = self._intercepted(options, self._start, queue or request_iterator)
        return InterceptedStreamUnaryCall(run, self._channel.loop, queue)

    def _start(self, call: Call, requests: Requests | None) -> StreamUnaryCall:
        channel = self._channel
        result = StreamUnaryCall(channel.handler, call, self._serializer, self._deserializer, channel.loop)
        result.start_requests(requests)
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
    ) -> aio.StreamStreamCall[Any, Any]:
        """Start the call; without an iterator, requests are sent with ``write`` and ``done_writing``."""
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        if not self._interceptors:
            return self._start(self._call(options), request_iterator)
        queue = RequestQueue() if request_iterator is None else None
        run = self._intercepted(options, self._start, queue or request_iterator)
        return InterceptedStreamStreamCall(run, self._channel.loop, queue)

    def _start(self, call: Call, requests: Requests | None) -> StreamStreamCall:
        channel = self._channel
        result = StreamStreamCall(channel.handler, call, self._serializer, self._deserializer, channel.loop)
        result.start_requests(requests)
        return result
