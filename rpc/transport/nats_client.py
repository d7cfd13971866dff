"""nats-py's client, mended and shortened where its public API gives no hold (ADR 0007).

Messages go from nats-py's parser straight to their receiver, and what is published within one turn of the event loop
goes out with one write: a queue, a task switch and a system call a message less each way.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import re

from nats import errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription

from rpc.transport.base import Headers, Receiver
from rpc.transport.nats_parser import DirectParser, DirectProtocol

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT = 10.0
"""Seconds that the broker may take to confirm that it sends nothing more to a subscription."""

JOIN_BELOW = 64 * 1024
"""Bytes up to which the commands of one write are copied into one buffer."""

PATIENT_ABOVE = 256 * 1024
"""Bytes that are written at most, or wait for the socket, before who publishes waits for it to take them."""

_UNSAFE = re.compile(r"[ \t\r\n\0]")
_VERSION = b"NATS/1.0"
_BLANKS = " \t\r\n\v\f"


class DeliveredMessage:
    """One message as it came: ``transport.base.Message``."""

    __slots__ = ("data", "headers", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, headers: dict[str, str] | None) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self.headers = headers


def parse_headers(block: bytes) -> dict[str, str] | None:
    """Return the headers of a message, an inline status among them as ``Status`` and ``Description``; None for none.

    Lines that are no header are passed over, bytes that are not UTF-8 become U+FFFD, both as in nats-py; of a name that
    comes twice the last value counts. Raises ``ValueError`` for what is no block of headers. Source: NATS ADR-4.
    """
    first, _, lines = block.partition(b"\r\n")
    headers: dict[str, str] = {}
    if first != _VERSION:
        if not first.startswith(_VERSION):
            raise ValueError("its headers do not begin with NATS/1.0")
        status, _, description = first[len(_VERSION) :].strip().decode("utf-8", "replace").partition(" ")
        if status.isascii() and status.isdigit():
            headers["Status"] = status
        if description:
            headers["Description"] = description.strip()
    for line in lines.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        name = name.strip(_BLANKS)
        if colon and name.isascii() and len(name.split()) == 1:
            headers[name] = value.strip(_BLANKS)
    return headers or None


class DirectClient(Client):
    """Used by ``NatsConnection`` only; belongs to the event loop that it is made on."""

    def __init__(self) -> None:
        super().__init__()
        self._ps: DirectParser = DirectParser(self, self._deliver)
        self._draining_sids: set[int] = set()
        self._receivers: dict[int, tuple[Receiver, contextvars.Context]] = {}
        self._soon = asyncio.get_running_loop().call_soon
        self._write_is_due = False
        self._unwritten = 0
        self._is_crowded = False
        self.has_resumed = False
        """True from the first message on that came over the connection that there is now.

        Then the server knows our subscriptions, and what has come may be answered; nats-py tells of a reconnect only
        a round trip later."""

    # ------------------------------------------------------------------------------------------------- receiving

    async def subscribe_direct(
        self, subject: str, queue: str, receiver: Receiver, context: contextvars.Context
    ) -> NatsSubscription:
        """Subscribe; messages go to ``receiver``, with these context variables. Raises ``nats.errors.Error``."""
        # Known before the first message can come; nats-py numbers its subscriptions in order.
        sid = self._sid + 1
        self._receivers[sid] = receiver, context
        try:
            return await self.subscribe(subject, queue=queue)
        except BaseException:
            del self._receivers[sid]
            raise

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._receivers.pop(sid, None)

    def _deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> bool:
        """Hand a message to its receiver; False when it is for a subscription of nats-py's own."""
        found = self._receivers.get(sid)
        if found is None:
            return False
        if not self.has_resumed:
            self.has_resumed = True
        # An exception here would end nats-py's read loop, while it goes on saying that it is connected; and the server
        # lets any bytes pass as subject, reply subject and headers.
        try:
            message = DeliveredMessage(
                subject.decode(), reply.decode(), data, parse_headers(headers) if headers else None
            )
        except ValueError as error:
            logger.warning("a malformed message to %r was dropped: %s", subject[:64], error)
            return True
        receiver, context = found
        try:
            context.run(receiver, message)
        except Exception:
            logger.exception("a receiver of %s raised", message.subject)
        return True

    async def _read_loop(self) -> None:
        # Started anew for each connection, once that is ready for messages.
        reader, writer = getattr(self._transport, "_io_reader", None), getattr(self._transport, "_io_writer", None)
        if reader is not None and writer is not None:  # WebSockets have none.
            stream = writer.transport.get_protocol()
            writer.transport.set_protocol(DirectProtocol(stream, reader, self._ps))
        await super()._read_loop()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        # What came in pieces, or is for a subscription of nats-py's own.
        if not self._deliver(sid, subject, reply, data, headers):
            try:
                await super()._process_msg(sid, subject, reply, data, headers)
            except (ValueError, LookupError) as error:
                logger.warning("a malformed message to %r was dropped: %s", subject[:64], error)

    # -------------------------------------------------------------------------------------------------- sending

    def send(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> bool:
        """Publish, together with what else is published in this turn of the event loop and the next.

        True means: wait for ``take_in`` before the next one. Raises ``nats.errors.Error`` for what would break the
        protocol.
        """
        if _UNSAFE.search(subject) or not subject or _UNSAFE.search(reply):
            raise errors.BadSubjectError
        if headers is None:
            command = b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(data), data)
        else:
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
            if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
                raise errors.BadHeaderError("a line end in a header")  # It would end the header and begin another one.
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
            sizes = len(head), len(head) + len(data)
            command = b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply.encode(), *sizes, head, data)
        self._pending.append(command)
        self._pending_data_size += len(command)
        self._unwritten += len(command)
        if not self._write_is_due:
            self._write_is_due = True
            # One turn later: the answers to all that one read has brought share one write.
            self._soon(self._soon, self._write)
        return self._unwritten > PATIENT_ABOVE or self._is_crowded

    def _write(self) -> None:
        self._write_is_due = False
        self._unwritten = 0
        commands = self._pending
        if not commands or not self.is_connected or self._transport is None:
            return
        size, self._pending, self._pending_data_size = self._pending_data_size, [], 0
        try:
            if size < JOIN_BELOW:
                self._transport.write(b"".join(commands))
            else:
                self._transport.writelines(commands)
        except (OSError, RuntimeError) as error:
            # The connection is lost (uvloop raises then), which its reader is about to notice.
            logger.debug("what was published could not be written: %s", error)
        self._is_crowded = self._buffered() > PATIENT_ABOVE

    def _buffered(self) -> int:
        """Return the bytes that wait for the socket to take them."""
        writer = getattr(self._transport, "_io_writer", None)  # WebSockets have none, and wait by themselves.
        return 0 if writer is None else writer.transport.get_write_buffer_size()

    async def take_in(self) -> None:
        """Write now, and wait until the socket has taken enough of it, or the connection is lost.

        It may have been sent, so it raises nothing: who waits for an answer hears of the loss of the connection.
        """
        self._write()
        if self._transport is not None:
            with contextlib.suppress(OSError, RuntimeError):
                await self._transport.drain()  # type: ignore[no-untyped-call]  # nats-py left it untyped
        self._is_crowded = self._buffered() > PATIENT_ABOVE

    # ------------------------------------------------------------------------------------------------ the fence

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # nats-py writes PING at once, past the commands that it gathers for its next write: the PONG would say nothing
        # of the UNSUB, SUB or PUB before it, and a drained subscription would lose what came between the two.
        self._write()
        try:
            await super()._send_ping(future)
        except RuntimeError as error:
            if future is None:
                raise  # nats-py's own PING: its task knows what this means.
            raise errors.ConnectionClosedError from error  # what uvloop makes of a lost connection

    async def _process_pong(self) -> None:
        # Who sent the PING may have given up, cancelled or after its timeout. nats-py would answer it all the same, and
        # that exception would end its read loop, while it goes on saying that it is connected.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    def connection_lost(self) -> None:
        """No PONG comes any more, and no message for what is being drained: to be called before the reconnect.

        nats-py would let the former wait for their timeout, and subscribe the latter again.
        """
        pongs, self._pongs = self._pongs, []
        for pong in pongs:
            if not pong.done():
                pong.set_exception(errors.ConnectionClosedError())
                pong.exception()  # Not everyone who sends a PING waits for it.
        for sid in self._draining_sids:
            self._remove_sub(sid)
        self.has_resumed = False
        # Nobody waits any more for what was not written yet, and subscriptions are made anew.
        self._pending, self._pending_data_size = [], 0

    async def drain_subscription(self, subscription: NatsSubscription) -> None:
        """UNSUB, then PING/PONG, then take in what had arrived: nothing that was routed here is dropped."""
        sid = subscription._id  # noqa: SLF001 - nats-py has no other name for it
        self._draining_sids.add(sid)
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                if self.is_connected:
                    with contextlib.suppress(errors.Error, OSError):
                        await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py left it untyped
                        return
                # Nothing comes any more but what is here.
                await subscription._pending_queue.join()  # noqa: SLF001
        except TimeoutError:
            logger.warning("the broker did not confirm the end of a subscription within %g s", DRAIN_TIMEOUT)
        finally:
            self._draining_sids.discard(sid)
            self._remove_sub(sid)
            subscription._stop_processing()  # noqa: SLF001
