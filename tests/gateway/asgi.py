"""A client that speaks to an ASGI application directly: what a server would hand over, without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

Application = Callable[
    [dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]
Headers = dict[str, str]


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:
        assert self.header("content-type") == "application/json", self
        return json.loads(self.body)


class Conversation:
    """A request that is under way: its parts are sent and taken one by one.

    As with a server, ``send`` of the application waits while the parts of the answer before are not taken.
    """

    def __init__(self, application: Any, scope: dict[str, Any], parts: Sequence[bytes], *, more: bool) -> None:
        self._to_application: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_application: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(maxsize=1)
        self._gone = False
        self.complete = False
        """Whether the answer had an end; else it was cut off."""
        self.trailers: list[tuple[str, str]] = []
        self.task = asyncio.ensure_future(self._run(application, scope))
        for number, part in enumerate(parts):
            self.send(part, more=more or number < len(parts) - 1)

    async def _run(self, application: Any, scope: dict[str, Any]) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"} if self._gone else await self._to_application.get()

        async def send(message: dict[str, Any]) -> None:
            if not self._gone:
                await self._from_application.put(message)

        try:
            await application(scope, receive, send)
        finally:
            if not self._gone:
                await self._from_application.put(None)

    def send(self, body: bytes, *, more: bool = True) -> None:
        """Send a part of the request."""
        self._to_application.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def parts_left(self) -> int:
        """How many parts of the request the application has not taken."""
        return self._to_application.qsize()

    async def head(self, timeout: float = 5.0) -> Answer:
        """Wait for the head of the answer."""
        message = await asyncio.wait_for(self._from_application.get(), timeout)
        assert message is not None, "there was no answer"
        assert message["type"] == "http.response.start"
        return Answer(
            message["status"], [(name.decode(), value.decode("latin-1")) for name, value in message["headers"]]
        )

    async def part(self, timeout: float = 5.0) -> bytes | None:
        """Wait for the next part of the answer; None after the last, or when it was cut off."""
        message = await asyncio.wait_for(self._from_application.get(), timeout)
        if message is None:
            return None
        if message["type"] == "http.response.trailers":
            self.trailers = [(name.decode(), value.decode("latin-1")) for name, value in message["headers"]]
            return None
        assert message["type"] == "http.response.body"
        self.complete = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    async def rest(self) -> bytes:
        """Wait for all parts that are left."""
        parts: list[bytes] = []
        while (part := await self.part()) is not None:
            parts.append(part)
        return b"".join(parts)

    def hang_up(self) -> None:
        """Go away."""
        self._gone = True
        self._to_application.put_nowait({"type": "http.disconnect"})
        while not self._from_application.empty():
            self._from_application.get_nowait()


class Client:
    def __init__(self, application: Any) -> None:
        self.application = application

    async def request(
        self,
        method: str,
        target: str | bytes,
        body: bytes | Sequence[bytes] = b"",
        *,
        headers: dict[str, str] | None = None,
        json: Any = None,
        scope: dict[str, Any] | None = None,
    ) -> Answer:
        """Send one request and return the answer. A sequence is a body that comes in pieces."""
        raw = target.encode() if isinstance(target, str) else target
        all_headers = dict(headers or {})
        if json is not None:
            body = dumps(json)
            all_headers.setdefault("content-type", "application/json")
        pieces = [body] if isinstance(body, bytes) else list(body)
        if isinstance(body, bytes) and body:
            all_headers.setdefault("content-length", str(len(body)))
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1}
            for number, piece in enumerate(pieces)
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.application(_scope(method, raw, all_headers, scope), receive, send)
        start = sent[0]
        assert start["type"] == "http.response.start"
        assert sent[-1].get("more_body", False) is False
        answer = Answer(start["status"], [(key.decode(), value.decode("latin-1")) for key, value in start["headers"]])
        answer.body = b"".join(message["body"] for message in sent[1:] if message["type"] == "http.response.body")
        if sent[-1]["type"] == "http.response.trailers":
            answer.trailers = [(key.decode(), value.decode("latin-1")) for key, value in sent[-1]["headers"]]
        return answer

    def open(
        self,
        method: str,
        target: str,
        *parts: bytes,
        more: bool = False,
        headers: dict[str, str] | None = None,
        scope: dict[str, Any] | None = None,
    ) -> Conversation:
        """Begin a request; ``more`` says that other parts of its body will follow."""
        return Conversation(
            self.application, _scope(method, target.encode(), headers or {}, scope), parts or [b""], more=more
        )

    async def get(self, target: str | bytes, **options: Any) -> Answer:
        return await self.request("GET", target, **options)

    async def post(self, target: str | bytes, body: bytes | Sequence[bytes] = b"", **options: Any) -> Answer:
        return await self.request("POST", target, body, **options)


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


def _scope(method: str, target: bytes, headers: dict[str, str], more: dict[str, Any] | None) -> dict[str, Any]:
    path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(key.lower().encode(), value.encode("latin-1")) for key, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        **(more or {}),
    }
