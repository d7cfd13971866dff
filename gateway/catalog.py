"""The services of the mesh as routes, kept up to date while the gateway runs.

The watcher tells of a service; its schema is loaded and its routes are compiled on a thread, because a large schema
takes a while; then a new route table takes the place of the old one at once. A service that is gone keeps its routes:
its calls are answered with 503 by the bus itself. A schema that cannot be used changes nothing: what was served
before goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from protobuf import Registry

from gateway.asgi import Receive, Scope, Send
from gateway.path_template import PathTemplate
from gateway.routes import RouteTable
from gateway.schema import Schema, SchemaError, load_schema
from gateway.websocket_handshake import WEBSOCKET
from rpc import ServiceView

logger = logging.getLogger(__name__)

MAX_WARNINGS = 1000
"""Conflicts that are remembered, so as to tell of each but once."""


class Route(Protocol):
    """Anything that serves requests of one method and template."""

    @property
    def http_method(self) -> str:
        """``GET``, ``POST`` ... or ``*``."""

    @property
    def template(self) -> PathTemplate:
        """Which paths lead here."""

    def serve(self, scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> Awaitable[None]:
        """Answer one request. ``segments`` are those of the raw path, for the template's variables."""


class Catalog:
    """Follows the services. ``table`` is what is served now."""

    def __init__(self, compile_routes: Callable[[Schema], Sequence[Route]], own_routes: Sequence[Route]) -> None:
        """``compile_routes`` is called on a thread. ``own_routes`` are the gateway's own; nothing overrides them."""
        self._compile = compile_routes
        self._own_routes = own_routes
        self._routes: dict[str, Sequence[Route]] = {}
        self._digests: dict[str, str] = {}
        self.schemas: dict[str, bytes] = {}
        """The schemas that are served, as they came, by service."""
        self.registries: dict[str, Registry] = {}
        """The types of these schemas, by service."""
        self._pending: dict[str, ServiceView] = {}
        self._wake = asyncio.Event()
        self._warned: set[str] = set()
        self.table: RouteTable[Route] = RouteTable(own_routes)
        self.sockets: RouteTable[Route] = RouteTable()
        """The routes for WebSockets: no HTTP method leads to them."""
        self.settled = asyncio.Event()
        """Set once the services that were there at the start are served."""

    def add_own(self, routes: Sequence[Route]) -> None:
        """Add routes of the gateway itself, before ``run``."""
        self._own_routes = [*self._own_routes, *routes]
        self._publish()

    def wrap_own(self, wrap: Callable[[Route], Route]) -> None:
        """Put something around the routes of the gateway itself, before ``run``."""
        self._own_routes = [wrap(route) for route in self._own_routes]
        self._publish()

    def knows(self, service: str) -> bool:
        """Tell whether a service has been seen, and is served."""
        return service in self._routes

    def changed(self, view: ServiceView) -> None:
        """Take note of a service; the listener of a ``ServiceWatcher``."""
        self._pending[view.name] = view
        self._wake.set()

    async def run(self, first_round: asyncio.Event) -> None:
        """Follow until cancelled. ``first_round`` is set when the watcher has told of all that it found at first.

        Services found at the start are taken in the order of their names, so that all workers and all gateways decide
        conflicts alike; later ones in the order in which they come.
        """
        await first_round.wait()
        while True:
            self._wake.clear()
            pending, self._pending = self._pending, {}
            names = pending if self.settled.is_set() else sorted(pending)
            changed = False
            for name in names:
                changed |= await self._update(pending[name])
            if changed:
                self._publish()
            self.settled.set()
            await self._wake.wait()

    async def _update(self, view: ServiceView) -> bool:
        """Load a service's schema, unless it is the one that is served. Returns True when its routes are new."""
        if not view.schema or self._digests.get(view.name) == view.digest:
            return False
        try:
            registry, routes = await asyncio.to_thread(self._load, view)
        except SchemaError as error:
            logger.warning("%s %s is not served: %s", view.name, view.version, error)
            self._digests[view.name] = view.digest  # It will not get better by trying again.
            return False
        except Exception:
            logger.exception("%s %s is not served", view.name, view.version)
            self._digests[view.name] = view.digest
            return False
        logger.info("serving %s %s with %d routes", view.name, view.version, len(routes))
        self._digests[view.name] = view.digest
        self._routes[view.name] = routes
        self.schemas[view.name] = view.schema
        self.registries[view.name] = registry
        return True

    def _load(self, view: ServiceView) -> tuple[Registry, Sequence[Route]]:
        schema = load_schema(view.schema, view.name)
        return schema.registry, self._compile(schema)

    def _publish(self) -> None:
        routes = [route for routes in self._routes.values() for route in routes]
        self.table = RouteTable([*self._own_routes, *(route for route in routes if route.http_method != WEBSOCKET)])
        self.sockets = RouteTable(route for route in routes if route.http_method == WEBSOCKET)
        for conflict in (*self.table.conflicts, *self.sockets.conflicts):
            kept, refused = conflict.kept, conflict.refused
            text = (
                f"{refused.http_method} {refused.template.source}{_method(refused)} is served already "
                f"as {kept.template.source}{_method(kept)}"
            )
            if text not in self._warned:
                if len(self._warned) >= MAX_WARNINGS:
                    self._warned.clear()  # Schemas are other people's: there is no end to what they can clash in.
                self._warned.add(text)
                logger.warning("conflicting routes: %s (the earlier one keeps serving)", text)


def _method(route: Route) -> str:
    """Return which method a route leads to, for the log; the gateway's own lead to none."""
    info = getattr(getattr(route, "route", route), "info", None)
    return "" if info is None else f" ({info.full_name})"
