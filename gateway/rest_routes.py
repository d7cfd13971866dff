"""The REST routes of a service: those that ``google.api.http`` options make."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from gateway.errors import HttpError
from gateway.headers import RequestHead
from gateway.http_rule import RuleError, bindings
from gateway.rest import RestRoute
from gateway.rest_streams import ServerStreamRoute
from gateway.schema import Schema
from gateway.unary import AsgiApp, UnaryServer
from rpc import Stats, StatusCode

logger = logging.getLogger(__name__)


class RequestStreamRoute(RestRoute):
    """A method with a stream of requests: an HTTP request is one message, so REST has no way to call it."""

    __slots__ = ()

    def other_way(self, _head: RequestHead, _segments: list[bytes]) -> AsgiApp | None:
        """Say where it can be called."""
        raise HttpError(
            StatusCode.UNIMPLEMENTED,
            f"{self.info.full_name} takes a stream of requests, which REST cannot send: "
            f"call POST {self.info.path} by Connect, gRPC-Web or gRPC",
        )


Route = RestRoute | ServerStreamRoute


def rest_routes(schema: Schema, server: UnaryServer, stats: Stats, *, ignore_unknown: bool) -> Iterator[Route]:
    """Yield the routes of a service. A binding that cannot be served is logged and left out."""
    for method in schema.methods:
        if method.http is None:
            continue
        kind: type[Route] = RestRoute
        if method.info.client_streaming:
            kind = RequestStreamRoute
        elif method.info.server_streaming:
            kind = ServerStreamRoute
        for binding in bindings(method.http):
            try:
                if isinstance(binding, RuleError):
                    raise binding
                yield kind(method, binding, schema, server, stats, ignore_unknown=ignore_unknown)
            except RuleError as error:
                logger.warning("%s: an HTTP rule is not served: %s", method.info.full_name, error)
