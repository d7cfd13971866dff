"""JetStream's key-value buckets: small values that processes share, and change by compare-and-set.

Over nats-py's client of a ``NatsConnection``, whichever that is just now. Whoever stops waiting hears of it: each
operation ends within ``timeout``, and what cannot be had is a ``ConnectionError`` that says why.
Source: NATS ADR-8 (JetStream based Key-Value Stores).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from nats import errors
from nats.js.api import StorageType
from nats.js.errors import (
    APIError,
    BadRequestError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NoStreamResponseError,
    ServiceUnavailableError,
)

from rpc.transport.nats import NatsConnection

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.kv import KeyValue as NatsBucket

    from rpc.transport.base import Connection

T = TypeVar("T")

_BUCKET = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_KEY = re.compile(r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*")

_NAME_IN_USE: Final = 10058
"""JetStream's code for a stream that exists with another configuration."""

_WRONG_REVISION: Final = frozenset({10071, 10164})
"""JetStream's codes for a subject whose last message is another one than expected."""


class KeyValueEntry(NamedTuple):
    """A value, and the number of its change: the ``revision`` to give to ``update``."""

    value: bytes
    revision: int


class RevisionError(Exception):
    """Somebody else has created, changed or deleted the key since: read it again."""


class KeyValue:
    """One bucket. It is made on the server when it is used first, if nobody has made it before.

    Keys are of letters, digits and ``-/_=``, in tokens separated by dots. All methods raise ``ConnectionError`` when
    the broker or its JetStream cannot be reached, or does not answer within ``timeout``; what was asked may have been
    done then.
    """

    def __init__(
        self,
        connection: Connection,
        bucket: str,
        *,
        ttl: float | None = None,
        max_bytes: int | None = None,
        in_memory: bool = False,
        replicas: int = 1,
        timeout: float = 5.0,
    ) -> None:
        """Describe a bucket; nothing is sent yet.

        The options of a bucket that exists stay as they are.

        Args:
            connection: Made by ``rpc.connect``; raises ``TypeError`` for one that is not to a NATS server.
            bucket: Letters, digits, ``_`` and ``-``; raises ``ValueError`` for others.
            ttl: Seconds after which a value is gone that nobody has changed.
            max_bytes: What all of it may take on the server; further values are refused then.
            in_memory: Faster, and lost when the server stops.
            replicas: On how many servers of a cluster.
            timeout: Seconds that one operation may take.
        """
        if not isinstance(connection, NatsConnection):
            msg = "key-value buckets need a connection to a NATS server, made by rpc.connect"
            raise TypeError(msg)
        if not _BUCKET.fullmatch(bucket):
            msg = f"bucket {bucket!r}: a name has 1 to 64 letters, digits, '_' and '-'"
            raise ValueError(msg)
        self.bucket = bucket
        self._connection = connection
        self._timeout = timeout
        self._options: dict[str, Any] = {
            "bucket": bucket,
            "history": 1,
            "ttl": ttl,
            "max_bytes": max_bytes,
            "storage": StorageType.MEMORY if in_memory else StorageType.FILE,
            "replicas": replicas,
            "direct": True,
        }
        self._client: Client | None = None
        self._opened: NatsBucket | None = None

    async def get(self, key: str) -> KeyValueEntry | None:
        """Return what a key holds; None when it does not exist."""

        async def get(bucket: NatsBucket) -> KeyValueEntry | None:
            try:
                entry = await bucket.get(key)
            except KeyNotFoundError:
                return None
            return KeyValueEntry(entry.value or b"", entry.revision or 0)

        return await self._run(key, get)

    async def create(self, key: str, value: bytes) -> int:
        """Set a key that does not exist, and return its revision. Raises ``RevisionError`` when it does."""
        return await self._run(key, lambda bucket: bucket.create(key, value))

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Set a key that still has this revision, and return its new one. Raises ``RevisionError`` otherwise."""
        return await self._run(key, lambda bucket: bucket.update(key, value, last=revision))

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Delete a key; with ``revision``, only while it has that one: raises ``RevisionError`` otherwise."""
        await self._run(key, lambda bucket: bucket.delete(key, last=revision))

    async def _run(self, key: str, operation: Callable[[NatsBucket], Awaitable[T]]) -> T:
        """Run one operation, and translate what goes wrong in it."""
        if not _KEY.fullmatch(key):
            msg = f"key {key[:100]!r}: a key has letters, digits and '-/_=', in tokens separated by dots"
            raise ValueError(msg)
        # nats-py would keep what is published while it is not connected, and send it after the reconnect.
        if not self._connection.is_connected:
            raise ConnectionError(f"not connected to NATS at {self._connection.url}")
        try:
            async with asyncio.timeout(self._timeout):
                return await self._run_in_bucket(operation)
        except KeyWrongLastSequenceError:
            raise RevisionError(f"a key of bucket {self.bucket!r} has been changed meanwhile") from None
        except (NoStreamResponseError, ServiceUnavailableError, errors.NoRespondersError) as error:
            said = getattr(error, "description", None)
            why = said or "JetStream does not answer: it is not enabled there, or has no leader just now"
            raise ConnectionError(f"bucket {self.bucket!r}: {why}") from error
        except TimeoutError as error:
            raise ConnectionError(f"bucket {self.bucket!r}: no answer within {self._timeout} s") from error
        except (errors.Error, OSError) as error:
            if isinstance(error, APIError) and error.err_code in _WRONG_REVISION:  # nats-py's `delete` leaves it so
                raise RevisionError(f"a key of bucket {self.bucket!r} has been changed meanwhile") from None
            if isinstance(error, ConnectionError):
                raise
            raise ConnectionError(f"bucket {self.bucket!r}: {error or type(error).__name__}") from error

    async def _run_in_bucket(self, operation: Callable[[NatsBucket], Awaitable[T]]) -> T:
        if self._opened is not None:
            try:
                return await operation(await self._open())
            except (NoStreamResponseError, errors.NoRespondersError):
                # Nobody heard of it: the server has lost the bucket in a restart, or somebody has deleted it.
                self._opened = None
        return await operation(await self._open())

    async def _open(self) -> NatsBucket:
        client = self._connection.client
        if self._opened is None or client is not self._client:
            self._opened = None
            context = client.jetstream(timeout=self._timeout)
            try:
                self._opened = await context.create_key_value(**self._options)
            except BadRequestError as error:
                if error.err_code != _NAME_IN_USE:
                    raise
                self._opened = await context.key_value(self.bucket)
            self._client = client
        return self._opened
