"""What a servicer's method sees of its call: the ``context`` argument, in the shapes of grpc.aio and of grpc.

``ServicerContext`` is for coroutine methods, ``SyncServicerContext`` for plain functions, which run in the thread pool.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc
from grpc import aio

from rpc.call import Call
from rpc.metadata import Metadata, MetadataValue, normalize
from rpc.method import MethodInfo
from rpc.status import StatusCode, StatusError, code_from_number

logger = logging.getLogger(__name__)


class AbortedError(StatusError, aio.AbortError):
    """Raised by ``context.abort``: ends the handler; the status counts even when somebody swallows the exception."""


class HandlerMetadataError(ValueError):
    """A handler wants to send metadata that gRPC forbids: INTERNAL to the caller, as in grpc.aio."""


def _sendable(metadata: Iterable[tuple[str, MetadataValue]]) -> Metadata:
    try:
        return normalize(metadata)
    except ValueError as error:
        raise HandlerMetadataError(str(error)) from None


class UnreadableError(StatusError):
    """The bytes of a request are no message of its type."""


class Codec:
    """The messages of one method: bytes to objects and back. A failure is UNKNOWN, as in grpc.aio."""

    __slots__ = ("_deserialize", "_info", "_serialize")

    def __init__(
        self,
        info: MethodInfo,
        deserialize: Callable[[bytes], Any] | None,
        serialize: Callable[[Any], bytes] | None,
    ) -> None:
        self._info = info
        self._deserialize = deserialize
        self._serialize = serialize

    def decode(self, data: bytes) -> Any:
        """Return a request. Raises ``StatusError``."""
        if self._deserialize is None:
            return data
        try:
            return self._deserialize(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller's bytes are to blame
            logger.warning("a request of %s could not be deserialized: %.200s", self._info.full_name, error)
            raise UnreadableError(StatusCode.UNKNOWN, "Exception deserializing request!") from None

    def encode(self, message: Any) -> bytes:
        """Return the bytes of a response. Raises ``StatusError``."""
        if self._serialize is None:
            return bytes(message)
        try:
            return self._serialize(message)
        except Exception:
            name = type(message).__name__
            logger.exception("%s gave %s, which cannot be serialized", self._info.full_name, name)
            raise StatusError(StatusCode.UNKNOWN, "Exception serializing response!") from None


class ServicerContext(aio.ServicerContext[Any, Any]):
    """The context of one call that is being served. Source of the semantics: grpc.aio.ServicerContext."""

    def __init__(self, call: Call, codec: Codec) -> None:
        self._call = call
        self._codec = codec
        self._code: StatusCode | None = None
        self._details = ""
        self._initial_sent = False
        self._done = False
        self._callbacks: list[Callable[[ServicerContext], None]] | None = None
        self.aborted: AbortedError | None = None

    # ------------------------------------------------------------------------------------------- what came in

    def invocation_metadata(self) -> Metadata:  # type: ignore[override]  # what grpc.aio really returns
        """Return the caller's metadata: pairs of key and value, bytes for ``-bin`` keys."""
        return self._call.metadata

    def peer(self) -> str:
        """Return who calls: ``nats:`` and the reply subject, which is unique to the calling connection and call."""
        return f"nats:{self._call.peer}"

    def peer_identities(self) -> None:
        """Return None: NATS authenticates connections to the broker, not callers to back-ends."""

    def peer_identity_key(self) -> None:
        """Return None, see ``peer_identities``."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return an empty mapping, see ``peer_identities``."""
        return {}

    def time_remaining(self) -> float | None:  # type: ignore[override]  # what grpc.aio really returns
        """Return the seconds until the deadline, at least 0, or None when the call has none."""
        if self._call.deadline is None:
            return None
        return max(0.0, self._call.deadline - asyncio.get_running_loop().time())

    # ------------------------------------------------------------------------------------------- what goes out

    async def send_initial_metadata(self, initial_metadata: Iterable[tuple[str, MetadataValue]]) -> None:
        """Send the initial metadata; once only. A call of one message each way carries it in its reply."""
        self._check_running()
        if self._initial_sent:
            raise aio.UsageError("Send initial metadata failed: already sent")
        self._initial_sent = True
        self._call.initial_metadata = _sendable(initial_metadata)
        if self._call.stream is not None:
            self._call.stream.send_headers(self._call.initial_metadata)

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, MetadataValue]]) -> None:
        """Set the metadata that is sent with the status."""
        self._call.trailing_metadata = _sendable(trailing_metadata)

    def trailing_metadata(self) -> Metadata:  # type: ignore[override]  # what grpc.aio really returns
        """Return what ``set_trailing_metadata`` was given."""
        return self._call.trailing_metadata

    def set_code(self, code: StatusCode | int) -> None:
        """Set the status that the call ends with when the handler returns; the number of a code will do."""
        self._code = code if isinstance(code, StatusCode) else code_from_number(code)

    def set_details(self, details: str) -> None:
        """Set the text of the status."""
        self._details = details

    def code(self) -> StatusCode | None:  # type: ignore[override]  # what grpc.aio really returns
        """Return what ``set_code`` was given, or None."""
        return self._code

    def details(self) -> str:
        """Return what ``set_details`` was given."""
        return self._details

    async def abort(
        self, code: StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, MetadataValue]] = ()
    ) -> NoReturn:
        """End the call with a status that is not OK, by raising."""
        self.abort_now(code, details, trailing_metadata)

    def abort_now(
        self, code: StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, MetadataValue]] = ()
    ) -> NoReturn:
        """Do what ``abort`` does, from code that cannot await."""
        if self.aborted is not None:
            raise aio.UsageError("Abort already called!")
        if code is StatusCode.OK:
            logger.error("context.abort() was called with OK; the caller is told UNKNOWN")
            code, details = StatusCode.UNKNOWN, ""
        if trailing_metadata:
            self._call.trailing_metadata = _sendable(trailing_metadata)
        self._code, self._details = code, details or self._details
        self.aborted = AbortedError(code, self._details)
        raise self.aborted

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a ``grpc.Status``, for example a rich one from ``grpc_status.rpc_status.to_status``."""
        self.abort_now(status.code, status.details, status.trailing_metadata)

    def set_compression(self, compression: grpc.Compression) -> None:
        """Compress the messages that this call sends (gzip), or not, whatever the server's default is."""
        if self._initial_sent:
            raise RuntimeError("Compression setting must be specified before sending initial metadata")
        self._call.compress = compression is not grpc.Compression.NoCompression
        if self._call.stream is not None:
            self._call.stream.compress = self._call.compress

    def disable_next_message_compression(self) -> None:
        """Send the next message uncompressed."""
        if self._call.stream is None:
            self._call.compress = False
        else:
            self._call.stream.skip_compression = True

    async def next_request(self) -> Any:
        """Return the next request, or None after the last."""
        data = await self._call.receive()
        return None if data is None else self._codec.decode(data)

    async def read(self) -> Any:
        """Return the next request, or ``grpc.aio.EOF`` after the last."""
        if not self._call.info.client_streaming:
            raise aio.UsageError("a unary request is an argument of the method; there is no stream to read")
        if self.aborted is not None:
            raise self.aborted
        message = await self.next_request()
        return aio.EOF if message is None else message

    async def write(self, message: Any) -> None:
        """Send a response; returns when the caller has room for it."""
        if not self._call.info.server_streaming:
            raise aio.UsageError("a unary response is returned by the method; there is no stream to write")
        self._check_running()
        self._initial_sent = True
        await self._call.send(self._codec.encode(message))

    def _check_running(self) -> None:
        """Raise what ``abort`` raised, for those who swallowed it, or that the call is over."""
        if self.aborted is not None:
            raise self.aborted
        if self.done():
            raise aio.UsageError("RPC already finished.")

    def for_thread(self, loop: asyncio.AbstractEventLoop) -> SyncServicerContext:
        """Return this context for a method that is a plain function and runs in a thread."""
        return SyncServicerContext(self, loop)

    # --------------------------------------------------------------------------------------------- how it ends

    def add_done_callback(self, callback: Callable[[ServicerContext], None]) -> None:
        """Call ``callback(context)`` when the call is over, however it ended."""
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        """Return True when the caller cancelled, or the deadline passed."""
        return self._call.cancelled is not None

    def done(self) -> bool:
        """Return True when the call is over."""
        return self._done or self._call.cancelled is not None

    def cancel(self) -> bool:
        """End the call with CANCELLED."""
        return self._call.cancel()

    def finish(self) -> None:
        """Mark the call as over and run the callbacks; called by the dispatcher."""
        self._done = True
        if self._callbacks is not None:
            for callback in self._callbacks:
                try:
                    callback(self)
                except Exception:
                    logger.exception("a done callback of %s raised", self._call.info.full_name)

    def raise_for_status(self) -> None:
        """Raise what the handler set instead of OK, if it did."""
        if self.aborted is not None:
            raise self.aborted
        if self._code is not None and self._code is not StatusCode.OK:
            raise StatusError(self._code, self._details)


class SyncServicerContext(grpc.ServicerContext):
    """The context of a plain (not ``async``) method: the same call, seen from a thread of the pool."""

    def __init__(self, context: ServicerContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop

    def invocation_metadata(self) -> Metadata:
        return self._context.invocation_metadata()

    def peer(self) -> str:
        return self._context.peer()

    def peer_identities(self) -> None:
        return self._context.peer_identities()

    def peer_identity_key(self) -> None:
        return self._context.peer_identity_key()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:  # type: ignore[override]  # what grpc really returns
        return self._context.auth_context()

    def time_remaining(self) -> float | None:  # type: ignore[override]  # what grpc really returns
        deadline = self._context._call.deadline  # noqa: SLF001 - the two contexts are one
        return None if deadline is None else max(0.0, deadline - self._loop.time())

    def send_initial_metadata(self, initial_metadata: Iterable[tuple[str, MetadataValue]]) -> None:
        sending = self._context.send_initial_metadata(initial_metadata)
        asyncio.run_coroutine_threadsafe(sending, self._loop).result()

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, MetadataValue]]) -> None:
        self._context.set_trailing_metadata(trailing_metadata)

    def trailing_metadata(self) -> Metadata:
        return self._context.trailing_metadata()

    def set_code(self, code: StatusCode) -> None:
        self._context.set_code(code)

    def set_details(self, details: str) -> None:
        self._context.set_details(details)

    def code(self) -> StatusCode | None:
        return self._context.code()

    def details(self) -> str:
        return self._context.details()

    def abort(self, code: StatusCode, details: str) -> NoReturn:
        self._context.abort_now(code, details)

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self._context.abort_now(status.code, status.details, status.trailing_metadata)

    def set_compression(self, compression: grpc.Compression) -> None:
        self._context.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        self._context.disable_next_message_compression()

    def is_active(self) -> bool:
        return not self._context.done()

    def cancel(self) -> None:  # type: ignore[override]  # what grpc really returns
        self._loop.call_soon_threadsafe(self._context.cancel)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self._context.done():
            return False
        self._context.add_done_callback(lambda _context: callback())
        return True
