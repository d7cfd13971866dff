"""JetStream's object stores: blobs of any size, in chunks, that appear whole or not at all.

An object is a message that describes it, and chunks that this message names. Chunks come first, under a subject that is
new each time; the description is published last, in one step, and takes the place of the one before it. So a reader has
the old object or the new one, and a writer that is killed leaves chunks that nobody sees.

Source: NATS ADR-20 (JetStream based Object Stores); any other client of it reads these objects, and writes what is read
here. One thing is ours: the chunks of one name share a token of their subject, so that the next ``put`` of this name
finds what a killed writer left, and purges it.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nats.js.api import RawStreamMsg
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from rpc.jetstream.specs import default_replicas
from rpc.transport.jetstream_bucket import Bucket, RevisionError

if TYPE_CHECKING:
    from rpc.transport.base import Connection

logger = logging.getLogger(__name__)

CHUNK: Final = 256 * 1024
"""Bytes of a chunk at most: far below any ``max_payload``, and little to wait for."""

MAX_OBJECT_BYTES: Final = 64 * 1024 * 1024

_NAME = re.compile(r"[-/_=.a-zA-Z0-9]{1,255}")
_CONTENT_TYPE = re.compile(r"[ -~]{0,255}")
_DIGEST: Final = "SHA-256="
_READS: Final = 5
"""How often ``get`` begins anew because the object was replaced while it was read."""


class DataLossError(Exception):
    """What is stored is not what was put: chunks are missing, or their digest is another one."""


class _ExpiredError(RevisionError):
    """The object is at the end of its time: its chunks, which are a little older than their description, are gone."""


class BlobInfo(NamedTuple):
    """What is known of an object without its data."""

    name: str
    size: int
    """Bytes."""
    content_type: str
    """As it was put; "" for none."""
    digest: str
    """SHA-256 of the data, in hexadecimal."""
    modified: float
    """When it was put, by the broker's clock: seconds since 1970."""
    revision: int
    """Number of the change in the bucket: what was put later has a higher one."""


class Blob(NamedTuple):
    """An object."""

    data: bytes
    info: BlobInfo

    @property
    def content_type(self) -> str:
        """As it was put; "" for none."""
        return self.info.content_type


class _Description(NamedTuple):
    """The message that describes an object."""

    info: BlobInfo
    chunks: str
    """Their subject."""
    deleted: bool


class ObjectStore(Bucket[JetStreamContext]):
    """One bucket of objects. It is made on the server when it is used first, if nobody has made it before.

    Names have 1 to 255 letters, digits and ``-/_=.``; others raise ``ValueError``. All methods raise
    ``ConnectionError`` when the broker or its JetStream cannot be reached, or does not answer within ``timeout``; what
    was asked may have been done then. Not more than a chunk (256 KiB) of an object is in memory, except by ``get``.
    """

    def __init__(
        self,
        connection: Connection,
        bucket: str,
        *,
        ttl: float | None = None,
        max_bytes: int | None = None,
        max_object_bytes: int = MAX_OBJECT_BYTES,
        replicas: int = 0,
        timeout: float = 5.0,
    ) -> None:
        """Describe a bucket; nothing is sent yet.

        The options of a bucket that exists stay as they are.

        Args:
            connection: Made by ``rpc.connect``; raises ``TypeError`` for one that is not to a NATS server.
            bucket: Letters, digits, ``_`` and ``-``; raises ``ValueError`` for others.
            ttl: Seconds after which an object is gone that nobody has put again.
            max_bytes: What all of it may take on the server; further objects are refused then.
            max_object_bytes: The largest object that ``put`` and ``get`` take.
            replicas: On how many servers of a cluster; 0 is ``$NATSMESH_REPLICAS``, or 1 without it.
            timeout: Seconds that the broker may take for one step: one chunk, for example.
        """
        super().__init__(connection, bucket, timeout)
        self._max_object = max_object_bytes
        self._stream = f"OBJ_{bucket}"
        self._options: dict[str, Any] = {
            "bucket": bucket,
            "ttl": ttl,
            "max_bytes": max_bytes,
            "replicas": replicas or default_replicas(),
        }

    # ------------------------------------------------------------------------------------------------------ writing

    async def put(self, name: str, data: bytes | AsyncIterable[bytes], *, content_type: str = "") -> None:
        """Store an object under a name, in the place of what was there.

        Readers have what was there before until all of it is stored. Of several puts of one name at the same time one
        stays; the others have been replaced by it. Raises ``ValueError`` when it is larger than ``max_object_bytes``.
        When it fails, or is cancelled, nothing has changed, except that a ``ConnectionError`` of the very last step
        leaves open whether it was done.
        """
        if not _CONTENT_TYPE.fullmatch(content_type):
            msg = f"content_type {content_type[:100]!r}: it has up to 255 printable ASCII characters"
            raise ValueError(msg)
        before = await self._describe(name)
        token = secrets.token_hex(8)
        chunks = f"$O.{self.bucket}.C.{_family(name)}.{token}"
        digest = sha256()
        size = number = first = last = 0
        try:
            async for chunk in _rechunked(data, min(CHUNK, self._connection.max_payload // 2)):
                size += len(chunk)
                if size > self._max_object:
                    msg = f"object {name!r} is larger than {self._max_object} bytes (max_object_bytes)"
                    raise ValueError(msg)
                digest.update(chunk)
                sequence = await self._publish(chunks, chunk)
                if sequence <= last:
                    msg = f"bucket {self.bucket!r}: the broker has lost what was stored a moment ago"
                    raise ConnectionError(msg)
                first, last, number = first or sequence, sequence, number + 1
        except BaseException:
            await self._purge(chunks)
            raise
        description = {
            "name": name,
            "headers": {"Content-Type": [content_type]} if content_type else None,
            "options": {"max_chunk_size": CHUNK},
            "bucket": self.bucket,
            "nuid": f"{_family(name)}.{token}",
            "size": size,
            "mtime": datetime.now(UTC).isoformat(),
            "chunks": number,
            "digest": _DIGEST + base64.urlsafe_b64encode(digest.digest()).decode(),
        }
        try:
            sequence = await self._publish_description(name, description, before)
        except RevisionError:
            # Somebody else's was finished since we began: ours counts as if it had come just before that.
            await self._purge(chunks)
            return
        except ConnectionError as error:
            if isinstance(error.__cause__, APIError):  # It was refused. Otherwise it may be stored, and need them.
                await self._purge(chunks)
            raise
        await self._purge_before(first or sequence, name, before)

    async def delete(self, name: str) -> None:
        """Delete an object, if it exists."""
        before = await self._describe(name)
        if before is None or before.deleted:
            return
        description = {
            "name": name,
            "bucket": self.bucket,
            "nuid": before.chunks.removeprefix(f"$O.{self.bucket}.C."),
            "size": 0,
            "mtime": datetime.now(UTC).isoformat(),
            "chunks": 0,
            "deleted": True,
        }
        with suppress(RevisionError):  # Somebody has put it anew since we began: that came after us.
            sequence = await self._publish_description(name, description, before)
            await self._purge_before(sequence, name, before)

    async def _publish_description(self, name: str, description: dict[str, Any], before: _Description | None) -> int:
        """Put a description in the place of the one that was there ``before``; raise ``RevisionError`` if it is not."""
        known = {key: value for key, value in description.items() if value is not None}
        revision = 0 if before is None else before.info.revision
        headers = {"Nats-Rollup": "sub", "Nats-Expected-Last-Subject-Sequence": str(revision)}
        return await self._publish(self._subject(name), json.dumps(known).encode(), headers)

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> int:
        async def publish(context: JetStreamContext) -> int:
            return (await context.publish(subject, data, stream=self._stream, headers=headers)).seq

        return await self._run(publish, reopen=False)

    async def _purge_before(self, sequence: int, name: str, before: _Description | None) -> None:
        """Purge the chunks of a name that are older than what has been stored at ``sequence``: nobody reads them."""
        family = f"$O.{self.bucket}.C.{_family(name)}.*"
        await self._purge(family, sequence)
        if before is not None and not before.chunks.startswith(family[:-1]):
            await self._purge(before.chunks)  # another client of ADR-20 put it

    async def _purge(self, subject: str, before: int | None = None) -> None:
        async def purge(context: JetStreamContext) -> None:
            await context.purge_stream(self._stream, subject=subject, seq=before)

        try:
            await self._run(purge, reopen=False)
        except ConnectionError as error:
            logger.debug("chunks stay until their object is put again: %s", error)

    # ------------------------------------------------------------------------------------------------------ reading

    async def info(self, name: str) -> BlobInfo | None:
        """Return what is known of an object; None when it does not exist."""
        found = await self._describe(name)
        return None if found is None or found.deleted else found.info

    async def get(self, name: str) -> Blob | None:
        """Return an object whose digest is right; None when it does not exist.

        Raises ``ValueError`` when it is larger than ``max_object_bytes``: ``open`` it. Raises ``DataLossError`` when it
        is damaged.
        """
        for _ in range(_READS):
            reader = await self.open(name)
            if reader is None:
                return None
            if reader.info.size > self._max_object:
                msg = f"object {name!r} is larger than {self._max_object} bytes (max_object_bytes): open() it"
                raise ValueError(msg)
            try:
                return Blob(b"".join([chunk async for chunk in reader]), reader.info)
            except _ExpiredError:
                return None
            except RevisionError:
                continue
        msg = f"bucket {self.bucket!r}: {name!r} is replaced again and again, faster than it can be read"
        raise ConnectionError(msg)

    async def open(self, name: str) -> BlobReader | None:
        """Return an object to be read chunk by chunk; None when it does not exist."""
        found = await self._describe(name)
        return None if found is None or found.deleted else BlobReader(self, found)

    async def list(self, prefix: str = "", *, after: int = 0) -> AsyncIterator[BlobInfo]:
        """Yield the objects whose name begins with ``prefix``, in the order of their revisions, one after another.

        With ``after``, only those of higher revisions: a page begins after the last revision of the one before.
        """
        subject = f"$O.{self.bucket}.M.>"
        while True:
            message = await self._next(subject, after + 1)
            if message is None:
                return
            after = message.seq or 0
            found = self._parse(message)
            if not found.deleted and found.info.name.startswith(prefix):
                yield found.info

    async def read_chunk(self, subject: str, sequence: int) -> RawStreamMsg | None:
        """Return the first chunk of a subject from a sequence on. For ``BlobReader``."""
        return await self._next(subject, sequence)

    async def why_missing(self, description: _Description, missing: int) -> Exception:
        """Return what it means that a chunk is not there. For ``BlobReader``."""
        name = description.info.name
        if await self._describe(name) != description:
            return RevisionError(f"object {name!r} has been replaced or deleted while it was read")
        if self._options["ttl"] is not None:
            return _ExpiredError(f"object {name!r} has come to the end of its time while it was read")
        return DataLossError(f"object {name!r} lacks {missing} of its {description.info.size} bytes")

    async def _next(self, subject: str, sequence: int) -> RawStreamMsg | None:
        async def get(context: JetStreamContext) -> RawStreamMsg | None:
            # A replica may answer the first one, and lag behind; the leader answers the second.
            for direct in (True, False):
                with suppress(NotFoundError):
                    return await context.get_msg(self._stream, sequence, subject, direct=direct, next=True)
            return None

        return await self._run(get)

    async def _describe(self, name: str) -> _Description | None:
        if not _NAME.fullmatch(name):
            msg = f"object {name[:100]!r}: a name has 1 to 255 letters, digits and '-/_=.'"
            raise ValueError(msg)

        async def get(context: JetStreamContext) -> RawStreamMsg | None:
            try:
                return await context.get_last_msg(self._stream, self._subject(name))  # from the leader
            except NotFoundError as error:
                if error.err_code == _NO_MESSAGE:
                    return None
                raise

        message = await self._run(get)
        return None if message is None else self._parse(message)

    def _parse(self, message: RawStreamMsg) -> _Description:
        """Read a description, whichever client has written it."""
        try:
            said = json.loads(message.data or b"")
            if said.get("options", {}).get("link"):
                msg = f"object {said['name']!r} is a link to another one: read that one"
                raise DataLossError(msg)
            content_type = (said.get("headers") or {}).get("Content-Type") or ""
            info = BlobInfo(
                str(said["name"]),
                int(said.get("size") or 0),
                content_type if isinstance(content_type, str) else str(content_type[0]),
                base64.urlsafe_b64decode(str(said.get("digest") or "").partition("=")[2]).hex(),
                0.0 if message.time is None else message.time.timestamp(),
                message.seq or 0,
            )
            return _Description(info, f"$O.{self.bucket}.C.{said['nuid']}", bool(said.get("deleted")))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            msg = f"bucket {self.bucket!r}: {message.subject} does not describe an object"
            raise DataLossError(msg) from error

    def _subject(self, name: str) -> str:
        return f"$O.{self.bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    async def _create(self, context: JetStreamContext) -> JetStreamContext:
        await context.create_object_store(**self._options)
        return context

    async def _take(self, context: JetStreamContext) -> JetStreamContext:
        await context.object_store(self.bucket)
        return context


_NO_MESSAGE: Final = 10037
"""JetStream's code for a subject without a message."""


class BlobReader:
    """An object, read chunk by chunk: ``async for chunk in reader``.

    Each chunk is asked for when the one before has been taken. Ends with ``RevisionError`` when the object is replaced
    or deleted meanwhile, with ``DataLossError``, before the last chunk, when it is damaged.
    """

    def __init__(self, store: ObjectStore, description: _Description) -> None:
        self.info = description.info
        self._store = store
        self._description = description

    async def __aiter__(self) -> AsyncIterator[bytes]:
        digest = sha256()
        missing, sequence = self.info.size, 0
        while missing > 0:
            message = await self._store.read_chunk(self._description.chunks, sequence + 1)
            if message is None:
                raise await self._store.why_missing(self._description, missing)
            chunk = message.data or b""
            sequence = message.seq or 0
            missing -= len(chunk)
            digest.update(chunk)
            if missing < 0 or (missing == 0 and digest.hexdigest() != self.info.digest):
                raise DataLossError(f"object {self.info.name!r} is damaged: its digest is another one")
            yield chunk


def _family(name: str) -> str:
    """Return the token that the chunks of a name have in common: a subject has no room for long names."""
    return base64.urlsafe_b64encode(sha256(name.encode()).digest()[:18]).decode()


async def _rechunked(data: bytes | AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """Yield the same bytes in pieces of ``size``, the last one smaller."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        for start in range(0, len(data), size):
            yield bytes(data[start : start + size])
        return
    buffer = bytearray()
    async for piece in data:
        view = memoryview(piece)
        while view:
            room = size - len(buffer)
            buffer += view[:room]
            view = view[room:]
            if len(buffer) == size:
                yield bytes(buffer)
                buffer.clear()
    if buffer:
        yield bytes(buffer)
