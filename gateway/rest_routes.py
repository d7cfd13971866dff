"""The REST routes of a service: those that ``google.api.http`` options make."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from gateway.asgi import AsgiApp
from gateway.errors import HttpError
from gateway.headers import RequestHead
from gateway.http_rule import Binding, RuleError, bindings
from gateway.rest import RestRoute
from gateway.rest_streams import ServerStreamRoute
from gateway.schema import Method, Schema
from gateway.transcode import takes_raw
from gateway.unary import UnaryServer
from gateway.uploads import UploadRoute
from rpc import Stats, StatusCode

logger = logging.getLogger(__name__)


class RequestStreamRoute(RestRoute):
    """A method with a stream of requests that are no bytes: an HTTP request is one message, so it cannot call it."""

    __slots__ = ()

    def other_way(self, _head: RequestHead, _segments: list[bytes]) -> AsgiApp | None:
        """Say where it can be called."""
        raise HttpError(
            StatusCode.UNIMPLEMENTED,
            f"{self.info.full_name} takes a stream of requests, which one HTTP request cannot be: "
            f"open a WebSocket here, or call POST {self.info.path} by Connect, gRPC-Web or gRPC",
        )


Route = RestRoute | ServerStreamRoute | UploadRoute


def rest_routes(schema: Schema, server: UnaryServer, stats: Stats, *, ignore_unknown: bool) -> Iterator[Route]:
    """Yield the routes of a service. A binding that cannot be served is logged and left out."""
    for method in schema.methods:
        if method.http is None:
            continue
        for binding in bindings(method.http):
            try:
                if isinstance(binding, RuleError):
                    raise binding
                kind = _kind(method, binding)
                yield kind(method, binding, schema, server, stats, ignore_unknown=ignore_unknown)
            except RuleError as error:
                logger.warning("%s: an HTTP rule is not served: %s", method.info.full_name, error)


def _kind(method: Method, binding: Binding) -> type[Route]:
    if method.info.client_streaming:
        return UploadRoute if takes_raw(method, binding) else RequestStreamRoute
    return ServerStreamRoute if method.info.server_streaming else RestRoute
