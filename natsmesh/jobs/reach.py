"""Jobs, dead letters and schemas of a mesh, as commands reach them; what goes wrong becomes a ``Failure``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import rpc
from natsmesh.exits import Exit, Failure
from natsmesh.mesh import read_instances
from natsmesh.schema import Schema
from rpc.discovery.stored import SchemaStore
from rpc.durable.letters import DeadLetters
from rpc.jetstream.api import JetStream, JetStreamError
from rpc.jobs.names import JobName, parse_name, parse_parent
from rpc.jobs.operations import Operations
from rpc.jobs.records import Records
from rpc.status import StatusError, code_number
from rpc.subjects import Subjects

if TYPE_CHECKING:
    from natsmesh.options import Mesh


class Reach:
    """All that a command needs of JetStream."""

    def __init__(self, connection: rpc.Connection, prefix: str) -> None:
        self.connection = connection
        self.prefix = prefix
        self.subjects = Subjects(prefix)
        self.js = JetStream(connection)
        self.records = Records(self.js, self.subjects)
        self.operations = Operations(self.js, self.subjects, self.records)
        self.letters = DeadLetters(self.js, self.subjects, self.records)
        self._schemas: dict[str, Schema] = {}

    async def schema(self, service: str) -> Schema | None:
        """Return the schema of a service, of one that runs or as it was stored; None when nobody knows it."""
        if service not in self._schemas and (found := await self._find_schema(service)) is not None:
            self._schemas[service] = found
        return self._schemas.get(service)

    async def _find_schema(self, service: str) -> Schema | None:
        found = [each.schema for each in await SchemaStore(self.js, self.subjects).read() if each.service == service]
        if not found:
            instances = read_instances(await rpc.discover(self.connection, "info", service), self.prefix)
            for digest in {each.digest for each in instances if each.service == service and each.digest}:
                with contextlib.suppress(LookupError, TimeoutError, ValueError):
                    found.append(await rpc.fetch_schema(self.connection, digest, subjects=self.subjects))
        for data in found:
            with contextlib.suppress(ValueError):
                return Schema(data)
        return None


@contextlib.asynccontextmanager
async def reach(mesh: Mesh, name: str) -> AsyncIterator[Reach]:
    """Connect as ``natsmesh <name>``. Raises ``Failure`` for what goes wrong meanwhile."""
    connection = await mesh.connect(f"natsmesh {name}")
    found = Reach(connection, mesh.prefix)
    try:
        await found.js.start()
        yield found
    except StatusError as error:
        code = Exit.NOT_FOUND if error.code is rpc.StatusCode.NOT_FOUND else Exit.STATUS + code_number(error.code)
        raise Failure(error.details, code) from error
    except (JetStreamError, ConnectionError) as error:
        raise Failure(f"{error}\nIs JetStream on at {mesh.url}?") from error
    finally:
        await found.js.close()
        await connection.close()


def split(text: str) -> tuple[str, str]:
    """Return (service, method) of ``SERVICE[/METHOD]``, "" for what is not there. Raises ``Failure``."""
    text = text.removeprefix("/").removeprefix("operations/")
    service, _, method = text.partition("/")
    try:
        return parse_parent(f"operations/{service}/{method}".rstrip("/")) if text else ("", "")
    except StatusError as error:
        raise Failure(f"{text!r} is no SERVICE[/METHOD], e.g. photos.v1.Thumbnailer/CreateThumbnails", 2) from error


def name_of(text: str) -> JobName:
    """Return the parts of an operation's name. Raises ``Failure``."""
    try:
        return parse_name(text)
    except StatusError as error:
        raise Failure(error.details, Exit.USAGE) from error


def is_name(text: str) -> bool:
    """Tell an operation's name from ``SERVICE[/METHOD]``."""
    return text.startswith("operations/") and text.count("/") == 3


def event_name(text: str) -> tuple[str, str, str] | None:
    """Return (service, method, number) of the name of a dead event, None for what is none."""
    parts = text.split("/")
    if len(parts) != 4 or parts[0] != "events":
        return None
    service, method = split(f"{parts[1]}/{parts[2]}")
    if not (parts[3].isascii() and parts[3].isdigit()):
        raise Failure(f"{text!r}: an event's name ends in its number", Exit.USAGE)
    return service, method, parts[3]
