"""The server half of the call path: turns messages into calls, runs their handlers, sends the replies.

One queue-group subscription serves a service; each message becomes a task at once, so that a slow handler never
delays the next message. How many may run is the business of ``policy.limits``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from rpc.call import Call, Handler
from rpc.status import Refusal, StatusCode, StatusError
from rpc.subjects import QUEUE_GROUP
from rpc.tasks import TaskSet
from rpc.wire import envelope

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpc.method import MethodInfo
    from rpc.subjects import Subjects
    from rpc.transport.base import Connection, Message, Subscription

logger = logging.getLogger(__name__)

ACCEPT_AFTER = 0.01
"""Seconds after which a call that is still under way tells its caller which instance has it (docs/wire-protocol.md)."""


class ServerTransport:
    """Receives the calls of the services that were added. One per server; used from one event loop."""

    def __init__(self, connection: Connection, subjects: Subjects, instance: str, *, max_tasks: int) -> None:
        """``max_tasks`` bounds the calls that are held at all, running, queued or being refused."""
        self._connection = connection
        self._subjects = subjects
        self._instance = instance
        self._max_tasks = max_tasks
        self._services: dict[str, Callable[[str], tuple[MethodInfo, Handler] | None]] = {}
        self._methods: dict[str, tuple[MethodInfo, Handler] | None] = {}
        self._running: dict[str, Call] = {}
        """Calls between request and reply, by their reply subject: it is the name that caller and server share."""
        self._tasks = TaskSet()
        self._subscriptions: list[Subscription] = []
        self._instance_subscription: Subscription | None = None
        self._accepted_headers = {envelope.ACCEPTED: instance}
        self._draining = False
        self._loop: asyncio.AbstractEventLoop

    @property
    def in_flight(self) -> int:
        """How many calls were taken and are not answered yet."""
        return len(self._tasks)

    def add(self, service: str, lookup: Callable[[str], tuple[MethodInfo, Handler] | None]) -> None:
        """Serve ``service``; ``lookup`` gives the handler of a method name, or None. Raises ``ValueError``."""
        self._subjects.service(service)
        self._services[service] = lookup

    async def start(self) -> None:
        """Subscribe to all services. The connection is connected already."""
        self._loop = asyncio.get_running_loop()
        # Cancellations and probes first: a call must never be accepted that could not be cancelled.
        self._instance_subscription = await self._connection.subscribe(
            self._subjects.instance(self._instance), self._receive_for_instance
        )
        for service in self._services:
            self._subscriptions.append(
                await self._connection.subscribe(
                    self._subjects.service(service),
                    self._receive,
                    queue=QUEUE_GROUP,
                    max_pending=max(1024, 2 * self._max_tasks),
                    overflow=self._overflow,
                )
            )
        await self._connection.flush()

    async def drain(self) -> None:
        """Take no more calls; on return, every call that was routed here has been taken or refused."""
        self._draining = True
        await asyncio.gather(*(subscription.drain() for subscription in self._subscriptions))
        self._subscriptions.clear()

    async def wait_idle(self, timeout: float | None) -> bool:
        """Wait until all calls are answered; False when ``timeout`` seconds were not enough."""
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        while self._tasks:
            remaining = None if end is None else end - loop.time()
            if remaining is not None and remaining <= 0:
                return False
            await self._tasks.wait(remaining)
        return True

    async def abort_all(self) -> None:
        """Cancel what is still running; its callers are told UNAVAILABLE."""
        for call in list(self._running.values()):
            call.cancel(StatusCode.UNAVAILABLE, "the server is shutting down")
        await self.wait_idle(5.0)

    async def close(self) -> None:
        """Stop listening; the calls must have ended before."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()
        if self._instance_subscription is not None:
            await self._instance_subscription.unsubscribe()
            self._instance_subscription = None

    # ------------------------------------------------------------------------------------------------ receiving

    def _receive(self, message: Message) -> None:
        if not message.reply:
            return  # Nobody waits for an answer, so this is not a call.
        if len(self._tasks) >= self._max_tasks * 2:
            # Far over the bound, even refusals are not worth a task each: the caller's silence limit ends the call.
            return
        subject = message.subject
        try:
            method = self._methods[subject]
        except KeyError:
            method = self._lookup(subject)
        self._tasks.spawn(self._serve(message, method))

    def _lookup(self, subject: str) -> tuple[MethodInfo, Handler] | None:
        path, _, method = subject[len(self._subjects.prefix) :].rpartition(".")
        service = path.partition("rpc.")[2]
        lookup = self._services.get(service)
        found = lookup(method) if lookup is not None else None
        if found is not None:
            self._methods[subject] = found  # Only what exists: a caller's inventions must not fill the table.
        return found

    def _receive_for_instance(self, message: Message) -> None:
        kind = message.subject[len(self._subjects.instance(self._instance)) - 1 :]
        if kind == "cancel":
            call = self._running.get(message.data[:256].decode("utf-8", "replace"))
            if call is not None:
                call.cancel()
        elif kind == "probe":
            self._spawn_reply(message.reply, b"", None)
        elif kind.startswith("rpc."):
            self._receive(message)

    def _overflow(self, _subject: str, reply: str) -> None:
        if reply:
            headers = envelope.error_headers(
                StatusCode.UNAVAILABLE, "the back-end could not take the message in", refused="queue-full"
            )
            self._spawn_reply(reply, b"", headers)

    def _spawn_reply(self, reply: str, data: bytes, headers: dict[str, str] | None) -> None:
        if reply:
            self._tasks.spawn(self._reply(reply, data, headers))

    # -------------------------------------------------------------------------------------------------- serving

    async def _serve(self, message: Message, method: tuple[MethodInfo, Handler] | None) -> None:
        """Run one call from its message to its reply."""
        reply = message.reply
        if method is None:
            name = message.subject.rpartition(".")[2]
            await self._reply(reply, b"", envelope.error_headers(StatusCode.UNIMPLEMENTED, f"Method {name} not found!"))
            return
        try:
            timeout, metadata = envelope.read_request(message.headers)
        except envelope.ProtocolError as error:
            await self._reply(reply, b"", envelope.error_headers(StatusCode.INTERNAL, str(error)))
            return
        info, handler = method
        loop = self._loop
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are that task
        call = Call(
            info,
            message.data,
            metadata=metadata,
            deadline=None if timeout is None else loop.time() + timeout,
            peer=reply,
        )

        def stop(_error: StatusError) -> None:
            task.cancel()

        call.on_cancel(stop)
        self._running[reply] = call
        accept = loop.call_later(ACCEPT_AFTER, self._spawn_reply, reply, b"", self._accepted_headers)
        try:
            await handler(call)
            data = call.response
            headers = envelope.response_headers(call.initial_metadata, call.trailing_metadata)
        except StatusError as error:
            data, headers = b"", self._failure(call, error)
        except asyncio.CancelledError:
            task.uncancel()
            reason = call.cancelled or StatusError(StatusCode.UNAVAILABLE, "the server is shutting down")
            data, headers = b"", self._failure(call, reason)
        except Exception:
            # Our own bug, or an interceptor's: the caller learns that it happened, the log what it was.
            logger.exception("unexpected error in a call of %s", info.full_name)
            unexpected = StatusError(StatusCode.UNKNOWN, "Unexpected error in the back-end")
            data, headers = b"", self._failure(call, unexpected)
        finally:
            accept.cancel()
            call.on_cancel(None)
            if self._running.get(reply) is call:
                del self._running[reply]
        await self._reply(reply, data, headers)

    @staticmethod
    def _failure(call: Call, error: StatusError) -> dict[str, str]:
        refused = error.reason if isinstance(error, Refusal) else ""
        return envelope.error_headers(
            error.code, error.details, call.initial_metadata, call.trailing_metadata, refused=refused
        )

    async def _reply(self, reply: str, data: bytes, headers: dict[str, str] | None) -> None:
        try:
            await self._connection.publish(reply, data, headers=headers)
        except ConnectionError as error:
            logger.warning("a reply was lost: %s", error)
        except ValueError as error:
            if data or (headers is not None and len(headers) > 4):
                headers = envelope.error_headers(StatusCode.RESOURCE_EXHAUSTED, f"the response cannot be sent: {error}")
                await self._reply(reply, b"", headers)
            else:
                logger.warning("a reply could not be sent: %s", error)
