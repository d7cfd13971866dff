"""What may stand between a request and its route: one concern a file, each switched on by its options.

Two kinds. A ``RouteFilter`` knows which method is called, and is put around a route when the route is built
(``route_filters``); the others are plain ASGI middleware around the whole gateway, for what concerns every path alike,
those that do not exist included (``application``). What is switched off is left out when things are built, so it costs
a request nothing; its module is not even imported. The order in which they stack is written here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gateway.asgi import AsgiApp, Receive, Scope, Send
from gateway.catalog import Route
from gateway.errors import HttpError
from gateway.filters.detour import Detour
from gateway.path_template import PathTemplate
from gateway.unary import UnaryRoute, UnaryServer
from rpc import Connection

if TYPE_CHECKING:
    from gateway.config import Config  # has the options of filters in it

Serve = Callable[[Scope, Receive, Send, list[bytes]], Awaitable[None]]
"""Answers one request whose path matched: ``Route.serve``."""


class ServiceRoute(UnaryRoute, Protocol):
    """A route that leads to a method of a service, whatever the front-end, or one made to look so (``OwnRoute``)."""

    def serve(self, scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> Awaitable[None]:
        """Answer one request whose path matched."""


class RouteFilter(Protocol):
    """A concern that depends on what is called. To be subclassed."""

    def wrap(self, route: ServiceRoute, serve: Serve) -> Serve:
        """Return what serves requests of ``route`` instead of ``serve``; that itself, if the filter has no say there.

        Called once for each route when it is built, on a thread.
        """

    async def start(self) -> None:
        """Begin what the filter does by itself; called before any route is built. What it raises fails the start."""

    async def close(self) -> None:
        """End that; it may have failed to begin."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What filters may use of the gateway that they are part of."""

    server: UnaryServer
    connection: Connection

    async def refuse(
        self, route: ServiceRoute, error: HttpError, scope: Scope, receive: Receive, send: Send, segments: list[bytes]
    ) -> None:
        """Answer a request with an error instead of a call.

        In the form of the route's front-end and of the request's protocol, with a request id; it is counted, traced
        and logged like any other request of the route.
        """
        await self.server.serve(Detour(route, error), scope, receive, send, segments)

    async def answer(
        self, route: ServiceRoute, app: AsgiApp, scope: Scope, receive: Receive, send: Send, segments: list[bytes]
    ) -> None:
        """Let another application answer a request instead of a call; all else is as in ``refuse``."""
        await self.server.serve(Detour(route, app), scope, receive, send, segments)


def route_filters(config: Config, surroundings: Surroundings) -> Sequence[RouteFilter]:
    """Return the filters that a configuration asks for, the outermost first.

    1. Authentication: nothing else is done for those who may not call; what follows goes by who they are.
    2. Rate limits: by key or by address. Answers from the cache count as well.
    3. The cache: what is known is answered without a call.
    """
    filters: list[RouteFilter] = []
    if config.auth is not None:
        from gateway.filters.auth import Auth  # noqa: PLC0415 - loaded when it is used

        filters.append(Auth(config.auth, surroundings))
    if config.rate_limit is not None:
        from gateway.filters.rate_limit import RateLimit  # noqa: PLC0415 - loaded when it is used

        filters.append(RateLimit(config.rate_limit, surroundings))
    if config.cache is not None:
        from gateway.filters.cache import CacheFilter  # noqa: PLC0415 - loaded when it is used

        filters.append(CacheFilter(config.cache, surroundings, private=config.auth is not None))
    return filters


def application(gateway: AsgiApp, config: Config) -> AsgiApp:
    """Return a gateway with everything around it that concerns all of its paths.

    1. The access log: of whatever is answered.
    2. Response headers: on whatever is answered, preflights included.
    3. CORS: preflights go no further, and pages can read whatever is answered within.
    """
    if config.cors is not None:
        from gateway.filters.cors import Cors  # noqa: PLC0415 - loaded when it is used

        key = config.auth.api_key_header if config.auth is not None else None
        gateway = Cors(gateway, config.cors, api_key_header=key)
    if config.response_headers is not None:
        from gateway.filters.response_headers import ResponseHeaders  # noqa: PLC0415 - loaded when it is used

        gateway = ResponseHeaders(gateway, config.response_headers)
    if config.access_log:
        from gateway.access_log import access_log  # noqa: PLC0415 - loaded when it is used

        gateway = access_log(gateway, config.access_log, config.access_log_file)
    return gateway


class FilteredRoute:
    """A route with filters around it."""

    __slots__ = ("http_method", "route", "serve", "template")

    def __init__(self, route: ServiceRoute, serve: Serve) -> None:
        self.route = route
        self.http_method: str = route.http_method
        self.template: PathTemplate = route.template
        self.serve = serve


def filtered(route: ServiceRoute, filters: Sequence[RouteFilter]) -> Route:
    """Return a route with filters around it, the first one outermost; the route itself when none has a say."""
    serve: Serve = route.serve
    for each in reversed(filters):
        serve = each.wrap(route, serve)
    return route if serve == route.serve else FilteredRoute(route, serve)
