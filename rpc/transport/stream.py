"""One call that is carried by packets, on an event loop: what ``wire.stream`` decides, done.

Writing waits for the peer's credit, reading gives credit back; small messages that are written in one go share a
packet. Both halves of the call path use it.
"""

from __future__ import annotations

import asyncio
from collections import deque

from rpc.metadata import Metadata
from rpc.status import StatusCode, StatusError
from rpc.tasks import TaskSet
from rpc.transport.base import Connection, Headers
from rpc.wire.envelope import ProtocolError, gunzip, gzip
from rpc.wire.stream import (
    Ended,
    HalfClosed,
    HeadersReceived,
    MessageReceived,
    MessageTooLargeError,
    Role,
    StreamMachine,
)

MAX_PACKET = 256 * 1024
"""Bytes of one packet, if the broker takes as many: larger ones would hold up the other calls of a connection."""

MIN_PACKET = 40 * 1024
"""Bytes that a packet may have in any case: the largest metadata and status must fit. A broker with a lower limit
refuses the few packets that are so large, and the call says so."""

HEADER_ROOM = 32 * 1024
"""Bytes below the broker's limit that payloads leave for the headers beside them, which hold a call's metadata."""

BATCH = 64 * 1024
"""Bytes of messages, and what they cost besides, that are gathered before a writer has to wait until they are sent."""

READS_IN_A_ROW = 256
"""Messages that are read before others on the event loop have their turn, even if more are there."""


class Stream:
    """The two directions of one call. Owned by the half of the call path that made it."""

    def __init__(
        self,
        role: Role,
        connection: Connection,
        tasks: TaskSet,
        *,
        window: int,
        max_message: int,
        compress: bool = False,
        first_headers: Headers | None = None,
        headers: Headers | None = None,
    ) -> None:
        """``first_headers`` go with the first packet that is sent: a back-end names its instance in them.

        ``headers`` go with all others: where packets are not expected, they must say what they are.
        """
        self._machine = StreamMachine(role, window=window, max_message=max_message)
        self._role = role
        self._connection = connection
        self._tasks = tasks
        self._max_message = max_message
        self.compress = compress
        self.skip_compression = False
        self._first_headers = first_headers
        self._headers = headers
        self._announce = False
        self._loop = asyncio.get_running_loop()
        self._max_packet = max(MIN_PACKET, min(MAX_PACKET, connection.max_payload - HEADER_ROOM))
        self._inbound: deque[MessageReceived] = deque()
        self._no_more = False
        self._readable = asyncio.Event()
        self._all_read = asyncio.Event()
        self._discarded: StatusError | None = None
        self._writable = asyncio.Event()
        self._reads = 0
        self._flush_scheduled = False
        self._flushing = asyncio.Lock()
        self.peer_subject = ""
        """Where packets go; empty until the back-end has accepted."""
        self.packets_sent = 0
        """How many packets were published; roll calls tell the peer, so that it misses the last ones, too."""
        self.initial_metadata: Metadata = ()
        self.headers_sent = False
        self.headers: asyncio.Future[Metadata] = self._loop.create_future()
        """Resolved with the initial metadata, at the latest when the first message or the end came."""
        self.ended: asyncio.Future[Ended] = self._loop.create_future()
        """Resolved when the peer ended the call; fails with ``StatusError`` when it broke off."""
        self.ended.add_done_callback(lambda future: future.cancelled() or future.exception())

    # ------------------------------------------------------------------------------------------------ receiving

    def on_packet(self, data: bytes) -> None:
        """Take a packet in; called in order of arrival. A broken peer ends the stream."""
        if self.ended.done():
            return
        try:
            for event in self._machine.receive(data):
                self._on_event(event)
            if self._machine.has_credit_to_give:
                self._schedule_flush()
        except MessageTooLargeError as error:
            self.fail(StatusError(StatusCode.RESOURCE_EXHAUSTED, str(error)), tell=True)
        except ProtocolError as error:
            self._break_off(error)

    def check_received(self, sent: int) -> None:
        """The peer has sent so many packets before it said so: if some are missing, the stream ends."""
        try:
            self._machine.check_received(sent)
        except ProtocolError as error:
            self._break_off(error)

    def _break_off(self, error: ProtocolError) -> None:
        self.fail(StatusError(StatusCode.INTERNAL, f"the peer broke the wire protocol: {error}"), tell=True)

    def _on_event(self, event: object) -> None:
        if isinstance(event, MessageReceived):
            self._headers_known()
            self._inbound.append(event)
            self._readable.set()
        elif isinstance(event, HeadersReceived):
            self.initial_metadata = event.metadata
            self._headers_known()
        elif isinstance(event, HalfClosed):
            self._no_more = True
            self._readable.set()
        elif isinstance(event, Ended):
            self._no_more = True
            self._headers_known()
            if event.cancelled:
                self._inbound.clear()
            if not self.ended.done():
                self.ended.set_result(event)
            self._readable.set()
            self._writable.set()
        else:
            self._schedule_flush()

    def _headers_known(self) -> None:
        if not self.headers.done():
            self.headers.set_result(self.initial_metadata)

    async def read(self) -> bytes | None:
        """Return the next message, or None after the last. Raises ``StatusError`` when the stream broke."""
        self._reads += 1
        if self._reads >= READS_IN_A_ROW:
            self._reads = 0
            await asyncio.sleep(0)
        while not self._inbound:
            if self._no_more:
                return None
            if self.ended.done() and (error := self.ended.exception()) is not None:
                raise error
            self.announce()  # The peer may be waiting to hear who has the call before it goes on.
            self._readable.clear()
            self._reads = 0
            await self._readable.wait()
        event = self._inbound.popleft()
        if not self._inbound:
            self._all_read.set()
        self._machine.consumed(event.cost)
        if self._machine.has_credit_to_give:
            self._schedule_flush()
        if not event.compressed:
            return event.data
        try:
            return gunzip(event.data, self._max_message)
        except StatusError as error:
            self.fail(error, tell=True)
            self.discard(error)
            raise

    async def all_read(self) -> None:
        """Return once the application has read what came; to be awaited after the end.

        Raises ``StatusError`` when it will not any more, see ``discard``.
        """
        while self._inbound:
            self._all_read.clear()
            await self._all_read.wait()
        if self._discarded is not None:
            raise self._discarded

    def discard(self, error: StatusError) -> None:
        """Drop what came and was not read: the application is not interested any more, for this reason."""
        self._inbound.clear()
        self._discarded = error
        self._all_read.set()

    # -------------------------------------------------------------------------------------------------- sending

    @property
    def is_silent(self) -> bool:
        """True while there was nothing to send: a back-end can still answer with a bare error."""
        return self._first_headers is not None and not self.headers_sent and self._machine.is_drained

    def announce(self) -> None:
        """Server: say who has the call, even if there is no packet to go with it yet."""
        if self._first_headers is not None:
            self._announce = True
            self._schedule_flush()

    def send_headers(self, metadata: Metadata) -> None:
        """Server: send initial metadata. Raises ``StatusError`` when the stream is over."""
        self._check_open()
        self.headers_sent = True
        self._machine.send_headers(metadata)
        self._schedule_flush()

    def queue(self, message: bytes) -> None:
        """Put a message into the queue without waiting; for the first ones of a call."""
        compressed = self.compress and len(message) > 0 and not self.skip_compression
        self.skip_compression = False
        self._machine.send_message(gzip(message) if compressed else message, compressed=compressed)

    async def write(self, message: bytes) -> None:
        """Send a message; returns when it is on its way, or gathered with a few others that are about to be.

        Raises ``StatusError`` when the stream is over.
        """
        self._check_open()
        self.queue(message)
        if self._machine.queued < BATCH:
            self._schedule_flush()
            return
        await self.flush()
        await asyncio.sleep(0)  # It need not have suspended; others have their turn now, the socket's writer too.
        while True:
            self._check_open()
            if self._machine.is_drained:
                return
            self._writable.clear()
            await self._writable.wait()

    def _check_open(self) -> None:
        if self.ended.done():
            error = self.ended.exception()
            if error is not None:
                raise error
            event = self.ended.result()
            raise StatusError(event.code, event.details)

    def half_close(self) -> None:
        """Client: no more messages."""
        if not self.ended.done():
            self._machine.half_close()
            self._schedule_flush()

    async def finish(self, code: StatusCode, details: str, trailing: Metadata, *, discard: bool) -> None:
        """Server: end the call and return when all of it is out (or can not be sent any more)."""
        if self.ended.done():
            return
        self._machine.end(code, details, trailing, discard=discard)
        await self.flush()
        while not self._machine.is_finished and not self.ended.done():
            self._writable.clear()
            await self._writable.wait()

    def fail(self, error: StatusError, *, tell: bool) -> None:
        """Break the stream off; ``tell`` sends the peer a CANCEL."""
        if self.ended.done():
            return
        if tell:
            self._machine.cancel(error.code, error.details)
            self._schedule_flush()
        else:
            self._machine.abandon()
        self._inbound.clear()
        self.ended.set_exception(error)
        self._headers_known()
        self._readable.set()
        self._writable.set()

    def close(self) -> None:
        """Server: the call is over here; whoever still reads or writes, in a thread or task of its own, is told so."""
        self._announce = False
        self.fail(StatusError(StatusCode.CANCELLED, "the call is over"), tell=False)

    def opening(self) -> bytes:
        """Client: return the packet that opens the call, with what was queued so far."""
        self.packets_sent += 1
        return self._machine.next_packet(self._max_packet, even_empty=True) or b""

    def accepted(self, subject: str) -> None:
        """Client: the back-end takes packets at this subject."""
        if not self.peer_subject:
            self.peer_subject = subject
            if self._machine.has_something:
                self._schedule_flush()

    def _schedule_flush(self) -> None:
        if self.peer_subject and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        self._flush_scheduled = False
        if self._announce or self._machine.has_something:
            self._tasks.spawn(self.flush())

    async def flush(self) -> None:
        """Send what the peer's credit allows."""
        if not self.peer_subject:
            return
        async with self._flushing:
            try:
                while (packet := self._machine.next_packet(self._max_packet)) is not None or self._announce:
                    headers = self._first_headers or self._headers
                    self._first_headers, self._announce = None, False
                    await self._connection.publish(self.peer_subject, packet or b"", headers=headers)
                    self.packets_sent += packet is not None
            except (ConnectionError, ValueError) as error:
                self.fail(StatusError(StatusCode.UNAVAILABLE, str(error)), tell=False)
        if self._machine.is_drained:
            self._writable.set()
