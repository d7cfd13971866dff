"""Fields named by a path (``book.author.name``): found once when a route is built, set many times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from protobuf import (
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMessage,
    DescFieldValueScalar,
    DescMessage,
    Message,
)

from gateway.scalars import Parser, parser_for

HTTP_BODY: Final = "google.api.HttpBody"
"""The message whose JSON is no JSON: its bytes are those of an HTTP body."""

MAX_DEPTH = 32
"""Fields in one path. Messages may be recursive, so the URL would decide otherwise."""

Setter = Callable[[Message, str], None]
"""Parses text and sets it on a message. Raises ``ValueError`` with a reason."""

Choice = tuple[tuple[str, ...], str]
"""(path of a oneof, the one of its fields that is set)"""


class FieldPathError(ValueError):
    """A path that does not lead to a field which text can set; the text says why."""


@dataclass(frozen=True, slots=True)
class TextField:
    """A field that text can set."""

    path: tuple[str, ...]
    """Names as in the .proto."""

    repeated: bool
    set: Setter
    """Sets the field, or appends to it when it is repeated."""

    choices: tuple[Choice, ...] = ()
    """For each oneof that the path leads through."""


def find_field(message: DescMessage, name: str) -> DescField | None:
    """Return the field of a message by its name in the .proto or in JSON."""
    for field in message.fields:
        if field.name == name:
            return field
    for field in message.fields:
        if field.json_name == name:
            return field
    return None


def resolve(message: DescMessage, names: tuple[str, ...]) -> tuple[DescField, ...]:
    """Return the fields that a path leads through. Raises ``FieldPathError``."""
    if len(names) > MAX_DEPTH:
        raise FieldPathError(f"the path leads through more than {MAX_DEPTH} fields")
    fields: list[DescField] = []
    within: DescMessage | None = message
    for name in names:
        if within is None:
            raise FieldPathError(f"{fields[-1].name!r} has no fields of its own")
        field = find_field(within, name)
        if field is None:
            raise FieldPathError(f"{within.type_name} has no field {name!r}")
        fields.append(field)
        within = field.value.message if isinstance(field.value, DescFieldValueMessage) else None
    return tuple(fields)


def text_field(message: DescMessage, names: tuple[str, ...]) -> TextField:
    """Compile the setter of the field that a path leads to. Raises ``FieldPathError``."""
    fields = resolve(message, names)
    last = fields[-1]
    value = last.value
    repeated = isinstance(value, DescFieldValueList)
    match value:
        case DescFieldValueScalar(scalar=scalar):
            parse = parser_for(scalar)
        case DescFieldValueEnum(enum=enum):
            parse = parser_for(enum)
        case DescFieldValueMessage(message=submessage):
            parse = parser_for(submessage)
        case DescFieldValueList(element=element):
            parse = parser_for(element)
        case _:
            raise FieldPathError("a map cannot be set from a URL")
    if parse is None:
        raise FieldPathError("a message cannot be set from a URL: name one of its fields")
    setter = _appender(last, parse) if repeated else _setter(last, parse)
    for parent in reversed(fields[:-1]):
        setter = _inside(parent, setter)
    return TextField(tuple(field.name for field in fields), repeated, setter, choices(fields))


def choices(fields: tuple[DescField, ...]) -> tuple[Choice, ...]:
    """Return which field of each oneof a path takes."""
    path = tuple(field.name for field in fields)
    return tuple(
        ((*path[:depth], oneof.name), field.name)
        for depth, field in enumerate(fields)
        if (oneof := getattr(field.value, "oneof", None)) is not None
    )


def submessage(message: Message, field: DescField) -> Message:
    """Return the message that a field of a message holds, made first if it is absent."""
    present: Message | None = message[field]
    if present is None:
        present = field.value.message.type()  # type: ignore[union-attr]  # callers have a message field
        message[field] = present
    return present


def _setter(field: DescField, parse: Parser) -> Setter:
    if isinstance(field.value, DescFieldValueScalar | DescFieldValueEnum | DescFieldValueMessage) and field.value.oneof:

        def set_in_oneof(message: Message, text: str) -> None:
            message[field] = parse(text)

        return set_in_oneof

    attribute = field.local_name

    def set_attribute(message: Message, text: str) -> None:
        setattr(message, attribute, parse(text))

    return set_attribute


def _appender(field: DescField, parse: Parser) -> Setter:
    def append(message: Message, text: str) -> None:
        values: list[Any] = message[field]
        values.append(parse(text))

    return append


def _inside(parent: DescField, setter: Setter) -> Setter:
    def set_inside(message: Message, text: str) -> None:
        setter(submessage(message, parent), text)

    return set_inside
