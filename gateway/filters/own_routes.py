"""The gateway's own paths (``/metrics``, ``/docs`` ...) in the shape that filters put themselves around."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from google.protobuf.any_pb2 import Any as GoogleAny

from gateway.asgi import AsgiApp, Receive, Scope, Send
from gateway.catalog import Route
from gateway.errors import rest_error
from gateway.headers import RequestHead
from gateway.path_template import PathTemplate
from gateway.schema import ERROR_DETAILS
from gateway.transcode import Answer
from rpc import MethodInfo, Stats, StatusCode


class OwnRoute:
    """Such a path as a route of no service: its ``info`` has none."""

    __slots__ = ("has_body", "http_method", "info", "numbers", "serve", "template")

    def __init__(self, route: Route, stats: Stats) -> None:
        self.info = MethodInfo("", route.template.source)
        self.http_method: str = route.http_method
        self.template: PathTemplate = route.template
        self.has_body = False
        # Only refusals are counted.
        self.numbers = stats.entry(route.http_method, route.template.source, "http")
        self.serve: Callable[[Scope, Receive, Send, list[bytes]], Awaitable[None]] = route.serve

    def other_way(self, _head: RequestHead, _segments: list[bytes]) -> AsgiApp | None:
        """Never: it serves itself."""
        raise NotImplementedError

    def prepare(
        self, _head: RequestHead, _body: bytes, _segments: list[bytes], _query: bytes
    ) -> tuple[bytes, Callable[[bytes], Answer]]:
        """Never: it serves itself."""
        raise NotImplementedError

    def error(self, code: StatusCode, message: str, details: Sequence[GoogleAny]) -> bytes:
        """Return a ``google.rpc.Status``."""
        return rest_error(code, message, details, ERROR_DETAILS)
