"""What may stand between a request and its route: one concern a file, each switched on by its options.

Two kinds. A ``RouteFilter`` knows which method is called, and is put around a route when the route is built; the others
are plain ASGI middleware around the whole gateway, for what concerns every path alike, those that do not exist
included. What is switched off is left out when things are built, so it costs a request nothing. The order in which they
stack is written here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from gateway.body import Receive
from gateway.catalog import Route
from gateway.path_template import PathTemplate
from gateway.unary import Scope, Send

Serve = Callable[[Scope, Receive, Send, list[bytes]], Awaitable[None]]
"""Answers one request whose path matched: ``Route.serve``."""


class RouteFilter(Protocol):
    """A concern that depends on what is called."""

    def wrap(self, route: Route, serve: Serve) -> Serve:
        """Return what serves requests of ``route`` instead of ``serve``; that itself, if the filter has no say there.

        Called once for each route when it is built, on a thread.
        """


class FilteredRoute:
    """A route with filters around it."""

    __slots__ = ("http_method", "route", "serve", "template")

    def __init__(self, route: Route, serve: Serve) -> None:
        self.route = route
        self.http_method: str = route.http_method
        self.template: PathTemplate = route.template
        self.serve = serve


def filtered(route: Route, filters: Sequence[RouteFilter]) -> Route:
    """Return a route with filters around it, the first one outermost; the route itself when none has a say."""
    serve: Serve = route.serve
    for each in reversed(filters):
        serve = each.wrap(route, serve)
    return route if serve == route.serve else FilteredRoute(route, serve)
