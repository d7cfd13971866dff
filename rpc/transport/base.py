"""What the library asks of a message bus: the small part of NATS that it stands on.

Two implement it: ``transport.nats`` (the real one) and ``transport.memory`` (fast tests and fault injection).
Everything above speaks subjects, queue groups, replies and headers, so one suite of contract tests runs over both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

Headers = Mapping[str, str]
"""Header names as sent; one value a name."""


class Message(Protocol):
    """A message as it was delivered."""

    @property
    def subject(self) -> str:
        """Where it was sent."""

    @property
    def reply(self) -> str:
        """Where the answer goes; empty when none is expected."""

    @property
    def data(self) -> bytes:
        """The payload."""

    @property
    def headers(self) -> dict[str, str] | None:
        """The headers; None when it had none."""


Receiver = Callable[[Message], None]
"""Takes one message: called on the event loop, in order of arrival; must return at once and must not raise."""


class Subscription(Protocol):
    """Interest in a subject."""

    async def unsubscribe(self) -> None:
        """Drop the interest, and what was delivered but not yet received."""

    async def drain(self) -> None:
        """Drop the interest, then return once all that the server had routed here before has been received."""


class Connection(Protocol):
    """A connection to the bus that reconnects by itself and outlives every broker restart."""

    @property
    def name(self) -> str:
        """Who we are, for people who look at the broker's monitoring."""

    @property
    def url(self) -> str:
        """Where the bus is, without credentials."""

    @property
    def inbox(self) -> str:
        """A subject prefix that only this connection listens to; replies go to ``<inbox>.<token>``."""

    @property
    def max_payload(self) -> int:
        """Bytes that one message may have, headers included."""

    @property
    def is_connected(self) -> bool:
        """True while messages can be sent; False from the loss of the connection to the end of the reconnect."""

    @property
    def is_closed(self) -> bool:
        """True once ``close`` was called."""

    async def connect(self) -> None:
        """Connect, unless connected. Raises ``ConnectionError`` with an explanation when the bus cannot be reached."""

    async def wait_connected(self) -> None:
        """Return as soon as the connection is up (again). Raises ``ConnectionError`` once it is closed."""

    async def publish(self, subject: str, data: bytes, *, reply: str = "", headers: Headers | None = None) -> None:
        """Send one message.

        Raises ``ConnectionError`` when it is not connected, ``ValueError`` when the message is larger than
        ``max_payload`` or the subject is malformed.
        """

    async def subscribe(
        self,
        subject: str,
        receiver: Receiver,
        *,
        queue: str = "",
    ) -> Subscription:
        """Subscribe; with ``queue`` each message goes to one random member of that group."""

    async def flush(self, timeout: float = 5.0) -> None:
        """Return once the server has processed all that was sent (PING/PONG). Raises ``TimeoutError``."""

    def on_state_change(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """Call ``listener(connected)`` on the loop at each loss and recovery; returns a function that removes it."""

    async def close(self) -> None:
        """Send what is buffered and close; idempotent."""
