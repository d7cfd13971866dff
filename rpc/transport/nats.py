"""The connection to a real NATS server: nats-py, with its sharp edges covered.

What nats-py leaves to its users is done here: callbacks that never raise, a supervisor that builds a new client when
the old one closed for good or hangs in its reconnect, publishes that fail instead of going out stale, bounded
buffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nats import errors
from nats.aio.subscription import Subscription as NatsSubscription

from rpc.transport.base import Headers, Receiver
from rpc.transport.nats_client import DirectClient

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

DEFAULT_URL = "nats://127.0.0.1:4222"

PING_INTERVAL = 5
"""Seconds between pings: a half-open connection is noticed after two that stay without an answer."""

RECONNECT_WAIT = 0.25
"""Seconds between attempts to reconnect."""

WATCHDOG = 5.0
"""Seconds without a connection after which the client is thrown away and a new one is built."""

CONNECT_TIMEOUT = 2
"""Seconds for one attempt to connect."""


def default_url() -> str:
    """Return ``$NATS_URL``, or nats-server's default address on this machine."""
    return os.environ.get("NATS_URL") or DEFAULT_URL


def _without_credentials(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@dataclass(eq=False, slots=True)
class _Interest:
    """A subscription that outlives the client it was made on."""

    connection: NatsConnection
    subject: str
    queue: str
    receiver: Receiver
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """Context variables of whoever subscribed: the receiver has them, on the first client and on each later one."""
    client: DirectClient | None = field(default=None)
    current: NatsSubscription | None = field(default=None)

    async def attach(self, client: DirectClient) -> None:
        self.client = client
        self.current = await client.subscribe_direct(self.subject, self.queue, self.receiver, self.context)

    async def unsubscribe(self) -> None:
        self.connection.forget(self)
        with contextlib.suppress(errors.Error, OSError):
            if self.current is not None:
                await self.current.unsubscribe()

    async def drain(self) -> None:
        self.connection.forget(self)
        if self.client is not None and self.current is not None:
            await self.client.drain_subscription(self.current)


def _new_inbox() -> str:
    return f"_INBOX.{secrets.token_hex(11)}"


def _describe(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there (start a broker with `natsmesh broker`, or set NATS_URL)"
    return str(error) or type(error).__name__


class NatsConnection:
    """``transport.base.Connection`` over nats-py. Make it with ``rpc.connect``."""

    def __init__(self, url: str | None = None, *, name: str = "", credentials: str | Path | None = None) -> None:
        """``url`` may list several servers, comma separated; ``credentials`` is a NATS ``.creds`` file.

        Without them, ``$NATS_URL`` and ``$NATS_CREDS`` count.
        """
        self._urls = [part.strip() for part in (url or default_url()).split(",") if part.strip()]
        self._name = name
        self._credentials = str(credentials or os.environ.get("NATS_CREDS") or "")
        self._inbox = _new_inbox()
        self._client: DirectClient | None = None
        self._interests: list[_Interest] = []
        self._listeners: list[Callable[[bool], None]] = []
        self._connected = asyncio.Event()
        self._closed = False
        self._wake = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    @property
    def name(self) -> str:
        """The name that nats-server's monitoring shows."""
        return self._name

    @property
    def url(self) -> str:
        """The servers, without credentials."""
        return ",".join(_without_credentials(url) for url in self._urls)

    @property
    def inbox(self) -> str:
        """The reply prefix of this connection."""
        return self._inbox

    @property
    def max_payload(self) -> int:
        """The server's limit in bytes, headers included."""
        return self._client.max_payload if self._client is not None else 1024 * 1024

    @property
    def is_connected(self) -> bool:
        """True while messages can be sent."""
        return self._connected.is_set()

    @property
    def is_closed(self) -> bool:
        """True once ``close`` was called."""
        return self._closed

    @property
    def client(self) -> DirectClient:
        """nats-py's client of now, for ``rpc.transport.jetstream``; another one may take its place at any time.

        Raises ``ConnectionError`` while there is none.
        """
        if self._client is None:
            raise ConnectionError(f"not connected to NATS at {self.url}")
        return self._client

    # ----------------------------------------------------------------------------------------------- connecting

    async def connect(self) -> None:
        """Connect for the first time. Raises ``ConnectionError`` that names the address and the cause."""
        async with self._connecting:
            if self._closed:
                msg = "the connection is closed"
                raise ConnectionError(msg)
            if self._supervisor is not None:
                return
            # Anew: a process may have been forked since, and two of them must not see each other's replies.
            self._inbox = _new_inbox()
            # In a context of their own: the tasks of a connection outlive the call that needed it first, and must not
            # speak of it in their logs for ever.
            loop, context = asyncio.get_running_loop(), contextvars.Context()
            making = loop.create_task(self._new_client(), context=context)
            try:
                client = await making
                if self._closed:
                    msg = "the connection was closed while it was made"
                    raise ConnectionError(msg)
            except BaseException:
                if making.done() and not making.cancelled() and making.exception() is None:
                    with contextlib.suppress(Exception):
                        await making.result().close()
                raise
            self._client = client
            self._supervisor = loop.create_task(self._supervise(), name="natsmesh-nats-supervisor", context=context)
            self._set_connected(client.is_connected)

    async def _new_client(self) -> DirectClient:
        client = DirectClient()
        causes: list[Exception] = []

        async def error_cb(error: Exception) -> None:
            self._on_error(error, causes)

        async def disconnected_cb() -> None:
            client.connection_lost()
            if client is self._client:
                self._set_connected(False)

        async def reconnected_cb() -> None:
            if client is self._client:
                self._set_connected(True)

        async def closed_cb() -> None:
            if client is self._client:
                self._set_connected(False)

        options: dict[str, Any] = {}
        if self._credentials:
            options["user_credentials"] = self._credentials
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT * max(1, len(self._urls)) + 1):
                await client.connect(
                    servers=self._urls,
                    name=self._name or None,
                    error_cb=error_cb,
                    disconnected_cb=disconnected_cb,
                    reconnected_cb=reconnected_cb,
                    closed_cb=closed_cb,
                    # Else the first attempt would be repeated for ever; both are changed once we are connected.
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    connect_timeout=CONNECT_TIMEOUT,
                    reconnect_time_wait=RECONNECT_WAIT,  # type: ignore[arg-type]  # an int in its annotation only
                    ping_interval=PING_INTERVAL,
                    max_outstanding_pings=2,
                    **options,
                )
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await client.close()
            raise
        except (OSError, errors.Error, TimeoutError, ValueError) as error:
            with contextlib.suppress(Exception):
                await client.close()
            told = causes[-1] if causes and isinstance(error, errors.NoServersError | TimeoutError) else error
            msg = f"cannot connect to NATS at {self.url}: {_describe(told)}"
            raise ConnectionError(msg) from error
        client.options["allow_reconnect"] = True
        client.options["max_reconnect_attempts"] = -1
        return client

    def _on_error(self, error: Exception, causes: list[Exception]) -> None:
        causes.append(error)
        del causes[:-4]
        # What is not permitted fails in silence otherwise: the server tells it to nobody else.
        level = logging.WARNING if "permissions violation" in str(error).lower() else logging.DEBUG
        logger.log(level, "NATS at %s: %s", self.url, _describe(error))

    def _set_connected(self, connected: bool) -> None:
        if connected != self._connected.is_set():
            if connected:
                self._connected.set()
                logger.info("connected to NATS at %s", self.url)
            else:
                self._connected.clear()
                if not self._closed:
                    logger.warning("lost the connection to NATS at %s; reconnecting", self.url)
            for listener in list(self._listeners):
                try:
                    listener(connected)
                except Exception:
                    # nats-py calls us in the middle of its reconnect, which an exception would end.
                    logger.exception("a listener to the state of the connection raised")
        self._wake.set()

    async def _supervise(self) -> None:
        """Replace the client when it closed for good (most ``-ERR`` do that) or hangs in its reconnect."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            limit = loop.time() + WATCHDOG
            while self._is_reconnecting and (left := limit - loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):  # wait_for() may swallow a cancellation (before Python 3.12)
                        await self._wake.wait()
                self._wake.clear()
            if not self._connected.is_set():
                await self._replace_client()

    @property
    def _is_reconnecting(self) -> bool:
        return not self._connected.is_set() and self._client is not None and not self._client.is_closed

    async def _replace_client(self) -> None:
        old, self._client = self._client, None
        if old is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(old.close(), 1.0)
        while not self._closed:
            try:
                client = await self._new_client()
            except ConnectionError as error:
                logger.debug("%s", error)
                await asyncio.sleep(RECONNECT_WAIT)
                continue
            # From here on new subscriptions are made on the new client: none falls between the two.
            self._client = client
            try:
                for interest in list(self._interests):
                    if interest in self._interests:
                        await interest.attach(client)
                await client.flush(CONNECT_TIMEOUT)
            except (errors.Error, OSError, TimeoutError) as error:
                logger.debug("could not subscribe again: %s", error)
                self._client = None
                self._set_connected(False)
                with contextlib.suppress(Exception):
                    await client.close()
                await asyncio.sleep(RECONNECT_WAIT)
                continue
            self._set_connected(client.is_connected)
            return

    async def wait_connected(self) -> None:
        """Return once the connection is up."""
        while not self._connected.is_set():
            if self._closed:
                msg = "the connection is closed"
                raise ConnectionError(msg)
            await self._connected.wait()

    # ------------------------------------------------------------------------------------------------- messages

    async def publish(self, subject: str, data: bytes, *, reply: str = "", headers: Headers | None = None) -> None:
        """Send one message. See ``transport.base.Connection``."""
        client = self._client
        if client is None or not (self._connected.is_set() or (client.has_resumed and not reply)):
            # nats-py would keep it and send it after the reconnect, when nobody waits for it any more.
            msg = f"not connected to NATS at {self.url}"
            raise ConnectionError(msg)
        if len(data) + 1024 > client.max_payload or headers is not None:
            self._check_size(client.max_payload, data, headers)
        try:
            if client.send(subject, reply, data, headers):
                await client.take_in()
        except errors.Error as error:
            msg = f"cannot publish to {subject[:64]!r}: {error}"
            raise ValueError(msg) from error

    @staticmethod
    def _check_size(max_payload: int, data: bytes, headers: Headers | None) -> None:
        # A violation would make the server close the connection, with everybody's calls on it.
        size = len(data) + 12
        if headers is not None:
            for key, value in headers.items():
                size += len(key) + len(value) + 4
        if size > max_payload:
            msg = f"message of {size} bytes is larger than the broker takes ({max_payload} bytes, max_payload)"
            raise ValueError(msg)

    async def subscribe(
        self,
        subject: str,
        receiver: Receiver,
        *,
        queue: str = "",
    ) -> _Interest:
        """Subscribe. See ``transport.base.Connection``."""
        interest = _Interest(self, subject, queue, receiver)
        self._interests.append(interest)
        if self._client is not None:
            try:
                await interest.attach(self._client)
            except errors.ConnectionClosedError:
                pass  # The supervisor attaches it to the client that it builds now.
            except errors.Error as error:
                self.forget(interest)
                msg = f"cannot subscribe to {subject!r}: {error}"
                raise ValueError(msg) from error
        return interest

    def forget(self, interest: _Interest) -> None:
        """Do not subscribe this one again after a reconnect."""
        with contextlib.suppress(ValueError):
            self._interests.remove(interest)

    async def flush(self, timeout: float = 5.0) -> None:
        """PING/PONG, after the reconnect if there is one. Raises ``TimeoutError``, ``ConnectionError``."""
        try:
            async with asyncio.timeout(timeout):
                await self.wait_connected()
                if self._client is not None:
                    await self._client.flush(timeout)  # type: ignore[arg-type]  # an int in its annotation only
        except errors.TimeoutError as error:
            raise TimeoutError from error
        except errors.Error as error:
            msg = f"not connected to NATS at {self.url}"
            raise ConnectionError(msg) from error

    def on_state_change(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """See ``transport.base.Connection``."""
        self._listeners.append(listener)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return remove

    async def close(self) -> None:
        """Flush and close; idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(errors.Error, OSError, TimeoutError):
                if client.is_connected:
                    await client.flush(2)
            with contextlib.suppress(Exception):
                await asyncio.wait_for(client.close(), 3.0)
        self._set_connected(False)
        self._connected.set()  # Wakes those who wait, to find it closed.
        self._connected.clear()
