"""Text in a URL as the value of a field: what path variables and query parameters are made of.

The forms are those of ProtoJSON (https://protobuf.dev/programming-guides/json/), without the quotes.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable
from typing import Any

from protobuf import DescEnum, DescMessage, ScalarType

Parser = Callable[[str], Any]
"""Makes a value of text. Raises ``ValueError`` with a reason that reads well after the name of the field."""

# Python's int() and float() take more than ProtoJSON: underscores, spaces, other digits than ASCII's, "inf".
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_FLOAT = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_FLOAT32_MAX = 3.4028234663852886e38
_SPECIAL_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_FROM_JSON_STRING = frozenset(
    {"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"},
)
_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)


def parser_for(element: ScalarType | DescEnum | DescMessage) -> Parser | None:
    """Return what parses text for a type, or None for a message that has no form as text."""
    if isinstance(element, ScalarType):
        return _SCALARS[element]
    if isinstance(element, DescEnum):
        return _enum_parser(element)
    if element.type_name in _FROM_JSON_STRING:
        return _json_string_parser(element)
    if element.type_name in _WRAPPERS:
        return _wrapper_parser(element)
    return None


def _text(text: str) -> str:
    return text


def _integer(bits: int, *, signed: bool) -> Parser:
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)

    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text):
            raise ValueError(f"expected an integer, got {_shown(text)}")
        number = int(text)
        if not least <= number <= most:
            raise ValueError(f"{text} is outside the range of {least} to {most}")
        return number

    return parse


def _double(text: str) -> float:
    if text in _SPECIAL_FLOATS:
        return _SPECIAL_FLOATS[text]
    if not _FLOAT.fullmatch(text) or not math.isfinite(number := float(text)):
        raise ValueError(f"expected a number, got {_shown(text)}")
    return number


def _float(text: str) -> float:
    number = _double(text)
    if math.isfinite(number) and abs(number) > _FLOAT32_MAX:
        raise ValueError(f"{_shown(text)} is outside the range of a float")
    return number


def _boolean(text: str) -> bool:
    if text == "true":
        return True
    if text == "false":
        return False
    raise ValueError(f"expected true or false, got {_shown(text)}")


def parse_base64(text: str) -> bytes:
    """Decode base64 of either alphabet, with or without padding."""
    if _BASE64.fullmatch(text):
        digits = text.rstrip("=").translate(_TO_STANDARD_ALPHABET)
        try:
            return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
        except binascii.Error:
            pass
    raise ValueError(f"expected base64, got {_shown(text)}")


_TO_STANDARD_ALPHABET = str.maketrans("-_", "+/")


def _enum_parser(enum: DescEnum) -> Parser:
    by_name = {value.name: value.number for value in enum.values}
    numbers = frozenset(by_name.values())
    make = enum.type

    def parse(text: str) -> Any:
        number = by_name.get(text)
        if number is None:
            number = _int32(text) if _INTEGER.fullmatch(text) else None
            if number is None or not (enum.open or number in numbers):
                raise ValueError(f"expected a value of {enum.type_name}, got {_shown(text)}")
        return make(number)

    return parse


def _json_string_parser(message: DescMessage) -> Parser:
    def parse(text: str) -> Any:
        try:
            value = message.type.from_json(json.dumps(text))
            # Masks of names that no field can have are read, and could not be written again.
            value.to_json()
            return value
        except (ValueError, TypeError, OverflowError):
            raise ValueError(f"expected a {message.type_name} as in JSON, got {_shown(text)}") from None

    return parse


def _wrapper_parser(message: DescMessage) -> Parser:
    field = message.fields[0]
    parse_value = _SCALARS[field.value.scalar]  # type: ignore[union-attr]  # a wrapper's one field is a scalar

    def parse(text: str) -> Any:
        wrapper = message.type()
        wrapper[field] = parse_value(text)
        return wrapper

    return parse


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}..."


_int32 = _integer(32, signed=True)

_SCALARS: dict[ScalarType, Parser] = {
    ScalarType.DOUBLE: _double,
    ScalarType.FLOAT: _float,
    ScalarType.INT32: _int32,
    ScalarType.SINT32: _int32,
    ScalarType.SFIXED32: _int32,
    ScalarType.INT64: _integer(64, signed=True),
    ScalarType.SINT64: _integer(64, signed=True),
    ScalarType.SFIXED64: _integer(64, signed=True),
    ScalarType.UINT32: _integer(32, signed=False),
    ScalarType.FIXED32: _integer(32, signed=False),
    ScalarType.UINT64: _integer(64, signed=False),
    ScalarType.FIXED64: _integer(64, signed=False),
    ScalarType.BOOL: _boolean,
    ScalarType.STRING: _text,
    ScalarType.BYTES: parse_base64,
}
