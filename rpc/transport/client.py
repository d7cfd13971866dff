"""The client half of the call path: carries a ``Call`` over a connection and waits for its end.

One wildcard inbox serves all calls of a channel; a table finds the call of a reply. A call that fits into one message
each way costs one message each way; all others are packets of a ``Stream``. A call that lasts is told which instance
has it: there it can be cancelled, and roll calls notice when it got lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import count
from typing import Any

from rpc.call import Call
from rpc.status import Refusal, StatusCode, StatusError
from rpc.subjects import Subjects
from rpc.tasks import TaskSet
from rpc.transport import rollcall
from rpc.transport.base import Connection, Message, Subscription
from rpc.transport.stream import HEADER_ROOM, Stream
from rpc.wire import envelope
from rpc.wire.stream import INITIAL_WINDOW, Ended, Role

logger = logging.getLogger(__name__)

MAX_ABANDONED = 4096
"""Calls that were given up before anyone accepted them, remembered so that they can still be cancelled."""

MAX_METHODS = 2000
"""Methods whose subjects are remembered."""

LAST_CANCELLATIONS = 0.1
"""Seconds that a channel that closes waits at most for the back-ends that have just taken its calls to say so: they are
to be told that the calls are cancelled. (Those that do not hear of it find out by roll calls.)"""

DEFAULT_MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes that one received message may have, as in gRPC (``grpc.max_receive_message_length``)."""

_ROLL = "roll"
_ROLLED = "rolled-"
_CHANNELS = count(1)


class _Pending:
    """A call that waits for its end."""

    __slots__ = ("call", "instance", "reply", "since", "stream", "token", "unheard")

    def __init__(self, call: Call, token: str, since: float) -> None:
        self.call = call
        self.token = token
        self.since = since
        self.unheard = 0.0
        """Seconds in which nobody accepted it, while we listened."""
        self.instance = ""
        self.reply: asyncio.Future[Message | Stream] | None = None
        self.stream: Stream | None = None

    @property
    def roll_entry(self) -> str:
        """What a roll call says of it: its token, and the number of packets that were sent."""
        return self.token if self.stream is None else f"{self.token} {self.stream.packets_sent}"

    @property
    def is_with_backend(self) -> bool:
        """Tell whether the back-end that accepted the call has not ended it yet."""
        return self.stream is None or not self.stream.ended.done()

    def cancel(self, error: StatusError) -> None:
        """End the wait and drop what came: the caller does not want it any more."""
        self.fail(error)
        if self.stream is not None:
            self.stream.discard(error)

    def fail(self, error: StatusError) -> None:
        """End the wait with an error."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(error)
        if self.stream is not None:
            self.stream.fail(error, tell=True)


class ClientTransport:
    """The Handler that every client stack ends in. One per channel; used from one event loop."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        *,
        max_message: int = DEFAULT_MAX_MESSAGE,
        window: int = INITIAL_WINDOW,
        silence_limit: float = rollcall.SILENCE_LIMIT,
    ) -> None:
        """``max_message``: bytes of one response; ``window``: bytes taken in before they are read.

        ``silence_limit``: seconds after which a back-end that says nothing counts as dead.
        """
        self._connection = connection
        self._subjects = subjects
        self._max_message = max_message
        self._window = window
        self._silence_limit = silence_limit
        self._pending: dict[str, _Pending] = {}
        self._abandoned: dict[str, float] = {}
        self._roll = rollcall.RollCaller(self._ask, silence_limit=silence_limit)
        self._method_subjects: dict[str, str] = {}
        self._tasks = TaskSet()
        self._subscription: Subscription | None = None
        self._remove_listener: Callable[[], None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._swept = 0.0
        """When we looked at the calls last."""
        self._sequence = 0
        self._closed = False
        self._inbox = ""
        self._largest = 0
        self._loop: asyncio.AbstractEventLoop

    @property
    def in_flight(self) -> int:
        """How many calls wait for their end."""
        return len(self._pending)

    async def start(self) -> None:
        """Subscribe to the inbox. The connection is connected already."""
        self._loop = asyncio.get_running_loop()
        # Each channel has an inbox of its own: two on one connection must not see each other's replies.
        self._inbox = f"{self._connection.inbox}{rollcall.INBOX_MARK}{next(_CHANNELS)}."
        self._largest = self._connection.max_payload - HEADER_ROOM
        self._subscription = await self._connection.subscribe(f"{self._inbox}*", self._receive)
        self._remove_listener = self._connection.on_state_change(self._state_changed)

    async def close(self) -> None:
        """End what is still under way with CANCELLED and unsubscribe; calls that come later end so, too."""
        self._closed = True
        if self._remove_listener is not None:
            self._remove_listener()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for pending in list(self._pending.values()):
            pending.call.cancel(details="the channel was closed")
        until = self._loop.time() + LAST_CANCELLATIONS
        # Those who waited see it now, and have cancellations sent.
        while (self._pending or self._abandoned) and self._loop.time() < until:  # noqa: ASYNC110 - costs calls nothing
            await asyncio.sleep(0.001)
        await self._tasks.wait(1.0)
        await self._tasks.close()
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def wait_idle(self, timeout: float) -> None:
        """Wait until no call is under way, ``timeout`` seconds at most."""
        waiting: list[asyncio.Future[Any]] = []
        for pending in self._pending.values():
            if pending.reply is not None:
                waiting.append(pending.reply)
            elif pending.stream is not None:
                waiting.append(pending.stream.ended)
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)

    # -------------------------------------------------------------------------------------------------- calling

    async def __call__(self, call: Call) -> None:
        """Send the request, wait for the end, put the response on the call. Raises ``StatusError``."""
        if self._closed:
            # Nobody would hear the answer, nor miss it.
            raise StatusError(StatusCode.CANCELLED, "the channel is closed")
        subject = self._method_subjects.get(call.info.path) or self._method_subject(call)
        self._sequence += 1
        token = str(self._sequence)
        now = self._loop.time()
        pending = _Pending(call, token, now)
        call.on_cancel(pending.cancel)
        self._pending[token] = pending
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(rollcall.INTERVAL, self._sweep)
        timeout = None if call.deadline is None else call.deadline - now
        headers = envelope.request_headers(call.metadata, timeout, compressed=call.compress)
        try:
            if call.info.is_unary and len(call.request) <= self._largest:
                await self._one_message_each_way(pending, subject, headers)
            else:
                await self._by_packets(pending, subject, headers)
        except (asyncio.CancelledError, StatusError) as error:
            if not isinstance(error, StatusError) or call.cancelled is not None:
                self._abandon(pending)
            raise
        finally:
            del self._pending[token]
            call.on_cancel(None)

    async def _one_message_each_way(self, pending: _Pending, subject: str, headers: dict[str, str] | None) -> None:
        call = pending.call
        reply: asyncio.Future[Message | Stream] = self._loop.create_future()
        pending.reply = reply
        request = call.request
        if call.compress:
            request = envelope.gzip(request)
        await self._publish(subject, request, self._inbox + pending.token, headers)
        answer = await reply
        if isinstance(answer, Stream):
            await self._last_response(call, answer)  # The response was too large for one message.
        elif answer.headers is None:
            data = answer.data
            if len(data) > self._max_message:
                raise envelope.too_large(len(data), self._max_message)
            call.response = data
        else:
            self._finish(call, answer)

    def _finish(self, call: Call, message: Message) -> None:
        try:
            reply = envelope.read_reply(message.headers or {})
        except envelope.ProtocolError as error:
            raise StatusError(StatusCode.INTERNAL, f"the back-end broke the wire protocol: {error}") from error
        call.initial_metadata = reply.initial_metadata
        call.trailing_metadata = reply.trailing_metadata
        if reply.error is not None:
            raise reply.error
        if len(message.data) > self._max_message:
            raise envelope.too_large(len(message.data), self._max_message)
        call.response = envelope.gunzip(message.data, self._max_message) if reply.compressed else message.data

    async def _by_packets(self, pending: _Pending, subject: str, headers: dict[str, str] | None) -> None:
        call = pending.call
        stream = pending.stream = self._stream(call)
        if not call.info.client_streaming:
            stream.queue(call.request)
            stream.half_close()
        await self._publish(
            subject, stream.opening(), self._inbox + pending.token, {**(headers or {}), envelope.STREAM: "1"}
        )
        if call.info.server_streaming:
            await self._end_of(call, stream)
            await stream.all_read()  # As in gRPC: a call that went well is not over before its last response was read.
        else:
            await self._last_response(call, stream)

    def _stream(self, call: Call) -> Stream:
        return Stream(
            Role.CLIENT,
            self._connection,
            self._tasks,
            window=self._window,
            max_message=self._max_message,
            compress=call.compress,
        )

    async def _last_response(self, call: Call, stream: Stream) -> None:
        """Wait for the one response of a call that came in packets, then for its status."""
        response = await stream.read()
        await self._end_of(call, stream)
        if response is None:
            raise StatusError(StatusCode.INTERNAL, "the back-end ended the call with OK, but without a response")
        call.response = response

    @staticmethod
    async def _end_of(call: Call, stream: Stream) -> None:
        ended: Ended = await asyncio.shield(stream.ended)
        call.initial_metadata = stream.initial_metadata
        call.trailing_metadata = ended.trailing_metadata
        if ended.code is not StatusCode.OK:
            raise StatusError(ended.code, ended.details)

    def _method_subject(self, call: Call) -> str:
        try:
            subject = self._subjects.method(call.info.service, call.info.name)
        except ValueError as error:
            raise StatusError(StatusCode.UNIMPLEMENTED, str(error)) from None
        if len(self._method_subjects) < MAX_METHODS:  # A proxy's callers may invent names for ever.
            self._method_subjects[call.info.path] = subject
        return subject

    async def _publish(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> None:
        try:
            await self._connection.publish(subject, data, reply=reply, headers=headers)
        except ConnectionError as error:
            raise Refusal(str(error), "not-connected") from error
        except ValueError as error:
            raise StatusError(StatusCode.RESOURCE_EXHAUSTED, str(error)) from error

    # ------------------------------------------------------------------------------------------------ receiving

    def _receive(self, message: Message) -> None:
        token = message.subject[len(self._inbox) :]
        headers = message.headers
        pending = self._pending.get(token)
        if pending is not None:
            if headers is None and pending.stream is None:
                if pending.reply is not None and not pending.reply.done():
                    pending.reply.set_result(message)
            else:
                self._receive_more(pending, message)
        elif token in self._abandoned:
            del self._abandoned[token]
            if headers is not None and envelope.ACCEPTED in headers:
                self._send_cancel(headers[envelope.ACCEPTED], token)
        elif token == _ROLL:
            self._answer_roll_call(message)
        elif token.startswith(_ROLLED):
            self._roll_answered(token[len(_ROLLED) :], message)
        # Anything else is a reply to a call that ended before: nobody waits for it.

    def _receive_more(self, pending: _Pending, message: Message) -> None:
        """Take an acceptance, a packet, or a reply that has headers."""
        headers = message.headers
        if headers is None:
            assert pending.stream is not None  # noqa: S101 - _receive has checked
            pending.stream.on_packet(message.data)
        elif envelope.ACCEPTED in headers:
            self._accepted(pending, headers[envelope.ACCEPTED], message.data)
        elif envelope.STREAM in headers:
            if pending.stream is not None:
                pending.stream.on_packet(message.data)
            else:
                pending.fail(StatusError(StatusCode.INTERNAL, "the first packet of the response was lost"))
        elif pending.stream is not None:
            # A bare error instead of packets: nothing was accepted, or nothing was sent yet.
            try:
                self._finish(pending.call, message)
                error = StatusError(StatusCode.INTERNAL, "the back-end answered a stream with one message")
            except StatusError as failure:
                error = failure
            pending.stream.fail(error, tell=False)
        elif pending.reply is not None and not pending.reply.done():
            pending.reply.set_result(message)

    def _accepted(self, pending: _Pending, instance: str, packet: bytes) -> None:
        try:
            subject = self._subjects.stream(instance, self._inbox + pending.token)
        except ValueError:
            pending.fail(StatusError(StatusCode.INTERNAL, "the back-end gave a malformed instance id"))
            return
        first = not pending.instance
        if not first and instance != pending.instance:
            # The request was doubled on its way; what either says may be half of the truth.
            self._send_cancel(instance, pending.token)
            pending.fail(StatusError(StatusCode.INTERNAL, "two back-ends took the same call"))
            return
        pending.instance = instance
        call, stream = pending.call, pending.stream
        if stream is None:
            if not packet:
                return
            stream = pending.stream = self._stream(call)
        stream.accepted(subject)
        if packet:
            stream.on_packet(packet)
        if pending.reply is not None:
            if not pending.reply.done():
                pending.reply.set_result(stream)
        elif first:
            call.stream = stream
            if call.on_stream is not None:
                call.on_stream(stream)

    def _abandon(self, pending: _Pending) -> None:
        """See to it that the back-end stops: now if we know which it is, else as soon as it says so."""
        if pending.stream is not None and pending.instance:
            pending.stream.fail(StatusError(StatusCode.CANCELLED, "the caller cancelled the call"), tell=True)
            return
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

    # ------------------------------------------------------------------------------------------------- liveness

    def _sweep(self) -> None:
        """Look at the calls that last: ask those who have them, give up on those that nobody accepted."""
        now = self._loop.time()
        held: dict[str, list[str]] = {}
        for pending in list(self._pending.values()):
            age = now - pending.since
            if pending.instance:
                if age > rollcall.INTERVAL and pending.is_with_backend:
                    held.setdefault(pending.instance, []).append(pending.roll_entry)
                continue
            # Our own standing still, stopped or starved, is not the silence of others.
            pending.unheard += min(age, now - self._swept, 2 * rollcall.INTERVAL)
            if pending.unheard > self._silence_limit:
                pending.fail(StatusError(StatusCode.UNAVAILABLE, "no back-end answered or accepted the call in time"))
        for instance in self._roll.sweep(now, held):
            self._fail_instance(instance, "the back-end that had the call fell silent")
        horizon = now - self._silence_limit
        for token, since in list(self._abandoned.items()):
            if since > horizon:
                break
            del self._abandoned[token]
        self._swept = now
        busy = self._pending or self._abandoned
        self._sweeper = self._loop.call_later(rollcall.INTERVAL, self._sweep) if busy else None

    def _ask(self, instance: str, tokens: list[str]) -> None:
        subject = self._subjects.roll_call(instance)
        reply = f"{self._inbox}{_ROLLED}{instance}"
        self._tasks.spawn(self._publish_quietly(subject, rollcall.encode_calls(tokens), reply))

    def _roll_answered(self, instance: str, message: Message) -> None:
        if message.headers is not None:
            if message.headers.get(envelope.NATS_STATUS) == envelope.NO_RESPONDERS:
                self._fail_instance(instance, "the back-end that had the call died")
            return
        self._roll.heard(instance)
        for token, _ in rollcall.decode_calls(message.data):
            pending = self._pending.get(token)
            if pending is not None and pending.instance == instance:
                pending.fail(StatusError(StatusCode.UNAVAILABLE, "the back-end does not have the call any more"))

    def _answer_roll_call(self, message: Message) -> None:
        """Tell a back-end which of the calls that it serves for us we do not wait for any more."""
        if message.reply:
            unknown: list[str] = []
            for token, packets in rollcall.decode_calls(message.data):
                pending = self._pending.get(token)
                if pending is None or not self._is_served_by(pending, message.reply):
                    unknown.append(token)
                elif packets is not None and pending.stream is not None:
                    pending.stream.check_received(packets)
            self._tasks.spawn(self._publish_quietly(message.reply, rollcall.encode_calls(unknown), ""))

    def _is_served_by(self, pending: _Pending, answer_to: str) -> bool:
        """Tell whether the back-end that asks is the one that has the call, as far as we know."""
        return not pending.instance or answer_to == self._subjects.roll_answer(pending.instance, self._inbox[:-1])

    def _fail_instance(self, instance: str, why: str) -> None:
        for pending in list(self._pending.values()):
            if pending.instance == instance:
                pending.fail(StatusError(StatusCode.UNAVAILABLE, why))

    def _state_changed(self, connected: bool) -> None:
        if not connected:
            # Replies that were on their way are gone with the connection: waiting for them would be hoping.
            self._fail_all(StatusError(StatusCode.UNAVAILABLE, "the connection to NATS was lost during the call"))
        else:
            self._largest = self._connection.max_payload - HEADER_ROOM

    def _fail_all(self, error: StatusError) -> None:
        for pending in list(self._pending.values()):
            pending.fail(StatusError(error.code, error.details))
