"""The document of what is served now: made when somebody asks for it, and again after the routes have changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.catalog import Route
from gateway.filters.auth_options import AuthOptions
from gateway.openapi.document import document
from gateway.openapi.operations import Described, ServedRoute, describe
from gateway.openapi.options import DocsOptions
from gateway.openapi.security import Security
from gateway.routes import RouteTable
from gateway.schema import Schema

MAX_CACHED = 8
"""Documents of one state of the routes; they are asked for by URL."""


@dataclass(frozen=True, slots=True)
class Content:
    """Something to be served that changes rarely."""

    media_type: bytes
    body: bytes
    etag: bytes


def content(media_type: bytes, body: bytes) -> Content:
    """Return a content with a validator of its own. It is a weak one, for somebody may compress it on the way."""
    return Content(media_type, body, b'W/"%s"' % hashlib.sha256(body).hexdigest()[:32].encode())


class LiveDocument:
    """Knows the schemas and, through ``table``, the routes of a gateway."""

    def __init__(
        self, options: DocsOptions, auth: AuthOptions | None, table: Callable[[], RouteTable[Route]], *, closed: bool
    ) -> None:
        """``closed``: REST refuses unknown fields."""
        self._options = options
        self._security = Security(auth)
        self._table = table
        self._closed = closed
        self._schemas: dict[str, Schema] = {}
        self._described: dict[str, tuple[Schema, list[ServedRoute], Described]] = {}
        self._made_of: RouteTable[Route] | None = None
        self._made: dict[tuple[bool, str, str], Content] = {}
        self._making = asyncio.Lock()

    def learn(self, schema: Schema) -> None:
        """Take note of a schema whose routes may be served from now on; may be called on any thread."""
        self._schemas[schema.service] = schema

    async def get(self, root: str, service: str = "", *, connect: bool = False) -> Content | None:
        """Return the document as JSON; with ``service``, of that one alone, or None if there is no such service.

        ``root`` is where the gateway is mounted. ``connect``: list all that can be called by Connect, too.
        """
        key = (connect, service, root)
        async with self._making:  # However many ask: one at a time is enough, and the others find it made.
            table = self._table()
            if table is not self._made_of:
                self._made.clear()
                self._made_of = table
            found = self._made.get(key)
            if found is None:
                # On a thread: of a large mesh it takes a while.
                found = await asyncio.to_thread(self._make, table, root, service, connect)
                if found is not None:
                    while len(self._made) >= MAX_CACHED:
                        del self._made[next(iter(self._made))]
                    self._made[key] = found
            return found

    def _make(self, table: RouteTable[Route], root: str, service: str, connect: bool) -> Content | None:
        described = self._describe(table)
        if service:
            if service not in described:
                return None
            described = {service: described[service]}
        text = document(described.values(), self._options, self._security, root, connect=connect)
        return content(b"application/json", json.dumps(text, ensure_ascii=False, separators=(",", ":")).encode())

    def _describe(self, table: RouteTable[Route]) -> dict[str, Described]:
        """Describe the services; those whose routes are what they were before are not looked at again."""
        before, self._described = self._described, {}
        for name, routes in sorted(_by_service(table.all()).items()):
            schema = self._schemas.get(name)
            if schema is None:  # One that the gateway serves itself, about itself.
                continue
            old = before.get(name)
            if old is None or old[0] is not schema or old[1] != routes:
                old = schema, routes, describe(schema, routes, self._security, closed=self._closed)
            self._described[name] = old
        return {name: described for name, (_, _, described) in self._described.items()}


def _by_service(routes: Sequence[Route]) -> dict[str, list[ServedRoute]]:
    result: dict[str, list[ServedRoute]] = {}
    for route in routes:
        served: Any = getattr(route, "route", route)  # What stands behind filters.
        info = getattr(served, "info", None)
        if info is not None:
            result.setdefault(info.service, []).append(served)
    return result
