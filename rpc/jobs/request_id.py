"""Finds one string field in a serialized message without its class: channels and gateways carry bytes."""

from __future__ import annotations

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def string_field(message: bytes, number: int) -> str:
    """Return a singular string field of the top level, "" when it is missing, or the message is malformed.

    Of a field that comes twice the last value counts. Source: protobuf, "Encoding".
    """
    position, found = 0, b""
    try:
        while position < len(message):
            key, position = _varint(message, position)
            kind = key & 7
            if kind == _VARINT:
                _, position = _varint(message, position)
            elif kind == _FIXED64:
                position += 8
            elif kind == _FIXED32:
                position += 4
            elif kind == _BYTES:
                length, position = _varint(message, position)
                if key >> 3 == number:
                    found = message[position : position + length]
                position += length
            else:
                return ""  # groups, which proto3 has not
        return found.decode() if position == len(message) else ""
    except (IndexError, UnicodeDecodeError):
        return ""


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError
