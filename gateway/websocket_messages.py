"""What travels in the messages of a WebSocket: one request or response each, as JSON, protobuf, or raw bytes.

Text is JSON and binary is protobuf. What is an ``HttpBody`` on a REST path is its bytes, in binary messages. A text
without a character is never a message: it says that there will be no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gateway.asgi import Message as AsgiMessage
from gateway.errors import BadRequest
from gateway.http_rule import Binding
from gateway.json_codec import json_decoder
from gateway.schema import Method, Schema
from gateway.transcode import RequestTranscoder, ResponseError, answers_raw, response_transcoder, takes_raw

Decode = Callable[[AsgiMessage], bytes]
"""Makes a serialized request of a message. Raises ``HttpError``."""

Encode = Callable[[bytes], AsgiMessage]
"""Makes a message of a serialized response. Raises ``ResponseError``."""

Url = tuple[list[bytes], bytes]
"""(path segments, query string) of the handshake."""


class Messages(Protocol):
    """How the messages of one route look."""

    def of_url(self, url: Url) -> bytes | None:
        """Return the request that the URL alone is; None when requests come in messages.

        Raises ``HttpError`` when the URL does not fit, whatever comes in messages.
        """

    def json(self, url: Url) -> tuple[Decode, Encode]:
        """Return both directions as JSON, for one socket."""

    def proto(self, url: Url) -> tuple[Decode, Encode]:
        """Return both directions as protobuf, for one socket."""


class MethodMessages:
    """On the path of the method: whole messages, and nothing from the URL."""

    def __init__(self, method: Method, schema: Schema, *, ignore_unknown: bool) -> None:
        parse = json_decoder(method.request, schema.registry, ignore_unknown=ignore_unknown)
        encode = method.to_json
        response = method.response.desc().type_name

        def decode(message: AsgiMessage) -> bytes:
            return parse(text_of(message).encode()).to_binary()

        def answer(data: bytes) -> AsgiMessage:
            try:
                return text_message(encode(data))
            except Exception as error:
                raise ResponseError(f"the response does not fit {response}: {str(error)[:200]}") from error

        self._json = decode, answer

    def of_url(self, url: Url) -> None:
        """Refuse parameters."""
        if url[1].strip(b"&"):
            raise BadRequest("the path of a method takes no query parameters but timeouts")

    def json(self, _url: Url) -> tuple[Decode, Encode]:
        """Transcode."""
        return self._json

    def proto(self, _url: Url) -> tuple[Decode, Encode]:
        """Pass on."""
        return binary_of, binary_message


class BindingMessages:
    """On a REST path: messages are bodies; what path and query say holds for every one of them."""

    def __init__(self, method: Method, binding: Binding, schema: Schema, *, ignore_unknown: bool) -> None:
        """Raises ``RuleError`` when the binding does not fit the method."""
        self._request = method.request
        self._transcoder = RequestTranscoder(method, binding, schema.registry, ignore_unknown=ignore_unknown)
        self._takes_raw = takes_raw(method, binding)
        self._answers_raw = answers_raw(method, binding)
        self._answer = response_transcoder(method, binding, schema.registry)

    def of_url(self, url: Url) -> bytes | None:
        """Return the request, if the binding has no body."""
        segments, query = url
        message = self._request()
        self._transcoder.bind(message, segments, query)
        return None if self._transcoder.has_body else message.to_binary()

    def json(self, url: Url) -> tuple[Decode, Encode]:
        """Transcode as REST does."""
        segments, query = url
        request, answer = self._transcoder.request, self._answer

        def decode(message: AsgiMessage) -> bytes:
            return request(text_of(message).encode(), "application/json", segments, query)

        def decode_raw(message: AsgiMessage) -> bytes:
            text = message.get("text")
            if text is None:
                return request(binary_of(message), "application/octet-stream", segments, query)
            return request(text.encode(), "text/plain; charset=utf-8", segments, query)

        def encode(data: bytes) -> AsgiMessage:
            return text_message(answer(data)[1])

        def encode_raw(data: bytes) -> AsgiMessage:
            return binary_message(answer(data)[1])

        return decode_raw if self._takes_raw else decode, encode_raw if self._answers_raw else encode

    def proto(self, url: Url) -> tuple[Decode, Encode]:
        """Take whole messages, in which path and query have the last word."""
        segments, query = url
        from_binary: Any = self._request.from_binary
        bind = self._transcoder.bind
        name = self._request.desc().type_name

        def decode(message: AsgiMessage) -> bytes:
            data = binary_of(message)
            try:
                request = from_binary(data)
            except Exception as error:
                raise BadRequest(f"the message is no {name}: {str(error)[:200]}") from error
            bind(request, segments, query)
            binary: bytes = request.to_binary()
            return binary

        return decode, binary_message


def text_of(message: AsgiMessage) -> str:
    """Return the text of a message. Raises ``BadRequest``."""
    text: str | None = message.get("text")
    if text is None:
        raise BadRequest("this WebSocket carries JSON: send text messages, not binary ones")
    return text


def binary_of(message: AsgiMessage) -> bytes:
    """Return the bytes of a message. Raises ``BadRequest``."""
    data: bytes | None = message.get("bytes")
    if data is None:
        raise BadRequest("this WebSocket carries protobuf: send binary messages, and no text but the empty one")
    return bytes(data)


def text_message(data: bytes) -> AsgiMessage:
    """Return UTF-8 as a text message."""
    return {"type": "websocket.send", "text": data.decode()}


def binary_message(data: bytes) -> AsgiMessage:
    """Return bytes as a binary message."""
    return {"type": "websocket.send", "bytes": data}
