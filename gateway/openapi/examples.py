"""Values to begin with: examples of requests and answers that fit their schemas."""

from __future__ import annotations

from typing import Any, Final

from protobuf import (
    DescEnum,
    DescField,
    DescFieldValueList,
    DescFieldValueMap,
    DescMessage,
    ScalarType,
)

from gateway.openapi.components import Components, Element, element_of
from gateway.openapi.values import is_null, is_wrapper

MAX_DEPTH = 4
"""Messages nested deeper are left out, and so is any that holds itself: an example shows the shape."""

MAX_FIELDS = 60
"""Fields in one example; messages may be as wide as they like."""

NOTHING: Final = object()
"""There is no good example."""

# Names that say what a good value would be, and those of which any invented value is a bad one.
_LIKELY: Final[dict[str, Any]] = {
    "name": "Ada",
    "width": 256,
    "height": 256,
    "page_size": 10,
    "email": "ada@example.com",
    "url": "https://example.com",
    "uri": "https://example.com",
}
_NO_GUESS: Final = frozenset({"page_token", "filter", "order_by", "etag", "request_id"})

_WELL_KNOWN: Final[dict[str, Any]] = {
    "google.protobuf.Timestamp": "2026-01-31T12:00:00Z",
    "google.protobuf.Duration": "1.5s",
    "google.protobuf.Empty": {},
    "google.protobuf.Struct": {"key": "value"},
    "google.protobuf.Value": "value",
    "google.protobuf.ListValue": ["value"],
    # Which fields a mask may name, and what may stand in an Any, no descriptor says.
    "google.protobuf.FieldMask": NOTHING,
    "google.protobuf.Any": NOTHING,
}

_SCALARS: Final[dict[ScalarType, Any]] = {
    ScalarType.DOUBLE: 1.5,
    ScalarType.FLOAT: 1.5,
    ScalarType.BOOL: True,
    ScalarType.BYTES: "aGVsbG8=",
    **dict.fromkeys(
        (ScalarType.INT64, ScalarType.SINT64, ScalarType.SFIXED64, ScalarType.UINT64, ScalarType.FIXED64), "1"
    ),
}


class Examples:
    """Makes examples of what a request or an answer holds."""

    def __init__(self, components: Components, *, of_answers: bool = False) -> None:
        self._components = components
        self._of_answers = of_answers

    def message(self, message: DescMessage, without: frozenset[str] = frozenset()) -> Any:
        """Return an example of a message in its JSON form, without these fields; ``NOTHING`` if there is none."""
        return self._message(message, (), [MAX_FIELDS], without)

    def field(self, field: DescField) -> Any:
        """Return an example of a field's value in JSON, or ``NOTHING``."""
        return self._field(field, (), [MAX_FIELDS])

    def _message(
        self, message: DescMessage, around: tuple[str, ...], room: list[int], without: frozenset[str] = frozenset()
    ) -> Any:
        known = _WELL_KNOWN.get(message.type_name)
        if known is not None:
            return known
        if is_wrapper(message):
            return self._field(message.fields[0], around, room)
        if message.type_name in around or len(around) > MAX_DEPTH:
            return NOTHING
        around = (*around, message.type_name)
        result: dict[str, Any] = {}
        chosen = set()
        for field in message.fields:
            oneof = getattr(field.value, "oneof", None)
            if field.name in without or field.deprecated or (oneof is not None and oneof.name in chosen):
                continue
            if not self._of_answers and self._components.is_output(field):
                continue
            room[0] -= 1
            if room[0] < 0:
                break
            value = self._field(field, around, room)
            if value is not NOTHING:
                result[field.json_name] = value
                if oneof is not None:
                    chosen.add(oneof.name)
        return result

    def _field(self, field: DescField, around: tuple[str, ...], room: list[int]) -> Any:
        value = field.value
        if isinstance(value, DescFieldValueMap):
            inner = self._element(value.value, "", around, room)
            return NOTHING if inner is NOTHING else {_key(value.key): inner}
        if isinstance(value, DescFieldValueList):
            inner = self._element(value.element, _singular(field.name), around, room)
            return NOTHING if inner is NOTHING else [inner]
        return self._element(element_of(field), field.name, around, room)

    def _element(self, element: Element, name: str, around: tuple[str, ...], room: list[int]) -> Any:
        if isinstance(element, DescMessage):
            return self._message(element, around, room)
        if isinstance(element, DescEnum):
            return None if is_null(element.type_name) else _enum_value(element)
        if name in _NO_GUESS:
            return NOTHING
        default = _SCALARS.get(element, (name or "value") if element is ScalarType.STRING else 1)
        likely = _LIKELY.get(name)
        return likely if likely is not None and type(likely) is type(default) else default


def _enum_value(enum: DescEnum) -> str:
    """Return the first value that says something."""
    value = next((value for value in enum.values if value.number and not value.deprecated), enum.values[0])
    return value.json_name or value.name


def _key(scalar: ScalarType) -> str:
    if scalar is ScalarType.STRING:
        return "key"
    return "true" if scalar is ScalarType.BOOL else "1"


def _singular(name: str) -> str:
    return name[:-1] if name.endswith("s") and not name.endswith("ss") and len(name) > 2 else name
