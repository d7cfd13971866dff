"""CORS: which pages of other origins may call the gateway from a browser, and what of the answers they see.

It stands around the whole gateway, so a preflight needs no route, and errors are as readable as answers. It protects
browsers' users, not services: whoever is no browser says any ``Origin`` it likes.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol; what clients of Connect and gRPC-Web need besides,
https://connectrpc.com/docs/cors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from gateway.asgi import AsgiApp, Receive, Scope, Send
from gateway.option_types import ConfigError, Seconds

ANY: Final = "*"

_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:\*\.)?(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(?:[0-9]+|\*))?"
)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

_CLIENTS_SEND: Final = [
    "accept",
    "accept-language",
    "authorization",
    "x-api-key",
    "content-type",
    "connect-protocol-version",
    "connect-timeout-ms",
    "connect-accept-encoding",
    "connect-content-encoding",
    "grpc-timeout",
    "grpc-encoding",
    "grpc-accept-encoding",
    "x-grpc-web",
    "x-user-agent",
    "x-request-id",
    "if-none-match",
    "last-event-id",
    "traceparent",
    "tracestate",
]
_CLIENTS_READ: Final = [
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
    "grpc-encoding",
    "connect-content-encoding",
    "content-encoding",
    "x-request-id",
    "retry-after",
    "ratelimit",
    "ratelimit-policy",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "ratelimit",
    "ratelimit-policy",
    "etag",
    "www-authenticate",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsOptions:
    """Who may call from a browser, and how."""

    origins: tuple[str, ...]
    """``https://app.example.com``; ``https://*.example.com`` for all its subdomains; ``http://localhost:*`` for any
    port; or ``*`` alone, for everybody."""

    methods: tuple[str, ...] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    """HTTP methods that pages may use."""

    headers: tuple[str, ...] = ()
    """Request headers that pages may send, besides those of Connect, gRPC-Web and authentication; ``*`` is any."""

    exposed_headers: tuple[str, ...] = ()
    """Response headers that pages may read, besides those of Connect and gRPC-Web, trailing metadata included."""

    credentials: bool = False
    """Pages may let the browser send cookies and client certificates. Not with ``*`` for origins."""

    max_age: Seconds = 7200.0
    """How long browsers may remember the answer to a preflight; most have a limit of their own."""

    def __post_init__(self) -> None:
        if not self.origins:
            raise ConfigError("origins: name at least one, like https://app.example.com, or * for all")
        for origin in self.origins:
            if origin != ANY and not _ORIGIN.fullmatch(origin.lower()):
                raise ConfigError(
                    f"origins: {origin!r} is none: expected scheme://host or scheme://host:port, "
                    "without a path or a slash at the end"
                )
        if ANY in self.origins and len(self.origins) > 1:
            raise ConfigError("origins: with * there is nothing to add: name it alone")
        if ANY in self.origins and self.credentials:
            raise ConfigError("credentials: browsers refuse them together with origins = *: name the origins")
        if ANY in self.methods and self.credentials:
            raise ConfigError("methods: to browsers * is no wildcard together with credentials: name the methods")
        for name in ("methods", "headers", "exposed_headers"):
            for value in getattr(self, name):
                if not _TOKEN.fullmatch(value):
                    raise ConfigError(f"{name}: {value!r} is no name of a {name.rstrip('s').replace('_', ' ')}")
        if not 0 <= self.max_age <= 86400 * 365:
            raise ConfigError(f"max_age {self.max_age}: must be from 0 seconds to a year")


class Cors:
    """The ASGI middleware."""

    def __init__(self, application: AsgiApp, options: CorsOptions, *, api_key_header: str | None = None) -> None:
        """``api_key_header`` is what clients send theirs in."""
        self._application = application
        self._any = ANY in options.origins
        self._exact = {each.lower().encode() for each in options.origins if "*" not in each}
        self._patterns = [_pattern(each.lower()) for each in options.origins if "*" in each and each != ANY]
        self._any_header = ANY in options.headers
        self._exposed = ", ".join(dict.fromkeys([*_CLIENTS_READ, *_lower(options.exposed_headers)])).encode()
        self._expose_all = ANY in options.exposed_headers
        self._credentials = [(b"access-control-allow-credentials", b"true")] if options.credentials else []
        sent = [*_CLIENTS_SEND, api_key_header] if api_key_header else _CLIENTS_SEND
        self._allowed_headers = ", ".join(dict.fromkeys([*sent, *_lower(options.headers)])).encode()
        self._preflight = [
            (b"access-control-allow-methods", ", ".join(options.methods).upper().encode()),
            (b"access-control-max-age", b"%d" % options.max_age),
        ]
        self._vary = [] if self._any else [(b"vary", b"Origin")]

    def allows(self, origin: bytes) -> bool:
        """Tell whether pages of an origin may call."""
        return self._any or origin in self._exact or any(each.fullmatch(origin) for each in self._patterns)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, its answer with CORS headers; answer preflights."""
        if scope["type"] != "http":  # Who may open WebSockets, ``gateway.websocket_handshake`` decides, by ``allows``.
            return await self._application(scope, receive, send)
        origin: bytes | None = None
        asks = False
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value
            elif name == b"access-control-request-method":
                asks = True
        if origin is not None and asks and scope["method"] == "OPTIONS":
            return await self._answer_preflight(origin, scope, send)
        granted = self._grant(origin) if origin is not None and self.allows(origin) else None

        async def forward(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": self._with_grant(message.get("headers", ()), granted)}
            await send(message)

        return await self._application(scope, receive, forward)

    def _grant(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        return [(b"access-control-allow-origin", b"*" if self._any else origin), *self._credentials]

    def _with_grant(self, headers: Any, granted: list[tuple[bytes, bytes]] | None) -> list[tuple[bytes, bytes]]:
        # Two answers to one question are none to a browser: only the operator's counts.
        kept = [(name, value) for name, value in headers if not name.startswith(b"access-control-")]
        if granted is not None:
            kept += granted
            names = [name for name, _ in kept if self._expose_all or name.startswith(b"trailer-")]
            kept.append((b"access-control-expose-headers", b", ".join((self._exposed, *dict.fromkeys(names)))))
        return kept + self._vary

    async def _answer_preflight(self, origin: bytes, scope: Scope, send: Send) -> None:
        if not self.allows(origin):
            shown = origin[:200].decode("latin-1")
            text = f"pages of {shown} may not call this gateway: the operator has not named it among cors.origins\n"
            body = text.encode("ascii", "backslashreplace")
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 403, "headers": headers + self._vary})
            await send({"type": "http.response.body", "body": body})
            return
        headers = [*self._grant(origin), *self._preflight, *self._vary]
        allowed = self._allowed_headers
        if self._any_header:
            # A literal * would leave out ``authorization``, and means nothing with credentials.
            allowed = b", ".join(each for name, each in scope["headers"] if name == b"access-control-request-headers")
            headers.append((b"vary", b"Access-Control-Request-Headers"))
        headers.append((b"access-control-allow-headers", allowed))
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _pattern(origin: str) -> re.Pattern[bytes]:
    text = re.escape(origin).replace(r"://\*\.", r"://(?:[a-z0-9_-]+\.)+")
    return re.compile(re.sub(r":\\\*$", r"(?::[0-9]+)?", text).encode())


def _lower(names: tuple[str, ...]) -> list[str]:
    return [name.lower() for name in names if name != ANY]
