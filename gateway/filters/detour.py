"""Requests that a filter answers by itself, on the way that all requests take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from google.protobuf.any_pb2 import Any as GoogleAny

from gateway.asgi import AsgiApp
from gateway.errors import HttpError
from gateway.headers import RequestHead
from gateway.path_template import PathTemplate
from gateway.transcode import Answer
from gateway.unary import UnaryRoute
from rpc import StatusCode


class Detour:
    """Stands in for a route for the length of one request: an error, or another application, answers it."""

    __slots__ = ("_answer", "_route", "has_body", "http_method", "info", "numbers", "template")

    def __init__(self, route: UnaryRoute, answer: HttpError | AsgiApp) -> None:
        self._route = route
        self._answer = answer
        self.http_method: str = route.http_method
        self.template: PathTemplate = route.template
        self.info = route.info
        self.numbers = route.numbers
        self.has_body = False

    def other_way(self, _head: RequestHead, _segments: list[bytes]) -> AsgiApp:
        """Raise the error, or return the application."""
        if isinstance(self._answer, HttpError):
            raise self._answer
        return self._answer

    def prepare(
        self, _head: RequestHead, _body: bytes, _segments: list[bytes], _query: bytes
    ) -> tuple[bytes, Callable[[bytes], Answer]]:
        """Never: there is always another way."""
        raise NotImplementedError

    def error(self, code: StatusCode, message: str, details: Sequence[GoogleAny]) -> bytes:
        """Return an error as the route's front-end has it."""
        return self._route.error(code, message, details)
