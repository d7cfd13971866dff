"""What JetStream's buckets have in common, whatever they hold: how they are opened, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from nats import errors
from nats.js.errors import (
    BadRequestError,
    KeyWrongLastSequenceError,
    NoStreamResponseError,
    NotFoundError,
    ServiceUnavailableError,
)

from rpc.transport.nats import NatsConnection

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

    from rpc.transport.base import Connection

B = TypeVar("B")
T = TypeVar("T")

_BUCKET = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_NAME_IN_USE: Final = 10058
"""JetStream's code for a stream that exists with another configuration."""

_NO_STREAM: Final = 10059
"""JetStream's code for a stream that does not exist."""

_WRONG_REVISION: Final = frozenset({10071, 10164})
"""JetStream's codes for a subject whose last message is another one than expected."""


class RevisionError(Exception):
    """Somebody else has created, changed or deleted it since: read it again."""


class Bucket(ABC, Generic[B]):
    """A bucket that is made on the server when it is used first; ``B`` is what it is used by, on one client of nats-py.

    Whoever waits for it hears of it within ``timeout``: what cannot be had is a ``ConnectionError`` that says why.
    """

    def __init__(self, connection: Connection, bucket: str, timeout: float) -> None:
        """Raise ``TypeError`` for a connection that is not to a NATS server, ``ValueError`` for a bad name."""
        if not isinstance(connection, NatsConnection):
            msg = "buckets need a connection to a NATS server, made by rpc.connect"
            raise TypeError(msg)
        if not _BUCKET.fullmatch(bucket):
            msg = f"bucket {bucket!r}: a name has 1 to 64 letters, digits, '_' and '-'"
            raise ValueError(msg)
        self.bucket = bucket
        self._connection = connection
        self._timeout = timeout
        self._client: Client | None = None
        self._opened: B | None = None

    @abstractmethod
    async def _create(self, context: JetStreamContext) -> B:
        """Make the bucket on the server, unless it exists as it is to be."""

    @abstractmethod
    async def _take(self, context: JetStreamContext) -> B:
        """Take the bucket that exists with other options."""

    async def _run(self, operation: Callable[[B], Awaitable[T]], *, reopen: bool = True) -> T:
        """Run one operation, and translate what goes wrong in it.

        When the bucket is gone, it is made anew and the operation begins anew; not if ``reopen`` is false, as for the
        later steps of an operation that would be without its earlier ones.
        """
        # nats-py would keep what is published while it is not connected, and send it after the reconnect.
        if not self._connection.is_connected:
            raise ConnectionError(f"not connected to NATS at {self._connection.url}")
        lost = False
        limit = asyncio.timeout(self._timeout)

        def state_changed(connected: bool) -> None:
            # nats-py would wait on for an answer that has nobody to come to.
            nonlocal lost
            if not connected and not limit.expired():
                lost = True
                limit.reschedule(0.0)

        remove_listener = self._connection.on_state_change(state_changed)
        try:
            async with limit:
                if reopen:
                    return await self._run_anew(operation)
                return await operation(await self._open())
        except (NoStreamResponseError, ServiceUnavailableError, errors.NoRespondersError) as error:
            said = getattr(error, "description", None)
            why = said or "JetStream does not answer: it is not enabled there, or has no leader just now"
            raise ConnectionError(f"bucket {self.bucket!r}: {why}") from error
        except TimeoutError as error:
            why = "the connection to NATS was lost before the answer" if lost else f"no answer within {self._timeout} s"
            raise ConnectionError(f"bucket {self.bucket!r}: {why}") from error
        except (errors.Error, OSError) as error:
            # Only some of nats-py's errors have the attribute.
            if isinstance(error, KeyWrongLastSequenceError) or getattr(error, "err_code", 0) in _WRONG_REVISION:
                raise RevisionError(f"something in bucket {self.bucket!r} has been changed meanwhile") from None
            if isinstance(error, ConnectionError):
                raise
            raise ConnectionError(f"bucket {self.bucket!r}: {error or type(error).__name__}") from error
        finally:
            remove_listener()

    async def _run_anew(self, operation: Callable[[B], Awaitable[T]]) -> T:
        if self._opened is not None:
            try:
                return await operation(await self._open())
            except (NoStreamResponseError, errors.NoRespondersError):
                # Nobody heard of it: the server has lost the bucket in a restart, or somebody has deleted it.
                self._opened = None
            except NotFoundError as error:
                if getattr(error, "err_code", 0) != _NO_STREAM:
                    raise
                self._opened = None
        return await operation(await self._open())

    async def _open(self) -> B:
        client = self._connection.client
        if self._opened is None or client is not self._client:
            self._opened = None
            context = client.jetstream(timeout=self._timeout)
            try:
                self._opened = await self._create(context)
            except BadRequestError as error:
                if error.err_code != _NAME_IN_USE:
                    raise
                self._opened = await self._take(context)
            self._client = client
        return self._opened
