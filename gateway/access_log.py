"""The access log: one line for each request, in a format that tools know or one for people.

It stands around everything else, so it has whatever is answered: preflights, refusals, what no route serves. A thread
writes the lines, so a slow disk or a full pipe holds up no request; what it cannot take is dropped and counted. Nothing
that a client sends gets into a line unescaped, and query strings not at all: they may hold what is nobody's business.

Source of the format ``combined``: https://httpd.apache.org/docs/2.4/logs.html#combined.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Final, NamedTuple

from gateway.access_log_format import AccessLogFormat
from gateway.asgi import AsgiApp, Receive, Scope, Send
from gateway.filters.identity import IDENTITY, Identity
from gateway.log_writer import LogWriter
from gateway.unary import CLIENT_GONE

logger = logging.getLogger("gateway.access")

MAX_PATH: Final = 2000
MAX_HEADER: Final = 500
MAX_USER: Final = 200
"""What a client can fill of a line; one without much to escape stays below 4 KiB, which a pipe takes in one piece."""

_QUIET: Final = frozenset({b"/healthz", b"/readyz", b"/metrics"})
"""Asked every few seconds by machines; logged only when they fail."""

_UNPRINTABLE = re.compile(r'[^\x20-\x7e]|["\\]')


class Entry(NamedTuple):
    """One request that has been answered."""

    when: float
    """Seconds since the epoch, when it came."""
    client: str
    user: str
    """Whose credential it was: the subject of a token or the name of an API key; empty without one."""
    method: str
    path: str
    http: str
    status: int
    size: int
    """Bytes of the body that was answered."""
    seconds: float
    request_id: str
    user_agent: str
    referer: str


class AccessLog:
    """The ASGI middleware."""

    def __init__(self, application: AsgiApp, writer: LogWriter[Entry]) -> None:
        """``writer`` is closed when the server stops."""
        self._application = application
        self._writer = writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what became of it."""
        kind = scope["type"]
        if kind not in {"http", "websocket"}:
            serve = self._lifespan if kind == "lifespan" else self._application
            return await serve(scope, receive, send)
        status, size, request_id = 0, 0, b""
        started, when = perf_counter(), time.time()

        async def forward(message: dict[str, Any]) -> None:
            nonlocal status, size, request_id
            kind = message["type"]
            if kind == "http.response.body":
                size += len(message.get("body", b""))
            elif kind == "http.response.start":
                status = message["status"]
                request_id = next((value for name, value in message["headers"] if name == b"x-request-id"), b"")
            elif not status and kind in _WEBSOCKET_STATUS:
                status = message.get("status", _WEBSOCKET_STATUS[kind])
            await send(message)

        try:
            await self._application(scope, receive, forward)
        except Exception:
            status = status or 500
            raise
        finally:
            size = 0 if scope.get("method") == "HEAD" else size
            entry = _entry(scope, when, status or CLIENT_GONE, size, perf_counter() - started, request_id)
            if entry is not None:
                self._writer.put(entry)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def forward(message: dict[str, Any]) -> None:
            # Before the server hears that all is done: it does not wait for what comes after.
            if message["type"] != "lifespan.startup.complete":
                await self._writer.close()
            await send(message)

        await self._application(scope, receive, forward)


_WEBSOCKET_STATUS: Final = {
    "websocket.accept": 101,
    "websocket.close": 403,
    "websocket.http.response.start": 403,
}


def access_log(application: AsgiApp, format: AccessLogFormat | bool, file: Path | None) -> AsgiApp:  # noqa: A002 - the option's name
    """Return an application with a log of what it answers.

    With True for a format the lines go to the log ``gateway.access``, as JSON; else to ``file``, or to standard output.
    """
    if isinstance(format, bool):
        return AccessLog(application, LogWriter(_json_without_time, logger)) if format else application
    return AccessLog(application, LogWriter(_FORMATS[format], None if file is None else Path(file)))


def _entry(scope: Scope, when: float, status: int, size: int, seconds: float, request_id: bytes) -> Entry | None:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    if raw in _QUIET and status < 400:
        return None
    user_agent = referer = b""
    for name, value in scope["headers"]:
        if name == b"user-agent":
            user_agent = value[:MAX_HEADER]
        elif name == b"referer":
            # Its query string is no more our business than the request's own.
            referer = value.partition(b"?")[0][:MAX_HEADER]
    client = scope.get("client")
    identity: Identity | None = scope.get(IDENTITY)
    return Entry(
        when,
        client[0] if client else "-",
        identity.name[:MAX_USER] if identity is not None else "",
        scope.get("method", "GET")[:32],
        raw.partition(b"?")[0][:MAX_PATH].decode("latin-1"),
        scope.get("http_version", ""),
        status,
        size,
        seconds,
        request_id.decode("latin-1"),
        user_agent.decode("latin-1"),
        referer.decode("latin-1"),
    )


def _fields(entry: Entry) -> dict[str, object]:
    return {
        "method": entry.method,
        "path": entry.path,
        "status": entry.status,
        "ms": round(entry.seconds * 1000, 3),
        "bytes": entry.size,
        "client": entry.client,
        **({"user": entry.user} if entry.user else {}),
        "request_id": entry.request_id,
        "http": entry.http,
        "user_agent": entry.user_agent,
    }


def _json_without_time(entry: Entry) -> str:
    return json.dumps(_fields(entry))  # A log has its own.


def _json(entry: Entry) -> str:
    return json.dumps({"time": _utc(entry.when), **_fields(entry)})


def _combined(entry: Entry) -> str:
    when = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(entry.when))
    version = entry.http if "." in entry.http else f"{entry.http}.0"
    request = f"{_word(entry.method)} {_word(entry.path)} HTTP/{version}"
    return (
        f'{entry.client} - {_word(entry.user) or "-"} [{when}] "{request}" {entry.status} {entry.size or "-"} '
        f'"{_escaped(entry.referer) or "-"}" "{_escaped(entry.user_agent) or "-"}"'
    )


def _text(entry: Entry) -> str:
    return (
        f"{_utc(entry.when)} {entry.client} {_word(entry.method)} {_word(entry.path)} "
        f"{entry.status} {entry.seconds * 1000:.1f}ms {entry.size}B {_escaped(entry.request_id) or '-'}"
    )


_FORMATS: Final[dict[str, Callable[[Entry], str]]] = {"combined": _combined, "json": _json, "text": _text}


def _utc(when: float) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when))
    return f"{seconds}.{int(when % 1 * 1000):03d}Z"


def _word(text: str) -> str:
    """Return text escaped, spaces too: HTTP/2 has nothing against them in a path."""
    return _escaped(text).replace(" ", r"\x20")


def _escaped(text: str) -> str:
    r"""Return text whose unprintable characters, quotes and backslashes are ``\xhh``, as Apache has it."""
    return _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
