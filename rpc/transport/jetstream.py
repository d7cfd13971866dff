"""JetStream's key-value buckets: small values that processes share, and change by compare-and-set.

Over nats-py's client of a ``NatsConnection``, whichever that is just now. Whoever stops waiting hears of it: each
operation ends within ``timeout``, and what cannot be had is a ``ConnectionError`` that says why.
Source: NATS ADR-8 (JetStream based Key-Value Stores).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from nats.js.api import StorageType
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue as NatsBucket

from rpc.jetstream.specs import default_replicas
from rpc.transport.jetstream_bucket import Bucket

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from rpc.transport.base import Connection

T = TypeVar("T")

_KEY = re.compile(r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*")


class KeyValueEntry(NamedTuple):
    """A value, and the number of its change: the ``revision`` to give to ``update``."""

    value: bytes
    revision: int


class KeyValue(Bucket[NatsBucket]):
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
        replicas: int = 0,
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
            replicas: On how many servers of a cluster; 0 is ``$NATSMESH_REPLICAS``, or 1 without it.
            timeout: Seconds that one operation may take.
        """
        super().__init__(connection, bucket, timeout)
        self._options: dict[str, Any] = {
            "bucket": bucket,
            "history": 1,
            "ttl": ttl,
            "max_bytes": max_bytes,
            "storage": StorageType.MEMORY if in_memory else StorageType.FILE,
            "replicas": replicas or default_replicas(),
            "direct": True,
        }

    async def get(self, key: str) -> KeyValueEntry | None:
        """Return what a key holds; None when it does not exist."""

        async def get(bucket: NatsBucket) -> KeyValueEntry | None:
            try:
                entry = await bucket.get(key)
            except KeyNotFoundError:
                return None
            return KeyValueEntry(entry.value or b"", entry.revision or 0)

        return await self._run_on(key, get)

    async def create(self, key: str, value: bytes) -> int:
        """Set a key that does not exist, and return its revision. Raises ``RevisionError`` when it does."""
        return await self._run_on(key, lambda bucket: bucket.create(key, value))

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Set a key that still has this revision, and return its new one. Raises ``RevisionError`` otherwise."""
        return await self._run_on(key, lambda bucket: bucket.update(key, value, last=revision))

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Delete a key; with ``revision``, only while it has that one: raises ``RevisionError`` otherwise."""
        await self._run_on(key, lambda bucket: bucket.delete(key, last=revision))

    async def _run_on(self, key: str, operation: Callable[[NatsBucket], Awaitable[T]]) -> T:
        if not _KEY.fullmatch(key):
            msg = f"key {key[:100]!r}: a key has letters, digits and '-/_=', in tokens separated by dots"
            raise ValueError(msg)
        return await self._run(operation)

    async def _create(self, context: JetStreamContext) -> NatsBucket:
        return await context.create_key_value(**self._options)

    async def _take(self, context: JetStreamContext) -> NatsBucket:
        return await context.key_value(self.bucket)
