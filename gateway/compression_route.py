"""The gateway's own paths, compressed: ``/metrics`` and ``/openapi.json`` grow with what is on the mesh."""

from __future__ import annotations

from gateway.asgi import Receive, Scope, Send
from gateway.catalog import Route
from gateway.compression_asgi import CompressingSend
from gateway.path_template import PathTemplate


class CompressingRoute:
    """One of the gateway's own paths, its answers compressed."""

    __slots__ = ("_minimum", "_serve", "http_method", "template")

    def __init__(self, route: Route, minimum: int) -> None:
        self.http_method: str = route.http_method
        self.template: PathTemplate = route.template
        self._serve = route.serve
        self._minimum = minimum

    async def serve(self, scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> None:
        """Answer one request."""
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
        if accept:
            send = CompressingSend(send, accept, self._minimum)
        await self._serve(scope, receive, send, segments)
