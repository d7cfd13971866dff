"""WebSockets until they are open: to everything that stands around routes they look like a GET.

So authentication, limits, traces and numbers hold for them without knowing of them. Whoever refuses the request answers
it over HTTP; the route accepts it by answering 101 (RFC 6455, 4.2.2), which becomes ASGI's ``websocket.accept``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from gateway.asgi import Message, Receive, Scope, Send
from gateway.errors import BadRequest, Headers, HttpError
from gateway.headers import HeaderReader
from gateway.query import parse_query
from rpc import StatusCode

WEBSOCKET: Final = "websocket"
"""The HTTP method, as it were, of routes for WebSockets; and where a scope has its ``Handshake``."""

SWITCHING_PROTOCOLS: Final = 101

JSON_SUBPROTOCOL: Final = "natsmesh.v1+json"
PROTO_SUBPROTOCOL: Final = "natsmesh.v1+proto"
SUBPROTOCOLS: Final = (JSON_SUBPROTOCOL, PROTO_SUBPROTOCOL)

BEARER: Final = "natsmesh.bearer."
"""An offered subprotocol that begins so is the token of ``authorization: Bearer``: pages cannot send that header with a
WebSocket, and a query string ends up in logs. It is never chosen."""

_TIMEOUTS: Final = ("grpc-timeout", "connect-timeout-ms")


class Handshake:
    """A request to open a WebSocket, and the socket once it is open."""

    __slots__ = ("_can_refuse", "_receive", "_send", "is_open", "scope", "subprotocol")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._can_refuse = "websocket.http.response" in scope.get("extensions", {})
        headers = _with_authorization(scope)
        self.scope: Scope = {**scope, "type": "http", "method": "GET", "headers": headers, WEBSOCKET: self}
        """The request, as HTTP."""
        self.subprotocol: str | None = None
        """What the server answers, if the client asked for any."""
        self.is_open = False

    async def begin(self) -> None:
        """Take what every handshake begins with."""
        await self._receive()

    async def receive_request(self) -> Message:
        """Receive what follows the head of the request: nothing but its end."""
        while (await self._receive())["type"] != "websocket.disconnect":
            pass
        return {"type": "http.disconnect"}

    async def send_response(self, message: Message) -> None:
        """Send a part of the response: of 101, the head opens the socket, and the rest is nothing."""
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if message["status"] == SWITCHING_PROTOCOLS:
                await self._send({"type": "websocket.accept", "subprotocol": self.subprotocol, "headers": headers})
                self.is_open = True
            elif self._can_refuse:
                await self._send(
                    {"type": "websocket.http.response.start", "status": message["status"], "headers": headers}
                )
            else:
                await self._send({"type": "websocket.close", "code": 1008, "reason": f"HTTP {message['status']}"})
        elif not self.is_open and self._can_refuse:
            await self._send({**message, "type": "websocket.http.response.body", "body": message.get("body", b"")})

    async def receive(self) -> Message:
        """Receive from the open socket."""
        return await self._receive()

    async def send(self, message: Message) -> None:
        """Send on the open socket; returns when the client has taken enough of what was sent before.

        Raises ``OSError`` when the client is gone.
        """
        await self._send(message)


def _with_authorization(scope: Scope) -> Headers:
    headers: Headers = scope["headers"]
    for offered in scope.get("subprotocols") or ():
        if offered.startswith(BEARER) and not any(name == b"authorization" for name, _ in headers):
            return [*headers, (b"authorization", b"Bearer " + offered[len(BEARER) :].encode())]
    return headers


def handshake_of(scope: Scope) -> Handshake:
    """Return the handshake that a scope is of."""
    return cast("Handshake", scope[WEBSOCKET])


class OriginCheck:
    """Decides which pages may open WebSockets: browsers let any page do so, cookies included, and ask nobody."""

    __slots__ = ("_allows", "_credentials")

    def __init__(self, allows: Callable[[bytes], bool] | None = None, *, credentials: bool = False) -> None:
        """``allows`` tells which other origins may (None: no others), ``credentials`` whether their cookies count."""
        self._allows = allows
        self._credentials = credentials

    def headers(self, scope: Scope) -> Headers:
        """Return the headers of a handshake: without cookies if a page may call, but not in its user's name.

        Browsers send them with every WebSocket, where CORS would have them left out.
        """
        headers: Headers = scope["headers"]
        if self._credentials or _foreign_origin(scope) is None:
            return headers
        return [pair for pair in headers if pair[0] != b"cookie"]

    def check(self, scope: Scope) -> None:
        """Raise ``HttpError`` 403 for a page of another origin. Whoever is no browser sends none."""
        origin = _foreign_origin(scope)
        if origin is None or (self._allows is not None and self._allows(origin)):
            return
        shown = origin[:200].decode("latin-1")
        raise HttpError(
            StatusCode.PERMISSION_DENIED,
            f"pages of {shown!r} may not open WebSockets here: the operator has not named it among cors.origins",
        )


def _foreign_origin(scope: Scope) -> bytes | None:
    """Return the origin of a page that is not the gateway's own."""
    origin = host = None
    for name, value in scope["headers"]:
        if name == b"origin":
            origin = value
        elif name == b"host":
            host = value
    return None if origin is None or _is_same(origin, host, scope["scheme"]) else origin


def _is_same(origin: bytes, host: bytes | None, scheme: str) -> bool:
    origin_scheme, separator, origin_host = origin.lower().partition(b"://")
    if not separator or host is None or origin_host != host.lower():
        return False
    # Without TLS there may be somebody with TLS in front of us, so any scheme will do.
    return scheme not in ("wss", "https") or origin_scheme == b"https"


def choose_subprotocol(scope: Scope) -> str | None:
    """Return the subprotocol that the client likes best of those that are spoken here; None when it names none.

    Raises ``BadRequest`` when it names others only.
    """
    offered: list[Any] = scope.get("subprotocols") or []
    chosen = next((each for each in offered if each in SUBPROTOCOLS), None)
    if chosen is None and offered:
        raise BadRequest(f"none of the subprotocols is spoken here: offer {' or '.join(SUBPROTOCOLS)}, or none")
    return chosen


def take_timeout(query: bytes, headers: HeaderReader) -> tuple[bytes, float | None]:
    """Take the timeout out of a query string: pages cannot send headers with a WebSocket.

    Returns what is left of it, and seconds. Raises ``BadRequest``.
    """
    if b"timeout" not in query:
        return query, None
    kept: list[bytes] = []
    taken: list[tuple[bytes, bytes]] = []
    for pair in query.split(b"&"):
        for name, value in parse_query(pair):
            if name in _TIMEOUTS:
                taken.append((name.encode(), value.encode("latin-1", "replace")))
                break
        else:
            kept.append(pair)
    return b"&".join(kept), headers.read(taken).timeout
