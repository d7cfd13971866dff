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
        path, _, query = raw.partition(b"?")
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

        await self.application(
            {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": method,
                "scheme": "http",
                "path": unquote(path.decode("latin-1")),
                "raw_path": path,
                "query_string": query,
                "root_path": "",
                "headers": [(key.lower().encode(), value.encode("latin-1")) for key, value in all_headers.items()],
                "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 80),
                **(scope or {}),
            },
            receive,
            send,
        )
        start = sent[0]
        assert start["type"] == "http.response.start"
        assert sent[-1].get("more_body", False) is False
        answer = Answer(start["status"], [(key.decode(), value.decode("latin-1")) for key, value in start["headers"]])
        answer.body = b"".join(message["body"] for message in sent[1:] if message["type"] == "http.response.body")
        return answer

    async def get(self, target: str | bytes, **options: Any) -> Answer:
        return await self.request("GET", target, **options)

    async def post(self, target: str | bytes, body: bytes | Sequence[bytes] = b"", **options: Any) -> Answer:
        return await self.request("POST", target, body, **options)


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()
