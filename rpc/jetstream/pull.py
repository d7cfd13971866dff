"""A pull consumer: asks JetStream for as many messages as its owner has room for, and never stops asking.

Requests to pull get lost when the broker restarts, a leader changes or a consumer is made anew; each has a time limit
and a heartbeat, and is made again. Source: NATS ADR-37 (simplified consumers), "Pull requests".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

from rpc.jetstream.api import API
from rpc.tasks import TaskSet
from rpc.transport.base import Connection, Message, Subscription

logger = logging.getLogger(__name__)

EXPIRES: Final = 30.0
"""Seconds that a request to pull waits on the server."""

HEARTBEAT: Final = 2.0
"""Seconds between the server's signs of life while it has no message."""

MAX_BATCH: Final = 10_000
"""Messages that one request may ask for."""

MAX_BYTES: Final = 32 * 1024 * 1024
"""Bytes that one request may bring."""

OVERHEAD: Final = 64 * 1024
"""Bytes that the server counts of a message besides its payload and headers: its subjects."""

_CHECK: Final = 1.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0
_LIVE = "100"
_PULLS = count(1)

_ACK = b"+ACK"
_PROGRESS = b"+WPI"

THROW_AWAY: Final = b"+TERM"
"""The verdict that has a message never delivered again."""


class PulledMessage:
    """A message for which JetStream waits to hear what became of it."""

    __slots__ = ("data", "deliveries", "headers", "is_settled", "published", "reply", "sequence", "subject")

    def __init__(self, message: Message) -> None:
        """Raises ``ValueError`` for what did not come from a consumer."""
        self.subject = message.subject
        self.data = message.data
        self.headers = message.headers or {}
        self.reply = message.reply
        parts = message.reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<time>.<pending>, or, since
        # nats-server 2.14 with it, with <domain>.<account> before the stream.
        first = 4 if len(parts) == 9 else 6
        if parts[:2] != ["$JS", "ACK"] or len(parts) < first + 4:
            raise ValueError("a message that no consumer sent")
        self.deliveries = int(parts[first])
        """How often it has been delivered, this time included."""
        self.sequence = int(parts[first + 1])
        """Its place in the stream."""
        self.published = int(parts[first + 3]) / 1e9
        """When it was stored, in Unix seconds."""
        self.is_settled = False
        """Whether JetStream has been told what became of it."""


class PullConsumer:
    """Feeds ``receive`` with messages, as many as ``want`` says. Used from one event loop."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        receive: Callable[[PulledMessage], None],
        *,
        repair: Callable[[], Awaitable[None]],
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """``receive`` is called on the loop and must return at once.

        ``repair`` makes the stream and the consumer when the server says that they do not exist. ``max_bytes`` bounds
        what one request brings; a message of the broker's ``max_payload`` passes in any case.
        """
        self._connection = connection
        self._subject = f"{API}CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._name = f"{stream}/{consumer}"
        self._receive = receive
        self._repair = repair
        self._max_bytes = max_bytes
        self._inbox = ""
        self._wanted = 0
        self._at_once = 1
        self._asked = 0
        """How many messages have been asked for that have not come. Of a message nobody can tell which request brought
        it (it comes under its own subject), so this is one number, not one for each."""
        self._round = 0
        """Which requests that number is about: of those that were given up, and end later, it must not be told."""
        self._heard = 0.0
        """When the server has sent anything last."""
        self._tasks = TaskSet()
        self._subscription: Subscription | None = None
        self._remove_listener: Callable[[], None] | None = None
        self._repairing = False
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop

    async def start(self) -> None:
        """Begin. The connection is connected already, stream and consumer exist."""
        self._loop = asyncio.get_running_loop()
        self._inbox = f"{self._connection.inbox}.pull-{next(_PULLS)}"
        self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._on_message)
        self._remove_listener = self._connection.on_state_change(self._state_changed)
        self._tasks.spawn(self._watch(), name="natsmesh-pull")

    async def stop(self) -> None:
        """Ask for no more, and take in what is on its way: after it no message comes."""
        if self._stopped:
            return
        self._stopped = True
        if self._remove_listener is not None:
            self._remove_listener()
        await self._tasks.close()
        if self._subscription is not None:
            await self._subscription.drain()

    def want(self, number: int, at_once: int = 1) -> None:
        """Say how many further messages there is room for; called after each change, it asks for what is missing.

        Not for fewer than ``at_once``: with room for many, a request for each would cost more than it is worth.
        """
        self._wanted, self._at_once = number, at_once
        missing = number - self._asked
        if missing >= at_once and not self._stopped and not self._repairing and self._connection.is_connected:
            self._ask(min(missing, MAX_BATCH))

    def _ask(self, number: int) -> None:
        if not self._asked:
            self._heard = self._loop.time()
        self._asked += number
        body = {
            "batch": number,
            # Of a message that is larger than this the server would say so, and never send it.
            "max_bytes": max(self._max_bytes, self._connection.max_payload + OVERHEAD),
            "expires": int(EXPIRES * 1e9),
            "idle_heartbeat": int(HEARTBEAT * 1e9),
        }
        self._tasks.spawn(self._send(json.dumps(body).encode(), f"{self._inbox}.{self._round}"))

    async def _send(self, body: bytes, reply: str) -> None:
        # Lost with the connection, it is made again with the next one.
        with contextlib.suppress(ConnectionError):
            await self._connection.publish(self._subject, body, reply=reply)

    def _on_message(self, message: Message) -> None:
        if not message.reply.startswith("$JS.ACK."):
            if message.subject == f"{self._inbox}.{self._round}":
                self._heard = self._loop.time()
                self._on_status(message)
            return
        self._heard = self._loop.time()
        self._asked = max(0, self._asked - 1)
        self._wanted -= 1
        try:
            pulled = PulledMessage(message)
        except ValueError as error:
            logger.warning("%s: %s", self._name, error)
            return
        self._receive(pulled)

    def _on_status(self, message: Message) -> None:
        headers = message.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "")
        if status == _LIVE:
            return
        unfilled = headers.get("Nats-Pending-Messages", "")
        self._asked = max(0, self._asked - int(unfilled)) if unfilled.isascii() and unfilled.isdigit() else 0
        if status == "408" or "MaxBytes" in description:  # its time was over, or it had brought enough
            self.want(self._wanted, self._at_once)
        elif status in {"404", "503"} or "eleted" in description:
            self._start_repair()
        elif status != "409":  # what is refused for now is asked for again in a while
            logger.warning("%s: JetStream refuses to deliver: %s %s", self._name, status, description)

    def _start_repair(self) -> None:
        if not self._repairing and not self._stopped:
            self._repairing = True
            self._tasks.spawn(self._repair_until_done(), name="natsmesh-pull-repair")

    async def _repair_until_done(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while not self._stopped:
                try:
                    await self._repair()
                except Exception as error:  # noqa: BLE001 - whatever it is, there is nothing to do but try again
                    logger.warning("%s cannot be had: %s", self._name, error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    continue
                break
        finally:
            self._repairing = False
        self.want(self._wanted, self._at_once)

    async def _watch(self) -> None:
        """Ask again when the server says nothing any more, not even that it has nothing."""
        while True:
            before = self._loop.time()
            await asyncio.sleep(_CHECK)
            if self._loop.time() - before > 2 * _CHECK:
                continue  # Somebody held up the loop: what the server said meanwhile has not been read yet.
            if self._loop.time() - self._heard > 2 * HEARTBEAT + _CHECK:
                self._give_up()
            self.want(self._wanted, self._at_once)

    def _give_up(self) -> None:
        self._asked = 0
        self._round += 1

    def _state_changed(self, connected: bool) -> None:
        self._give_up()
        if connected:
            self.want(self._wanted, self._at_once)


async def settle(connection: Connection, message: PulledMessage, verdict: bytes = _ACK) -> None:
    """Tell JetStream what became of a message. A verdict that gets lost has the message delivered again."""
    if verdict is not _PROGRESS:
        message.is_settled = True
    try:
        await connection.publish(message.reply, verdict)
    except ConnectionError as error:
        logger.debug("what became of %s could not be told: %s", message.subject, error)


def retry_after(delay: float) -> bytes:
    """Return the verdict that has a message delivered again after ``delay`` seconds."""
    return b"-NAK" if delay <= 0 else b'-NAK {"delay": %d}' % int(delay * 1e9)


def in_progress() -> bytes:
    """Return the verdict that gives a handler another ``ack_wait``."""
    return _PROGRESS
