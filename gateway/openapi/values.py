"""JSON Schemas of single values, as ProtoJSON writes them.

Source: https://protobuf.dev/programming-guides/json/ and JSON Schema 2020-12, which is what OpenAPI 3.1 takes. They are
as narrow as the gateway is: what fits them is not refused for its form.
"""

from __future__ import annotations

from typing import Any, Final

from protobuf import DescMessage, ScalarType

JsonSchema = dict[str, Any]

HTTP_BODY: Final = "google.api.HttpBody"

# Nineteen and twenty digits, which may be a little too much: the exact bound would be a pattern that nobody can read.
_SIGNED_64: Final = r"^(?:0|-?[1-9][0-9]{0,18})$"
_UNSIGNED_64: Final = r"^(?:0|[1-9][0-9]{0,19})$"
_SIGNED_32: Final = r"^(?:0|-?[1-9][0-9]{0,9})$"
_UNSIGNED_32: Final = r"^(?:0|[1-9][0-9]{0,9})$"
_BASE64: Final = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
# Up to about 10,000 years each way, which is what google/protobuf/duration.proto allows.
_DURATION: Final = r"^-?(?:0|[1-9][0-9]{0,10}|[12][0-9]{11}|30[0-9]{10}|31[0-4][0-9]{9})(?:\.[0-9]{1,9})?s$"
_TIMESTAMP: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})$"
)
_FIELD_PATH: Final = r"[a-z][a-zA-Z0-9]*(?:\.[a-z][a-zA-Z0-9]*)*"
_FIELD_MASK: Final = rf"^(?:{_FIELD_PATH}(?:,{_FIELD_PATH})*)?$"
_FLOAT_MAX: Final = 3.4028234663852886e38

_NO_NUMBERS: Final = ["NaN", "Infinity", "-Infinity"]


def _integer(least: int, most: int, name: str) -> JsonSchema:
    return {"type": "integer", "format": name, "minimum": least, "maximum": most}


_INT32: Final = _integer(-(2**31), 2**31 - 1, "int32")
_UINT32: Final = _integer(0, 2**32 - 1, "uint32")
_INT64: Final = {"type": "string", "format": "int64", "pattern": _SIGNED_64}
_UINT64: Final = {"type": "string", "format": "uint64", "pattern": _UNSIGNED_64}

_SCALARS: Final[dict[ScalarType, JsonSchema]] = {
    ScalarType.DOUBLE: {"anyOf": [{"type": "number", "format": "double"}, {"enum": _NO_NUMBERS}]},
    ScalarType.FLOAT: {
        "anyOf": [
            {"type": "number", "format": "float", "minimum": -_FLOAT_MAX, "maximum": _FLOAT_MAX},
            {"enum": _NO_NUMBERS},
        ]
    },
    ScalarType.INT32: _INT32,
    ScalarType.SINT32: _INT32,
    ScalarType.SFIXED32: _INT32,
    ScalarType.UINT32: _UINT32,
    ScalarType.FIXED32: _UINT32,
    ScalarType.INT64: _INT64,
    ScalarType.SINT64: _INT64,
    ScalarType.SFIXED64: _INT64,
    ScalarType.UINT64: _UINT64,
    ScalarType.FIXED64: _UINT64,
    ScalarType.BOOL: {"type": "boolean"},
    ScalarType.STRING: {"type": "string"},
    ScalarType.BYTES: {"type": "string", "format": "byte", "contentEncoding": "base64", "pattern": _BASE64},
}

_WELL_KNOWN: Final[dict[str, JsonSchema]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time", "pattern": _TIMESTAMP},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": _DURATION,
        "description": "Seconds with up to nine decimals and an `s`: `1.5s`.",
    },
    "google.protobuf.FieldMask": {
        "type": "string",
        "pattern": _FIELD_MASK,
        "description": "Names of fields, separated by commas: `title,author.name`.",
    },
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True, "description": "Any JSON object."},
    "google.protobuf.Value": {"description": "Any JSON value."},
    "google.protobuf.ListValue": {"type": "array", "items": {}, "description": "Any JSON array."},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {
            "@type": {"type": "string", "description": "Which type it is: `type.googleapis.com/package.Message`."}
        },
        "additionalProperties": True,
        "description": "A message of any type: its fields stand beside `@type`.",
    },
}

_NULL: Final = "google.protobuf.NullValue"

RAW: Final[JsonSchema] = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
"""Bytes as they are, the body of an ``HttpBody``."""


def scalar_schema(scalar: ScalarType) -> JsonSchema:
    """Return the schema of a scalar's JSON form: a new dictionary, as of all functions here."""
    return dict(_SCALARS[scalar])


def well_known_schema(message: DescMessage, *, closed: bool) -> JsonSchema | None:
    """Return the schema of a message that has a JSON form of its own, or None.

    ``closed``: unknown fields are refused.
    """
    name = message.type_name
    if name in _WELL_KNOWN:
        schema = dict(_WELL_KNOWN[name])
        if name == "google.protobuf.Empty" and closed:
            schema["additionalProperties"] = False
        return schema
    if is_wrapper(message):
        value: Any = message.fields[0].value
        return scalar_schema(value.scalar)
    return None


def is_wrapper(message: DescMessage) -> bool:
    """Tell whether a message is one of google/protobuf/wrappers.proto."""
    return message.file.name == "google/protobuf/wrappers.proto" and len(message.fields) == 1


def is_null(enum_name: str) -> bool:
    """Tell whether an enum is the one whose only value is written as ``null``."""
    return enum_name == _NULL


def key_schema(scalar: ScalarType) -> JsonSchema | None:
    """Return the schema of a map's keys, which are strings in JSON; None when any will do."""
    if scalar is ScalarType.STRING:
        return None
    if scalar is ScalarType.BOOL:
        return {"enum": ["true", "false"]}
    schema = _SCALARS[scalar]
    if schema["type"] == "string":
        return {"pattern": schema["pattern"]}
    return {"pattern": _UNSIGNED_32 if schema is _UINT32 else _SIGNED_32}
