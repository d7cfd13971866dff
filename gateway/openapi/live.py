"""The document of what is served now: made when somebody asks for it, and again after the routes have changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
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
MAX_CACHED_BYTES = 32 * 1024 * 1024
"""Documents of one state of the routes, and what they take together; they are asked for by URL."""


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
                    self._remember(key, found)
            return found

    def _remember(self, key: tuple[bool, str, str], made: Content) -> None:
        size = len(made.body) + sum(len(each.body) for each in self._made.values())
        while self._made and (len(self._made) >= MAX_CACHED or size > MAX_CACHED_BYTES):
            size -= len(self._made.pop(next(iter(self._made))).body)
        self._made[key] = made

    def _make(self, table: RouteTable[Route], root: str, service: str, connect: bool) -> Content | None:
        routes = _by_service(table.all())
        if service:
            if service not in routes:
                return None
            routes = {service: routes[service]}
        text = document(self._describe(routes), self._options, self._security, root, connect=connect)
        return content(b"application/json", _dumps(text, 3).encode("utf-8", "replace"))

    def _describe(self, routes: dict[str, list[ServedRoute]]) -> Iterator[Described]:
        # What is said of services is not kept: it is many small objects, which garbage collection would look through.
        for name, served in sorted(routes.items()):
            schema = self._schemas.get(name)
            if schema is not None:  # Else the gateway serves it itself, about itself.
                yield describe(schema, served, self._security, closed=self._closed)


def _by_service(routes: Sequence[Route]) -> dict[str, list[ServedRoute]]:
    result: dict[str, list[ServedRoute]] = {}
    for route in routes:
        served: Any = getattr(route, "route", route)  # What stands behind filters.
        info = getattr(served, "info", None)
        if info is not None:
            result.setdefault(info.service, []).append(served)
    return result


def _dumps(text: Any, depth: int) -> str:
    """Serialize in pieces, those of some levels each by itself: while one is written, all other threads stand still."""
    if depth and isinstance(text, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_dumps(value, depth - 1)}" for key, value in text.items()) + "}"
    return json.dumps(text, ensure_ascii=False, separators=(",", ":"))
