"""gRPC-Web as text: the same bytes in base64, for browsers that cannot read a binary response while it comes.

Source: gRPC, "PROTOCOL-WEB", "application/grpc-web-text": a body is a row of base64 texts, each padded or not.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from gateway.asgi import Message, Receive, Scope, Send
from gateway.errors import BadRequest

_BINARY: Final = b"application/grpc-web"
_TEXT: Final = b"application/grpc-web-text"

_PADDED: Final = re.compile(rb"[^=]*={0,2}")


def is_text(content_type: bytes) -> bool:
    """Tell whether a request is of this kind."""
    return content_type.startswith(_TEXT)


def as_binary(scope: Scope, receive: Receive, send: Send) -> tuple[Scope, Receive, Send]:
    """Return the request as one of binary gRPC-Web, and what makes text of its response."""
    headers = [
        (name, _BINARY + value.removeprefix(_TEXT) if name == b"content-type" else value)
        for name, value in scope["headers"]
    ]
    return {**scope, "headers": headers}, _Decoded(receive), _encoding(send)


class _Decoded:
    """``receive`` whose body comes decoded, part by part. What does not make a group of four yet waits."""

    __slots__ = ("_receive", "_rest")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._rest = b""

    async def __call__(self) -> Message:
        """Return the next part. Raises ``BadRequest``."""
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        text = self._rest + message.get("body", b"")
        end = len(text) // 4 * 4
        self._rest = text[end:]
        if self._rest and not message.get("more_body"):
            raise BadRequest("the body is not base64: it ends within a group of four characters")
        try:
            # Padding ends one text, not the body.
            parts = [base64.b64decode(part, validate=True) for part in _PADDED.findall(text[:end])]
        except binascii.Error as error:
            raise BadRequest(f"the body is not base64: {error}") from None
        return {**message, "body": b"".join(parts)}


def _encoding(send: Send) -> Send:
    async def encode(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [
                (name, _TEXT + value.removeprefix(_BINARY) if value.startswith(_BINARY) else value)
                for name, value in message["headers"]
                if name != b"content-length"
            ]
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and (body := message.get("body")):
            message = {**message, "body": base64.b64encode(body)}
        await send(message)

    return encode
