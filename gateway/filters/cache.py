"""GET of methods without side effects: entity tags, ``cache-control``, and answers that are kept.

What a call is made of, the path, the query and all metadata that passes to the service, is the key under which its
response is kept; so nobody is given what was answered to a different question. Whether it comes in gzip, br, zstd or as
it is, is part of the key as well. Each worker keeps its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from gateway.asgi import Receive, Scope, Send
from gateway.compression import choose
from gateway.errors import HttpError
from gateway.filters.cache_options import CacheOptions
from gateway.filters.cache_rules import directives, entity_tag, has_current, header, lifetime, without_content
from gateway.filters.cache_store import CacheStore, Stored
from gateway.headers import CLAIM_PREFIX, RequestHead
from rpc import IdempotencyLevel

if TYPE_CHECKING:
    from gateway.filters import Serve, ServiceRoute, Surroundings  # composes what is here

_HIT: Final = (b"cache-status", b"natsmesh; hit")
_MISS: Final = (b"cache-status", b"natsmesh; fwd=uri-miss")
_STORED: Final = (b"cache-status", b"natsmesh; fwd=uri-miss; stored")
_BYPASS: Final = (b"cache-status", b"natsmesh; fwd=request")
"""RFC 9211."""

_CREDENTIALS: Final = frozenset({"authorization", "cookie"})


class CacheFilter:
    """The filter around routes. All routes of a worker share one store."""

    def __init__(self, options: CacheOptions, surroundings: Surroundings, *, private: bool) -> None:
        """``private``: whoever calls had to say who they are, so shared caches on the way must not keep anything."""
        self.options = options
        self.surroundings = surroundings
        self.private = private
        self.store = CacheStore(options.max_entries, options.max_bytes)
        vary = ", ".join(name.lower() for name in options.vary).encode()
        self.vary = [(b"vary", vary)] if vary else []

    def wrap(self, route: ServiceRoute, serve: Serve) -> Serve:
        """Take care of GET for methods without side effects."""
        info = route.info
        if (
            route.http_method != "GET"
            or route.has_body
            or not info.is_unary
            or info.idempotency is not IdempotencyLevel.NO_SIDE_EFFECTS
        ):
            return serve
        return _CachedRoute(self, route, serve).serve

    async def start(self) -> None:
        """There is nothing to begin."""

    async def close(self) -> None:
        """There is nothing to end."""


class _CachedRoute:
    def __init__(self, cache: CacheFilter, route: ServiceRoute, inner: Serve) -> None:
        self._cache = cache
        self._route = route
        self._inner = inner

    async def serve(self, scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> None:
        """Answer from what is kept, or let the call be made and look at its response."""
        cache = self._cache
        try:
            head = cache.surroundings.server.headers.read(scope["headers"])
        except HttpError:
            return await self._inner(scope, receive, send, segments)  # It finds the same, and answers.
        known = head.metadata or []
        personal = any(name in _CREDENTIALS or name.startswith(CLAIM_PREFIX) for name, _ in known)
        asked = directives(header(scope["headers"], b"cache-control"))
        response = _Response(
            send, cache, if_none_match=header(scope["headers"], b"if-none-match"), private=personal or cache.private
        )
        if asked.keys() & {b"no-store"} or (personal and not cache.options.authorized):
            response.status = _BYPASS
            return await self._inner(scope, receive, response.send, segments)
        now = asyncio.get_running_loop().time()
        response.key = key = _key(scope, head)
        fresh = b"no-cache" not in asked and asked.get(b"max-age") != b"0"
        stored = cache.store.get(key, now) if fresh else None
        if stored is None:
            return await self._inner(scope, receive, response.send, segments)
        headers = [*stored.headers, (b"age", b"%d" % (now - stored.since)), _HIT]

        async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
            await _send(send, headers, stored.tag, stored.body, response.if_none_match)

        return await cache.surroundings.answer(self._route, answer, scope, receive, send, segments)


class _Response:
    """Stands in front of ``send`` of one request: holds its response until it is whole, and gives it a tag."""

    __slots__ = ("_cache", "_parts", "_private", "_send", "_size", "_start", "if_none_match", "key", "status")

    def __init__(self, send: Send, cache: CacheFilter, *, if_none_match: bytes | None, private: bool) -> None:
        self._send = send
        self._cache = cache
        self._private = private
        self._start: dict[str, Any] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self.if_none_match = if_none_match
        self.key: tuple[Any, ...] | None = None
        """Where the response is to be kept; None: nowhere."""
        self.status = _MISS

    async def send(self, message: dict[str, Any]) -> None:
        """Take the next part of the response."""
        if message["type"] == "http.response.start":
            if message["status"] != 200:
                # Some errors count as cacheable if nobody says otherwise (RFC 9110, 15.1).
                headers = message["headers"]
                if header(headers, b"cache-control") is None:
                    message = {**message, "headers": [*headers, (b"cache-control", b"no-store")]}
                await self._send(message)
                return
            self._start = message
            return
        if self._start is None:
            await self._send(message)
            return
        self._parts.append(message.get("body", b""))
        self._size += len(self._parts[-1])
        if self._size > self._cache.options.max_body:
            start, self._start = self._start, None
            await self._send({**start, "headers": [*self._headers(start["headers"]), self.status]})
            await self._send({**message, "body": b"".join(self._parts)})
        elif not message.get("more_body"):
            start, self._start = self._start, None
            await self._whole(start["headers"], b"".join(self._parts))

    def _headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the headers with what the operator says to caches, where the service has said nothing."""
        cache = self._cache
        headers = [*headers, *cache.vary]
        if header(headers, b"cache-control") is None:
            said = cache.options.cache_control.encode()
            # What is for one caller must not be given to another by whoever is on the way.
            headers.append((b"cache-control", b"private, " + said if self._private else said))
        return headers

    async def _whole(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        cache = self._cache
        seconds = lifetime(headers, cache.options.ttl) if self.key is not None else 0.0
        headers = self._headers(headers)
        tag = header(headers, b"etag")
        if tag is None:
            content_type = header(headers, b"content-type") or b""
            tag = entity_tag(content_type, header(headers, b"content-encoding") or b"", body)
            headers.append((b"etag", tag))
        if seconds > 0 and self.key is not None:
            now = asyncio.get_running_loop().time()
            kept = [pair for pair in headers if pair[0] != b"x-request-id"]
            cache.store.put(self.key, Stored(kept, tag, body, now, now + seconds), _size_of(self.key))
            self.status = _STORED
        await _send(self._send, [*headers, self.status], tag, body, self.if_none_match)


async def _send(
    send: Send, headers: list[tuple[bytes, bytes]], tag: bytes, body: bytes, if_none_match: bytes | None
) -> None:
    if has_current(if_none_match, tag):
        await send({"type": "http.response.start", "status": 304, "headers": without_content(headers)})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _key(scope: Scope, head: RequestHead) -> tuple[Any, ...]:
    metadata = sorted((name, value) for name, value in head.metadata or () if name != "x-request-id")
    coding = choose(head.codings.accept) if head.codings is not None else None
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return path, scope["query_string"], "" if coding is None else coding.name, tuple(metadata)


def _size_of(key: tuple[Any, ...]) -> int:
    path, query, _, metadata = key
    return len(path) + len(query) + sum(len(name) + len(value) + 200 for name, value in metadata)
