"""``/openapi.json``, and ``/docs`` with its assets. All of it comes from here: no other host is asked for anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from importlib import resources
from urllib.parse import parse_qs

from gateway.asgi import Receive, Scope, Send
from gateway.connect import literal_template
from gateway.errors import rest_error
from gateway.openapi.live import Content, LiveDocument, content
from gateway.schema import ERROR_DETAILS
from rpc import StatusCode

_ASSETS = {
    "docs.html": ("/docs", b"text/html; charset=utf-8"),
    "docs.css": ("/docs/docs.css", b"text/css; charset=utf-8"),
    "main.js": ("/docs/main.js", b"text/javascript; charset=utf-8"),
    "dom.js": ("/docs/dom.js", b"text/javascript; charset=utf-8"),
    "form.js": ("/docs/form.js", b"text/javascript; charset=utf-8"),
    "model.js": ("/docs/model.js", b"text/javascript; charset=utf-8"),
    "sending.js": ("/docs/sending.js", b"text/javascript; charset=utf-8"),
    "result.js": ("/docs/result.js", b"text/javascript; charset=utf-8"),
}

# The page shows what services say and answer; should some of it ever become markup, it still does nothing.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = [
    (b"cache-control", b"no-cache"),
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class ContentRoute:
    """Something that is got, and that browsers may keep as long as it is the same."""

    __slots__ = ("_get", "http_method", "template")

    def __init__(self, path: str, get: Callable[[Scope], Awaitable[Content | None]]) -> None:
        """``get`` returns None for what there is not."""
        self.http_method = "GET"
        self.template = literal_template(path)
        self._get = get

    async def serve(self, scope: Scope, _receive: Receive, send: Send, _segments: list[bytes]) -> None:
        """Answer with the content, with 304 to those who have it, or with 404."""
        found = await self._get(scope)
        if found is None:
            body = rest_error(StatusCode.NOT_FOUND, "there is no such service", (), ERROR_DETAILS)
            return await _send(send, 404, [(b"content-type", b"application/json")], body)
        headers = [(b"etag", found.etag), *_HEADERS]
        if _is_known(scope, found.etag):
            return await _send(send, 304, headers, b"")
        return await _send(send, 200, [(b"content-type", found.media_type), *headers], found.body)


def docs_routes(document: LiveDocument) -> Iterator[ContentRoute]:
    """Yield the routes of the document and of the page."""

    async def openapi(scope: Scope) -> Content | None:
        try:
            query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=10)
        except ValueError:  # More than anybody needs.
            query = {}
        service = query.get("service", [""])[-1]
        return await document.get(scope.get("root_path", ""), service, connect=query.get("connect") == ["all"])

    yield ContentRoute("/openapi.json", openapi)
    folder = resources.files("gateway.openapi") / "assets"
    for name, (path, media_type) in _ASSETS.items():
        yield ContentRoute(path, _constant(content(media_type, (folder / name).read_bytes())))


def _constant(found: Content) -> Callable[[Scope], Awaitable[Content | None]]:
    async def get(_scope: Scope) -> Content | None:
        return found

    return get


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    if status != 304:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _is_known(scope: Scope, etag: bytes) -> bool:
    """Compare with ``If-None-Match``, weakly (RFC 9110, 13.1.2)."""
    known = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
    tags = {each.strip().removeprefix(b"W/") for each in known.split(b",")}
    return etag.removeprefix(b"W/") in tags or b"*" in tags
