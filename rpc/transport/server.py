"""The server half of the call path: turns messages into calls, runs their handlers, sends the replies.

One queue-group subscription serves a service; each message becomes a task at once, so that a slow handler never delays
the next message. How many may run is the business of ``policy.limits``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial

from rpc.call import Call, Handler
from rpc.deadline import EXCEEDED
from rpc.method import MethodInfo
from rpc.status import Refusal, StatusCode, StatusError
from rpc.subjects import QUEUE_GROUP, Subjects
from rpc.tasks import TaskSet
from rpc.transport import rollcall
from rpc.transport.base import Connection, Headers, Message, Subscription
from rpc.transport.client import DEFAULT_MAX_MESSAGE
from rpc.transport.stream import HEADER_ROOM, Stream
from rpc.wire import envelope
from rpc.wire.stream import INITIAL_WINDOW, Ended, Role

logger = logging.getLogger(__name__)

ACCEPT_AFTER = 0.01
"""Seconds after which a call that is still under way tells its caller which instance has it (docs/wire-protocol.md)."""

_STREAM_HEADERS = {envelope.STREAM: "1"}

_UNEXPECTED = "Unexpected error in the back-end"

_MAX_METHODS = 2000
"""Methods whose handlers are remembered. Interceptors may serve any name, so callers could invent them for ever."""

Method = tuple[MethodInfo, Handler]
Lookup = Callable[[str], Method | None]


class _Held:
    """A call between its request and the last word of its answer."""

    __slots__ = ("call", "since", "stream", "task")

    call: Call
    task: asyncio.Task[None]
    """Filled in right after it was started; ``asyncio.current_task()`` would cost each call a microsecond and more."""

    def __init__(self, since: float) -> None:
        self.stream: Stream | None = None
        self.since = since

    def stop(self, _error: StatusError) -> None:
        """Cancel the handler."""
        self.task.cancel()


class ServerTransport:
    """Receives the calls of the services that were added. One per server; used from one event loop."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        instance: str,
        *,
        max_tasks: int,
        max_message: int = DEFAULT_MAX_MESSAGE,
        window: int = INITIAL_WINDOW,
        silence_limit: float = rollcall.SILENCE_LIMIT,
    ) -> None:
        """``max_tasks`` bounds the calls that are held at all, running, queued or being refused.

        ``max_message``: bytes of one request; ``window``: bytes of a stream taken in before they are read.
        ``silence_limit``: seconds after which a caller that says nothing counts as dead.
        """
        self._connection = connection
        self._subjects = subjects
        self._instance = instance
        self._max_tasks = max_tasks
        self._max_message = max_message
        self._window = window
        self._services: dict[str, Lookup] = {}
        self._methods: dict[str, Method] = {}
        self._held: dict[str, _Held] = {}
        """By reply subject: it is the name that caller and back-end share for a call."""
        self._young: dict[_Held, None] = {}
        """Calls of one message each way that began within the last moments and are under way, oldest first."""
        self._accepter: asyncio.TimerHandle | None = None
        self._roll = rollcall.RollCaller(self._ask, silence_limit=silence_limit)
        self._sweeper: asyncio.TimerHandle | None = None
        self._tasks = TaskSet()
        self._calls = TaskSet()
        self._subscriptions: list[Subscription] = []
        self._drained = False
        self._instance_subscription: Subscription | None = None
        self._instance_prefix = len(subjects.instance(instance)) - 1
        self._accepted_headers = {envelope.ACCEPTED: instance}
        self._largest = 0
        self._remove_listener: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop

    @property
    def in_flight(self) -> int:
        """How many calls were taken and are not answered yet."""
        return len(self._calls)

    def add(self, service: str, lookup: Lookup) -> None:
        """Serve ``service``; ``lookup`` gives the handler of a method name, or None. Raises ``ValueError``."""
        self._subjects.service(service)
        self._services[service] = lookup

    async def start(self) -> None:
        """Subscribe to all services. The connection is connected already."""
        self._loop = asyncio.get_running_loop()
        self._largest = self._connection.max_payload - HEADER_ROOM
        self._remove_listener = self._connection.on_state_change(self._state_changed)
        # Cancellations and roll calls first: a call must never be accepted that could not be cancelled.
        self._instance_subscription = await self._connection.subscribe(
            self._subjects.instance(self._instance), self._receive_for_instance
        )
        for service in self._services:
            self._subscriptions.append(
                await self._connection.subscribe(
                    self._subjects.service(service),
                    self._receive,
                    queue=QUEUE_GROUP,
                )
            )
        await self._connection.flush()

    async def drain(self) -> None:
        """Take no more calls; on return, every call that was routed here has been taken or refused."""
        try:
            await asyncio.gather(*(subscription.drain() for subscription in self._subscriptions))
            self._subscriptions.clear()
        finally:
            self._drained = True

    async def wait_idle(self, timeout: float | None) -> bool:
        """Wait until all calls are answered; False when ``timeout`` seconds were not enough."""
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        while self._calls:
            remaining = None if end is None else end - loop.time()
            if remaining is not None and remaining <= 0:
                return False
            await self._calls.wait(remaining)
        return True

    async def abort_all(self) -> None:
        """Cancel what is still running; its callers are told UNAVAILABLE."""
        for held in list(self._held.values()):
            held.call.cancel(StatusCode.UNAVAILABLE, "the server is shutting down")
        await self.wait_idle(5.0)

    async def close(self) -> None:
        """Stop listening; the calls have ended before."""
        for timer in (self._sweeper, self._accepter):
            if timer is not None:
                timer.cancel()
        if self._remove_listener is not None:
            self._remove_listener()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()
        if self._instance_subscription is not None:
            await self._instance_subscription.unsubscribe()
            self._instance_subscription = None
        await self._calls.close()
        await self._tasks.wait(1.0)
        await self._tasks.close()

    # ------------------------------------------------------------------------------------------------ receiving

    def _receive(self, message: Message) -> None:
        if not message.reply:
            return  # Nobody waits for an answer, so this is not a call.
        if self._drained:
            # Meant for this very instance, or late: nobody would see to its end.
            headers = envelope.error_headers(StatusCode.UNAVAILABLE, "the back-end is stopping", refused="draining")
            self._reply_soon(message.reply, b"", headers)
            return
        if len(self._calls) >= self._max_tasks + 1024:
            # Far over the bound, not even refusals are made one by one: the message counts as not received.
            details = "the back-end could not take the message in"
            headers = envelope.error_headers(StatusCode.UNAVAILABLE, details, refused="queue-full")
            self._reply_soon(message.reply, b"", headers)
            return
        subject = message.subject
        method = self._methods.get(subject) or self._lookup(subject)
        held = _Held(self._loop.time())
        held.task = self._calls.spawn(self._serve(held, message, method))

    def _lookup(self, subject: str) -> Method | None:
        path, _, name = subject.rpartition(".")
        service = path[path.index("rpc.", len(self._subjects.prefix)) + 4 :]
        lookup = self._services.get(service)
        found = lookup(name) if lookup is not None else None
        if found is not None and len(self._methods) < _MAX_METHODS:
            self._methods[subject] = found  # Only what exists: a caller's inventions must not fill the table.
        return found

    def _receive_for_instance(self, message: Message) -> None:
        kind = message.subject[self._instance_prefix :]
        if kind.startswith("stream."):
            held = self._held.get(kind[7:])
            if held is not None and held.stream is not None:
                held.stream.on_packet(message.data)
        elif kind == "cancel":
            held = self._held.get(message.data[:512].decode("utf-8", "replace"))
            if held is not None:
                held.call.cancel()
        elif kind == "roll":
            self._answer_roll_call(message)
        elif kind.startswith("rolled."):
            self._roll_answered(kind[7:], message)
        elif kind.startswith("rpc."):
            self._receive(message)

    def _reply_soon(self, reply: str, data: bytes, headers: dict[str, str] | None) -> None:
        if reply:
            self._tasks.spawn(self._reply(reply, data, headers))

    # -------------------------------------------------------------------------------------------------- serving

    async def _serve(self, held: _Held, message: Message, method: Method | None) -> None:
        """Run one call from its request to its answer."""
        reply = message.reply
        headers = message.headers
        if method is None:
            name = message.subject.rpartition(".")[2]
            await self._reply(reply, b"", envelope.error_headers(StatusCode.UNIMPLEMENTED, f"Method {name} not found!"))
            return
        try:
            held.call = call = self._call(method[0], message)
        except envelope.ProtocolError as error:
            await self._reply(reply, b"", envelope.error_headers(StatusCode.INTERNAL, str(error)))
            return
        except StatusError as error:
            await self._reply(reply, b"", envelope.error_headers(error.code, error.details))
            return
        if (known := self._held.get(reply)) is not None:
            # The request was doubled on its way. For a stream this is packet 0 once more, and so its end.
            if known.stream is not None:
                known.stream.on_packet(message.data)
            return
        self._held[reply] = held
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(rollcall.INTERVAL, self._sweep)
        try:
            if headers is not None and envelope.STREAM in headers:
                await self._serve_packets(held, method[1], message.data)
            elif call.info.is_unary:
                await self._serve_message(held, method[1])
            else:
                details = f"{call.info.full_name} is a streaming method, and the request does not open a stream"
                await self._reply(reply, b"", envelope.error_headers(StatusCode.INTERNAL, details))
        finally:
            del self._held[reply]

    def _call(self, info: MethodInfo, message: Message) -> Call:
        request = envelope.read_request(message.headers)
        data = message.data
        if not request.stream:
            if len(data) > self._max_message:
                raise envelope.too_large(len(data), self._max_message)
            if request.compressed:
                data = envelope.gunzip(data, self._max_message)
        deadline = None if request.timeout is None else self._loop.time() + request.timeout
        call = Call(info, data, metadata=request.metadata, deadline=deadline, peer=message.reply)
        call.compress = request.compressed
        return call

    async def _run(self, held: _Held, handler: Handler) -> StatusError | None:
        """Run the handler to its end, whatever that is; return what it ended with, None for OK."""
        call, task = held.call, held.task
        error: StatusError | None = None
        try:
            call.on_cancel(held.stop)
            await handler(call)
        except StatusError as failure:
            error = failure
        except asyncio.CancelledError:
            if task.cancelling():
                error = StatusError(StatusCode.UNAVAILABLE, "the server is shutting down")
            else:
                # Something that the handler waited for was cancelled, and it did not catch that.
                logger.exception("a handler of %s was cancelled from inside", call.info.full_name)
                error = StatusError(StatusCode.UNKNOWN, _UNEXPECTED)
        except Exception:
            # Our own bug, or an interceptor's: the caller learns that it happened, the log what it was.
            logger.exception("unexpected error in a call of %s", call.info.full_name)
            error = StatusError(StatusCode.UNKNOWN, _UNEXPECTED)
        finally:
            call.on_cancel(None)
        if task.cancelling():
            await _take_in_cancellation(task)
        # A call that was cancelled ends with that, whatever its handler made of it.
        return call.cancelled or error

    async def _serve_message(self, held: _Held, handler: Handler) -> None:
        """One request message came; one reply goes, in packets if it is too large for a message."""
        call, reply = held.call, held.call.peer
        self._young[held] = None
        if self._accepter is None:
            self._accepter = self._loop.call_later(ACCEPT_AFTER, self._accept_old_ones)
        error = await self._run(held, handler)
        self._young.pop(held, None)
        if error is not None:
            await self._reply(reply, b"", self._failure(call, error))
            return
        data = call.response
        compress = call.compress and len(data) > 0
        if compress:
            data = envelope.gzip(data)
        if len(data) <= self._largest:
            headers = envelope.response_headers(call.initial_metadata, call.trailing_metadata, compressed=compress)
            await self._reply(reply, data, headers)
            return
        # The caller expects one reply: each packet must tell that it is none, even if the first one is lost.
        held.stream = stream = self._stream(call, _STREAM_HEADERS)
        await self._end_stream(held, stream, None)

    def _accept_old_ones(self) -> None:
        """Send the acceptance of the calls that have lasted for so long.

        One timer serves them all, and looks again after the same time rather than when the next one is due: a timer for
        each call would cost as much as its reply. So an acceptance comes up to ``2 * ACCEPT_AFTER`` after the call.
        """
        young, horizon = self._young, self._loop.time() - ACCEPT_AFTER
        for held in list(young):
            if held.since > horizon:
                break
            del young[held]
            self._reply_soon(held.call.peer, b"", self._accepted_headers)
        self._accepter = self._loop.call_later(ACCEPT_AFTER, self._accept_old_ones) if young else None

    async def _serve_packets(self, held: _Held, handler: Handler, opening: bytes) -> None:
        """The request came as the first packet of a stream."""
        call = held.call
        held.stream = stream = self._stream(call)
        call.stream = stream
        ended = partial(_caller_ended, call)
        stream.ended.add_done_callback(ended)
        stream.on_packet(opening)
        accept = self._loop.call_later(ACCEPT_AFTER, stream.announce)
        try:
            error = await self._run(held, handler)
            accept.cancel()
            if error is not None and stream.is_silent:
                await self._reply(call.peer, b"", self._failure(call, error))
            else:
                await self._end_stream(held, stream, error)
        finally:
            accept.cancel()
            stream.ended.remove_done_callback(ended)
            stream.close()

    def _stream(self, call: Call, headers: Headers | None = None) -> Stream:
        stream = Stream(
            Role.SERVER,
            self._connection,
            self._tasks,
            window=self._window,
            max_message=self._max_message,
            compress=call.compress,
            first_headers=self._accepted_headers,
            headers=headers,
        )
        stream.peer_subject = call.peer
        return stream

    async def _end_stream(self, held: _Held, stream: Stream, error: StatusError | None) -> None:
        """Send the rest and the status; a caller that does not read is waited for, until it is gone or cancels."""
        call = held.call
        if error is None and stream.ended.done():
            return  # The handler returned all the same; there is nobody to hear of it.
        if not stream.headers_sent and call.initial_metadata:
            stream.send_headers(call.initial_metadata)
        if error is None and not call.info.server_streaming:
            stream.queue(call.response)
        code, details = (StatusCode.OK, "") if error is None else (error.code, error.details)
        discard = call.cancelled is not None

        async def finish(_call: Call) -> None:
            await stream.finish(code, details, call.trailing_metadata, discard=discard)

        if discard:
            await finish(call)
            return
        timer: asyncio.TimerHandle | None = None
        if call.deadline is not None:
            timer = self._loop.call_at(call.deadline, call.cancel, StatusCode.DEADLINE_EXCEEDED, EXCEEDED)
        failure = await self._run(held, finish)
        if timer is not None:
            timer.cancel()
        if failure is not None:
            stream.fail(failure, tell=True)

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
            logger.debug("an answer was lost: %s", error)
        except ValueError as error:
            if data:
                details = f"the response cannot be sent: {error}"
                await self._reply(reply, b"", envelope.error_headers(StatusCode.RESOURCE_EXHAUSTED, details))
            else:
                logger.warning("an answer could not be sent: %s", error)

    # ------------------------------------------------------------------------------------------------- liveness

    def _sweep(self) -> None:
        """Ask the callers of calls that last whether they still wait."""
        now = self._loop.time()
        waiting: dict[str, list[str]] = {}
        for reply, held in self._held.items():
            if now - held.since > rollcall.INTERVAL and rollcall.INBOX_MARK in reply:
                inbox, _, token = reply.rpartition(".")
                entry = token if held.stream is None else f"{token} {held.stream.packets_sent}"
                waiting.setdefault(inbox, []).append(entry)
        for inbox in self._roll.sweep(now, waiting):
            self._cancel_all_of(inbox, self._tokens_of(inbox), StatusCode.UNAVAILABLE, "the caller fell silent")
        self._sweeper = self._loop.call_later(rollcall.INTERVAL, self._sweep) if self._held else None

    def _ask(self, inbox: str, tokens: list[str]) -> None:
        try:
            answer_to = self._subjects.roll_answer(self._instance, inbox)
        except ValueError:
            return  # A reply subject that is none of ours.
        self._tasks.spawn(self._publish_roll(f"{inbox}.roll", rollcall.encode_calls(tokens), answer_to))

    async def _publish_roll(self, subject: str, data: bytes, reply: str) -> None:
        try:
            await self._connection.publish(subject, data, reply=reply)
        except (ConnectionError, ValueError) as error:
            logger.debug("could not publish to %s: %s", subject, error)

    def _roll_answered(self, inbox: str, message: Message) -> None:
        headers = message.headers
        if headers is not None:
            if headers.get(envelope.NATS_STATUS) == envelope.NO_RESPONDERS:
                self._cancel_all_of(inbox, self._tokens_of(inbox), StatusCode.UNAVAILABLE, "the caller is gone")
            return
        self._roll.heard(inbox)
        tokens = [token for token, _ in rollcall.decode_calls(message.data)]
        self._cancel_all_of(inbox, tokens, StatusCode.CANCELLED, "the caller does not wait any more")

    def _tokens_of(self, inbox: str) -> list[str]:
        return [reply.rpartition(".")[2] for reply in self._held if reply.rpartition(".")[0] == inbox]

    def _cancel_all_of(self, inbox: str, tokens: list[str], code: StatusCode, why: str) -> None:
        for token in tokens:
            held = self._held.get(f"{inbox}.{token}")
            if held is not None:
                held.call.cancel(code, why)

    def _answer_roll_call(self, message: Message) -> None:
        if message.reply:
            inbox = message.reply.rpartition(".")[0]
            unknown: list[str] = []
            for token, packets in rollcall.decode_calls(message.data):
                held = self._held.get(f"{inbox}.{token}")
                if held is None:
                    unknown.append(token)
                elif packets is not None and held.stream is not None:
                    held.stream.check_received(packets)
            self._reply_soon(message.reply, rollcall.encode_calls(unknown), None)

    def _state_changed(self, connected: bool) -> None:
        if connected:
            self._largest = self._connection.max_payload - HEADER_ROOM
            return
        for held in list(self._held.values()):
            if held.stream is not None:
                # Packets are lost with the connection, and a stream with a hole in it cannot go on.
                held.call.cancel(StatusCode.UNAVAILABLE, "the connection to NATS was lost during the call")


async def _take_in_cancellation(task: asyncio.Task[None]) -> None:
    """Let the running task see a cancellation that was asked for, but has not come yet; the answer must not get it."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    while task.cancelling():
        task.uncancel()


def _caller_ended(call: Call, ended: asyncio.Future[Ended]) -> None:
    error = None if ended.cancelled() else ended.exception()
    if isinstance(error, StatusError):
        call.cancel(error.code, error.details)
    else:
        call.cancel()
