"""Publishing events: confirmed by JetStream, repeated over reconnects with the same id, bounded."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import Any, Final, Self

from google.protobuf.message import Message

from rpc import telemetry
from rpc.connections import as_connection
from rpc.durable.options import EventOptions, event_of
from rpc.durable.reading import OptionsError
from rpc.events.buffer import Buffer
from rpc.events.layout import partition_of, stream
from rpc.jetstream.api import MESSAGE_ID, JetStream
from rpc.jetstream.patience import patiently
from rpc.jetstream.statuses import FAILURES, status_of
from rpc.jetstream.streams import ensure_stream
from rpc.metadata import write_headers
from rpc.status import StatusCode, StatusError
from rpc.subjects import Subjects
from rpc.transport.base import Connection
from rpc.transport.stream import HEADER_ROOM

DEFAULT_TIMEOUT: Final = 90.0
"""Seconds for which an event is tried to be published: a broker may be away for a minute."""

DEFAULT_BUFFER: Final = 10_000
"""Events that may wait in the buffer of ``offer``."""


class _Kind:
    """One type of events: where it goes."""

    __slots__ = ("key", "options", "partitions", "subject", "subjects")

    def __init__(self, options: EventOptions, subjects: Subjects, partitions: int) -> None:
        self.options = options
        self.key = options.key
        self.partitions = partitions
        self.subject = subjects.event(options.message)
        self.subjects = [f"{self.subject}.{number}" for number in range(partitions)]

    def subject_of(self, event: Any) -> str:
        """Return the subject of an event: by its key, if the type has one."""
        if not self.key:
            return self.subject
        return self.subjects[partition_of(getattr(event, self.key), self.partitions)]


class _RepartitionedError(Exception):
    """The stream has been given another number of partitions."""


class Publisher:
    """Publishes events. ``async with rpc.Publisher() as publisher``; any number of tasks may share one.

    It belongs to one event loop.
    """

    def __init__(
        self,
        target: str | Connection | None = None,
        *,
        prefix: str | None = None,
        buffer: int = DEFAULT_BUFFER,
        trace: bool = True,
    ) -> None:
        """``target``: a NATS URL, or a connection that others use too; None is ``$NATS_URL`` or nats-server's default.

        ``prefix`` separates meshes; None is ``$NATSMESH_PREFIX``, or none. ``buffer`` bounds what ``offer`` takes.
        ``trace=False`` makes no spans of what is published: for events that tell of programs, like log records.
        """
        self._connection, self._owns_connection = as_connection(target)
        self._subjects = Subjects(prefix)
        self._js = JetStream(self._connection)
        self._kinds: dict[str, _Kind] = {}
        self._learning: dict[str, asyncio.Event] = {}
        self._producer = telemetry.producer() if trace else None
        self._buffer = Buffer(partial(self._publish, timeout=DEFAULT_TIMEOUT), buffer)
        self._id_prefix = ""
        self._id_number = 0
        self._started = False
        self._closed = False

    async def start(self) -> None:
        """Connect. Raises ``ConnectionError`` when NATS cannot be reached."""
        await self._connection.connect()
        await self._js.start()
        self._started = True

    async def close(self, timeout: float = 5.0) -> None:
        """Send what waits in the buffer, ``timeout`` seconds at most, and end; idempotent."""
        if self._closed:
            return
        await self.flush(timeout)
        self._closed = True
        await self._buffer.close()
        await self._js.close()
        if self._owns_connection:
            await self._connection.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    # ------------------------------------------------------------------------------------------------- publishing

    async def publish(self, event: Message, *, id: str = "", timeout: float = DEFAULT_TIMEOUT) -> int:  # noqa: A002
        """Publish an event, and return its place in the stream of its type, once the broker has stored it.

        ``id`` names the event: one of the same id is stored once within two minutes, which counts over all publishers.
        Without it the publisher gives one, so that repeating is safe. Any number of publishes may be under way; more
        than 4096 wait for their turn. Raises ``StatusError``: UNAVAILABLE after ``timeout`` seconds without a
        confirmation (it may have been stored), RESOURCE_EXHAUSTED when it is too large or the stream is full,
        FAILED_PRECONDITION when the stream does not fit the ``.proto``.
        """
        return await self._publish(event, id, None, timeout=timeout)

    async def _publish(self, event: Message, event_id: str, position: Any, *, timeout: float) -> int:
        """Publish an event; ``position`` is the place in a trace that it belongs to, None the current one."""
        if self._closed:
            raise StatusError(StatusCode.CANCELLED, "the publisher is closed")
        if event_id and not (event_id.isascii() and event_id.isprintable()):
            raise StatusError(StatusCode.INVALID_ARGUMENT, "the id of an event must be printable ASCII text")
        headers = {MESSAGE_ID: event_id or self._new_id()}
        if self._producer is None:
            return await self._store(event, headers, timeout)
        with self._producer.event(event.DESCRIPTOR.full_name, headers[MESSAGE_ID], position) as sending:
            write_headers(headers, sending.metadata)
            return await self._store(event, headers, timeout)

    def _new_id(self) -> str:
        if not self._id_prefix:  # Not before: each process that is forked from ours must have its own.
            self._id_prefix = secrets.token_hex(8)
        self._id_number += 1
        return f"{self._id_prefix}-{self._id_number}"

    async def _store(self, event: Message, headers: dict[str, str], timeout: float) -> int:
        name = event.DESCRIPTOR.full_name
        try:
            deadline = asyncio.get_running_loop().time() + timeout
            data = event.SerializeToString()
            while True:
                kind = self._kinds.get(name) or await self._prepare(event, deadline)
                left = deadline - asyncio.get_running_loop().time()
                try:
                    ack = await self._js.publish(
                        kind.subject_of(event), data, headers, timeout=left, ensure=partial(self._ensure, kind)
                    )
                except _RepartitionedError:
                    if self._kinds.get(name) is kind:
                        del self._kinds[name]
                else:
                    return ack.sequence
        except FAILURES as error:
            raise status_of(error) from error
        except OptionsError as error:
            raise StatusError(StatusCode.FAILED_PRECONDITION, str(error)) from error
        except ValueError as error:
            limit = self._connection.max_payload - HEADER_ROOM
            raise StatusError(StatusCode.RESOURCE_EXHAUSTED, f"{name}: {error} ({limit} bytes at most)") from error

    async def _prepare(self, event: Message, deadline: float) -> _Kind:
        """Connect, and learn where events of this type go, for as long as it may take."""

        async def prepare() -> _Kind:
            if not self._started and not self._connection.is_closed:
                await self.start()
            return await self._learn(event)

        return await patiently("publishing", prepare, deadline - asyncio.get_running_loop().time())

    async def _learn(self, event: Message) -> _Kind:
        """Make sure of the stream of an event's type, once."""
        name = event.DESCRIPTOR.full_name
        while (learning := self._learning.get(name)) is not None:
            await learning.wait()  # All that wait go on at once, in their order.
        if name not in self._kinds:
            self._learning[name] = learning = asyncio.Event()
            try:
                descriptor: Any = event.DESCRIPTOR
                options = event_of(descriptor)
                found = await ensure_stream(self._js, stream(self._subjects, options), migrate=False)
                # The stream's own number counts: all publishers have to spread keys alike.
                self._kinds[name] = _Kind(options, self._subjects, found.partitions or options.partitions)
            finally:
                del self._learning[name]
                learning.set()
        return self._kinds[name]

    async def _ensure(self, kind: _Kind) -> None:
        """Make the stream if it is missing; raise ``_RepartitionedError`` if it spreads keys otherwise than before."""
        found = await ensure_stream(self._js, stream(self._subjects, kind.options), migrate=False)
        if kind.key and found.partitions not in {0, kind.partitions}:
            raise _RepartitionedError

    # ---------------------------------------------------------------------------------------------------- the buffer

    def offer(self, event: Message, *, id: str = "") -> bool:  # noqa: A002
        """Put an event into the buffer, from where it is published in the background; never waits.

        Returns False, and counts it in ``dropped``, when the buffer is full or the publisher closed. What cannot be
        published within ``DEFAULT_TIMEOUT`` is dropped, counted and logged.
        """
        position = None if self._producer is None else self._producer.position()
        return self._buffer.offer(event, id, position)

    async def flush(self, timeout: float | None = None) -> bool:
        """Return once all that ``offer`` has taken is published or dropped; False after ``timeout`` seconds if not."""
        return await self._buffer.flush(timeout)

    @property
    def dropped(self) -> int:
        """How many events ``offer`` did not take, or could not be published later."""
        return self._buffer.dropped
