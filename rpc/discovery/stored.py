"""Schemas that outlive their back-ends: those of services with jobs, kept in a key-value bucket of JetStream.

A job can be asked for while no worker is up, so a gateway that starts then must know its schema nevertheless. Servers
write theirs when they start, and once a day; what nobody has written for ``MAX_AGE`` is gone. The layout is specified
in docs/wire-protocol.md, "Stored schemas".
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from rpc.discovery.limits import MAX_NAME, MAX_SCHEMA_MEMORY, MAX_SERVICES
from rpc.discovery.responder import SCHEMA_KEY, ServedService
from rpc.discovery.schema import MAX_SCHEMA_BYTES, digest_of
from rpc.discovery.versions import check_version, version_key
from rpc.jetstream.api import EXPECTED_SEQUENCE, WRONG_SEQUENCE, JetStream, JetStreamError, StoredMessage
from rpc.jetstream.migration import parse_time
from rpc.jetstream.specs import StreamError, StreamSpec, bucket
from rpc.jetstream.streams import ensure_stream
from rpc.subjects import Subjects, check_name
from rpc.tasks import TaskSet
from rpc.transport.stream import HEADER_ROOM

logger = logging.getLogger(__name__)

MAX_AGE: Final = 90 * 86400.0
"""Seconds that a schema is kept after the last server that has it wrote it."""

REFRESH: Final = 86400.0
"""Seconds after which a server that runs writes its schemas anew."""

RETRY: Final = 300.0
"""Seconds after which it tries that again if it failed."""

VERSION_KEY: Final = "mesh-version"
"""Header: the version of the service."""

_PAGE: Final = 64
_ATTEMPTS: Final = 10
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class StoredSchema(NamedTuple):
    """The schema of a service as its newest version has written it."""

    service: str
    version: str
    digest: str
    schema: bytes


def schemas(subjects: Subjects) -> StreamSpec:
    """Return the bucket of schemas."""
    return bucket(subjects.jetstream("schemas"), "Schemas of services with durable jobs", max_age=MAX_AGE)


class SchemaStore:
    """Writes schemas, and reads them."""

    def __init__(self, js: JetStream, subjects: Subjects) -> None:
        """``js`` is started and closed by its owner."""
        self._js = js
        self._subjects = subjects
        self._spec = schemas(subjects)

    async def write(self, service: ServedService) -> None:
        """Store the schema of a service, unless there is that of a newer version.

        Raises ``ConnectionError``, ``JetStreamError``, ``StreamError``.
        """
        data = gzip.compress(service.schema, mtime=0)
        room = self._js.connection.max_payload - HEADER_ROOM
        if len(data) > room:
            logger.warning(
                "the schema of %s has %d bytes when it is compressed, and the broker takes %d (max_payload): it is not "
                "stored, so that a gateway knows its jobs only while a worker is up",
                service.name,
                len(data),
                room,
            )
            return
        subject = self._subjects.stored_schema(service.name)
        for _ in range(_ATTEMPTS):
            stored = await self._js.last(self._spec.name, subject)
            if stored is not None and _is_good(stored, service):
                return
            headers = {
                EXPECTED_SEQUENCE: str(0 if stored is None else stored.sequence),
                SCHEMA_KEY: service.digest,
                VERSION_KEY: service.version,
            }
            try:
                await self._js.publish(subject, data, headers, ensure=self._ensure)
            except JetStreamError as error:
                if error.err_code not in WRONG_SEQUENCE:
                    raise
                continue  # Somebody else wrote at the same time: look at what.
            return
        raise ConnectionError("others wrote it at the same time, again and again")

    async def _ensure(self) -> None:
        await ensure_stream(self._js, self._spec, migrate=False)

    async def read(self) -> list[StoredSchema]:
        """Return what is stored; what is no schema, or not what it says, is passed over.

        Raises ``ConnectionError`` or ``JetStreamError`` when that cannot be known now.
        """
        found: list[StoredSchema] = []
        start, seen, size = 1, 0, 0
        while seen < MAX_SERVICES:
            page = await self._js.read(self._spec.name, ">", start=start, limit=_PAGE)
            if not page:
                break
            start = page[-1].sequence + 1
            seen += len(page)
            # On a thread: what is small here may be large once it is decompressed.
            for each in await asyncio.to_thread(self._parse_all, page):
                if each is None:
                    continue
                size += len(each.schema)
                if size > MAX_SCHEMA_MEMORY:
                    logger.warning(
                        "more than %d bytes of schemas are stored: the rest is passed over", MAX_SCHEMA_MEMORY
                    )
                    return found
                found.append(each)
        return found

    def _parse_all(self, page: list[StoredMessage]) -> list[StoredSchema | None]:
        return [self._parse(stored) for stored in page]

    def _parse(self, stored: StoredMessage) -> StoredSchema | None:
        """Return what a message of the bucket holds; None for a key that was deleted, and for garbage."""
        service = stored.subject.removeprefix(f"$KV.{self._spec.name.removeprefix('KV_')}.")
        if not stored.data:
            return None
        try:
            if len(service) > MAX_NAME:
                raise ValueError("its name is too long")
            check_name(service)
            version = check_version(stored.headers.get(VERSION_KEY, ""))
            digest = stored.headers.get(SCHEMA_KEY, "")
            unpacking = zlib.decompressobj(wbits=31)
            schema = unpacking.decompress(stored.data, MAX_SCHEMA_BYTES + 1)
            if not unpacking.eof or len(schema) > MAX_SCHEMA_BYTES:
                raise ValueError(f"it is cut off, or has more than {MAX_SCHEMA_BYTES} bytes")
            if digest_of(schema) != digest:
                raise ValueError("it has another digest than it says")
        except (ValueError, zlib.error) as error:
            logger.warning("a stored schema is passed over, %s: %s", service[:MAX_NAME], error)
            return None
        return StoredSchema(service, version, digest, schema)


def _is_good(stored: StoredMessage, service: ServedService) -> bool:
    """Tell whether what is stored may stay: it is newer, or the same and not old."""
    try:
        version = check_version(stored.headers.get(VERSION_KEY, ""))
        written = parse_time(stored.time)
    except ValueError:
        return False
    if not stored.data or not _DIGEST.match(stored.headers.get(SCHEMA_KEY, "")):
        return False
    if version_key(version) > version_key(service.version):
        return True
    is_same = (version, stored.headers[SCHEMA_KEY]) == (service.version, service.digest)
    return is_same and datetime.now(UTC) - written < timedelta(seconds=REFRESH / 2)


class SchemaWriter:
    """Keeps the schemas of one server stored while it runs."""

    def __init__(self, js: JetStream, subjects: Subjects, services: Iterable[ServedService]) -> None:
        self._store = SchemaStore(js, subjects)
        self._services = tuple(service for service in services if service.schema)
        self._tasks = TaskSet()

    async def start(self) -> None:
        """Write them now, and again from time to time."""
        written = await self._write()
        self._tasks.spawn(self._rewrite(written=written), name="natsmesh-schemas")

    async def close(self) -> None:
        """Leave them as they are."""
        await self._tasks.close()

    async def _rewrite(self, *, written: bool) -> None:
        while True:
            await asyncio.sleep(REFRESH if written else RETRY)
            written = await self._write()

    async def _write(self) -> bool:
        """Write what has to be written; False when that failed. A server serves without it as well."""
        written = True
        for service in self._services:
            try:
                await self._store.write(service)
            except (ConnectionError, JetStreamError, StreamError) as error:
                logger.warning("the schema of %s could not be stored: %s", service.name, error)
                written = False
        return written
