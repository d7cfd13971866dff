"""The client half of the call path: carries a ``Call`` over a connection and waits for its end.

One wildcard inbox serves all calls of a connection; a table finds the call of a reply. A call that lives longer than
a moment is told which instance accepted it; that instance can then be sent a cancellation, and is probed: when the
bus says that nobody listens there any more, its calls end with UNAVAILABLE, long before their deadlines.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from typing import TYPE_CHECKING

from rpc.status import Refusal, StatusCode, StatusError
from rpc.tasks import TaskSet
from rpc.wire import envelope

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpc.call import Call
    from rpc.subjects import Subjects
    from rpc.transport.base import Connection, Message, Subscription

logger = logging.getLogger(__name__)

SWEEP_INTERVAL = 0.5
"""Seconds between two looks at the calls that are under way."""

SILENCE_LIMIT = 5.0
"""Seconds after which a back-end that neither accepted the call nor answered a probe counts as dead."""

MAX_ABANDONED = 4096
"""Calls that were given up before anyone accepted them, remembered so that they can still be cancelled."""

_PROBE = "probe-"
_CHANNELS = count(1)


class _Pending:
    """A call that waits for its reply."""

    __slots__ = ("call", "future", "heard", "instance", "token", "transport")

    def __init__(self, transport: ClientTransport, call: Call, token: str, future: asyncio.Future[Message]) -> None:
        self.transport = transport
        self.call = call
        self.token = token
        self.future = future
        self.instance = ""
        self.heard = 0.0

    def fail(self, error: StatusError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class ClientTransport:
    """The Handler that every client stack ends in. One per channel; used from one event loop."""

    def __init__(self, connection: Connection, subjects: Subjects, *, silence_limit: float = SILENCE_LIMIT) -> None:
        self._connection = connection
        self._subjects = subjects
        self._silence_limit = silence_limit
        self._pending: dict[str, _Pending] = {}
        self._abandoned: dict[str, float] = {}
        self._probes: dict[str, float] = {}
        self._method_subjects: dict[str, str] = {}
        self._tasks = TaskSet()
        self._subscription: Subscription | None = None
        self._remove_listener: Callable[[], None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._sequence = 0
        self._inbox = ""
        self._loop: asyncio.AbstractEventLoop

    @property
    def in_flight(self) -> int:
        """How many calls wait for their reply."""
        return len(self._pending)

    async def start(self) -> None:
        """Subscribe to the inbox. The connection is connected already."""
        self._loop = asyncio.get_running_loop()
        # Each channel has an inbox of its own: two on one connection must not see each other's replies.
        self._inbox = f"{self._connection.inbox}.{next(_CHANNELS)}."
        self._remove_listener = self._connection.on_state_change(self._state_changed)
        self._subscription = await self._connection.subscribe(f"{self._inbox}*", self._receive)

    async def close(self) -> None:
        """End what is still under way with CANCELLED and unsubscribe."""
        if self._remove_listener is not None:
            self._remove_listener()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._fail_all(StatusError(StatusCode.CANCELLED, "the channel was closed"))
        await self._tasks.close()
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def wait_idle(self, timeout: float) -> None:
        """Wait until no call is under way, ``timeout`` seconds at most."""
        waiting = [pending.future for pending in self._pending.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)

    async def __call__(self, call: Call) -> None:
        """Send the request, wait for the reply, put it on the call. Raises ``StatusError``."""
        path = call.info.path
        subject = self._method_subjects.get(path) or self._method_subject(call)
        self._sequence += 1
        token = str(self._sequence)
        deadline = call.deadline
        timeout = None if deadline is None else deadline - self._loop.time()
        future: asyncio.Future[Message] = self._loop.create_future()
        pending = _Pending(self, call, token, future)
        call.on_cancel(pending.fail)
        self._pending[token] = pending
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_INTERVAL, self._sweep)
        try:
            await self._publish(
                subject, call.request, self._inbox + token, envelope.request_headers(call.metadata, timeout)
            )
            message = await future
        except (asyncio.CancelledError, StatusError) as error:
            if not isinstance(error, StatusError) or error.code is StatusCode.CANCELLED:
                self._abandon(pending)
            raise
        finally:
            del self._pending[token]
            call.on_cancel(None)
        if message.headers is None:
            call.response = message.data
        else:
            self._finish(call, message)

    def _method_subject(self, call: Call) -> str:
        try:
            subject = self._subjects.method(call.info.service, call.info.name)
        except ValueError as error:
            raise StatusError(StatusCode.UNIMPLEMENTED, str(error)) from None
        self._method_subjects[call.info.path] = subject
        return subject

    async def _publish(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> None:
        try:
            await self._connection.publish(subject, data, reply=reply, headers=headers)
        except ConnectionError as error:
            raise Refusal(str(error), "not-connected") from error
        except ValueError as error:
            raise StatusError(StatusCode.RESOURCE_EXHAUSTED, str(error)) from error

    @staticmethod
    def _finish(call: Call, message: Message) -> None:
        try:
            reply = envelope.read_reply(message.headers or {})
        except envelope.ProtocolError as error:
            raise StatusError(StatusCode.INTERNAL, f"the back-end broke the wire protocol: {error}") from error
        call.initial_metadata = reply.initial_metadata
        call.trailing_metadata = reply.trailing_metadata
        if reply.error is not None:
            raise reply.error
        call.response = message.data

    def _receive(self, message: Message) -> None:
        token = message.subject[len(self._inbox) :]
        headers = message.headers
        pending = self._pending.get(token)
        if pending is not None:
            if headers is not None and envelope.ACCEPTED in headers:
                pending.instance = headers[envelope.ACCEPTED]
                pending.heard = self._loop.time()
            elif not pending.future.done():
                pending.future.set_result(message)
        elif token in self._abandoned:
            del self._abandoned[token]
            if headers is not None and envelope.ACCEPTED in headers:
                self._send_cancel(headers[envelope.ACCEPTED], token)
        elif token.startswith(_PROBE):
            self._probe_answered(token[len(_PROBE) :], headers)
        # Anything else is a reply to a call that ended before: nobody waits for it.

    def _abandon(self, pending: _Pending) -> None:
        """See to it that the back-end stops: now if we know which it is, else as soon as it says so."""
        if pending.instance:
            self._send_cancel(pending.instance, pending.token)
            return
        while len(self._abandoned) >= MAX_ABANDONED:
            del self._abandoned[next(iter(self._abandoned))]
        self._abandoned[pending.token] = self._loop.time()

    def _send_cancel(self, instance: str, token: str) -> None:
        try:
            subject = self._subjects.cancel(instance)
        except ValueError:
            return  # A peer's garbage; there is nobody to cancel.
        self._tasks.spawn(self._publish_quietly(subject, (self._inbox + token).encode(), ""))

    async def _publish_quietly(self, subject: str, data: bytes, reply: str) -> None:
        try:
            await self._connection.publish(subject, data, reply=reply)
        except (ConnectionError, ValueError) as error:
            logger.debug("could not publish to %s: %s", subject, error)

    def _sweep(self) -> None:
        """Look at the calls that last: probe the instances that hold them, give up on silent ones."""
        now = self._loop.time()
        instances: set[str] = set()
        for pending in list(self._pending.values()):
            if pending.heard == 0.0:
                pending.heard = now - SWEEP_INTERVAL / 2
            if pending.instance:
                if now - pending.heard > SWEEP_INTERVAL:
                    instances.add(pending.instance)
            elif now - pending.heard > self._silence_limit:
                pending.fail(StatusError(StatusCode.UNAVAILABLE, "no back-end answered or accepted the call in time"))
        for instance in instances:
            self._probe(instance, now)
        for instance in self._probes.keys() - instances:
            del self._probes[instance]
        horizon = now - self._silence_limit
        for token, since in list(self._abandoned.items()):
            if since > horizon:
                break
            del self._abandoned[token]
        busy = self._pending or self._abandoned
        self._sweeper = self._loop.call_later(SWEEP_INTERVAL, self._sweep) if busy else None

    def _probe(self, instance: str, now: float) -> None:
        since = self._probes.setdefault(instance, now)
        if now - since > self._silence_limit:
            self._fail_instance(instance, "the back-end that accepted the call fell silent")
            return
        try:
            subject = self._subjects.probe(instance)
        except ValueError:
            self._fail_instance(instance, "the back-end that accepted the call gave a malformed instance id")
            return
        self._tasks.spawn(self._publish_quietly(subject, b"", f"{self._inbox}{_PROBE}{instance}"))

    def _probe_answered(self, instance: str, headers: dict[str, str] | None) -> None:
        if headers is not None and headers.get(envelope.NATS_STATUS) == envelope.NO_RESPONDERS:
            self._fail_instance(instance, "the back-end that accepted the call died")
        elif instance in self._probes:
            self._probes[instance] = self._loop.time()

    def _fail_instance(self, instance: str, why: str) -> None:
        self._probes.pop(instance, None)
        for pending in list(self._pending.values()):
            if pending.instance == instance:
                pending.fail(StatusError(StatusCode.UNAVAILABLE, why))

    def _state_changed(self, connected: bool) -> None:
        if not connected:
            # Replies that were on their way are gone with the connection: waiting for them would be hoping.
            self._fail_all(StatusError(StatusCode.UNAVAILABLE, "the connection to NATS was lost during the call"))

    def _fail_all(self, error: StatusError) -> None:
        for pending in list(self._pending.values()):
            pending.fail(StatusError(error.code, error.details))
