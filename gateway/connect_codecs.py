"""Codecs for ``connectrpc`` that hand messages through as bytes: only JSON is transcoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.errors import ConnectError

from gateway.errors import HttpError
from gateway.json_codec import json_decoder
from gateway.schema import Method, Schema


class Converter:
    """How messages of one method become bytes and JSON. Stands in for connectrpc's message classes."""

    def __init__(self, method: Method, schema: Schema) -> None:
        # Connect's codecs pass over unknown fields, so that older servers understand newer clients.
        parse = json_decoder(method.request, schema.registry, ignore_unknown=True)
        self.to_json = method.to_json
        self.from_json: Callable[[bytes], bytes] = lambda document: parse(document).to_binary()


class Response:
    """A serialized response, and how to make JSON of it."""

    __slots__ = ("converter", "data")

    def __init__(self, data: bytes, converter: Converter) -> None:
        self.data = data
        self.converter = converter


class BinaryCodec(Codec[Response, Any]):
    """Protobuf: as it is."""

    def name(self) -> str:
        """Return what content types call it."""
        return "proto"

    def encode(self, message: Response) -> bytes:
        """Return the bytes that came from the back-end."""
        return message.data

    def decode(self, data: bytes | bytearray, message_class: Any) -> Any:
        """Return the bytes that go to the back-end."""
        return bytes(data)


class JsonCodec(Codec[Response, Any]):
    """JSON, by the same functions as on the lean path."""

    def name(self) -> str:
        """Return what content types call it."""
        return "json"

    def encode(self, message: Response) -> bytes:
        """Return the JSON of a response. Raises ``ConnectError``."""
        try:
            return message.converter.to_json(message.data)
        except Exception as error:
            raise ConnectError(Code.INTERNAL, f"the response does not fit its schema: {str(error)[:200]}") from error

    def decode(self, data: bytes | bytearray, message_class: Any) -> Any:
        """Return the bytes of a request. Raises ``ConnectError``."""
        try:
            return message_class.from_json(bytes(data))
        except HttpError as error:
            raise ConnectError(Code.INVALID_ARGUMENT, error.message) from error
