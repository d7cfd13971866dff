"""JSON in, JSON out, by protobuf-py; and when the JSON of a client is wrong, where and why.

Documents are bounded in depth before they are parsed: protobuf-py 0.7 overflows the stack, and takes the process with
it, on some twenty thousand nested arrays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from protobuf import (
    DescEnum,
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescMessage,
    Message,
    Registry,
    ScalarType,
    message_from_json_value,
)

from gateway.errors import BadRequest
from gateway.fields import find_field
from gateway.json_oneofs import oneof_check

MAX_DEPTH = 64
"""Levels of arrays and objects in a document."""

MAX_EXPLAINED_BYTES = 32 * 1024
"""In larger documents the culprit is named by its field only: finding its place costs as much as parsing again."""

Decoder = Callable[[bytes], Message]
Encoder = Callable[[bytes], bytes]

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_OF_FIELD = re.compile(r" for (?:field|extension) (\S+)\Z")
_PYTHON_TYPE = re.compile(r",? (?:got:? |type: )?<class '(\w+)'>")
_KINDS = {
    "int": "a number",
    "float": "a number",
    "str": "a string",
    "list": "an array",
    "dict": "an object",
    "bool": "a boolean",
    "NoneType": "null",
}


def json_decoder(message_type: type[Message], registry: Registry, *, ignore_unknown: bool) -> Decoder:
    """Return what parses a JSON document as a message. It raises ``BadRequest``; nothing at all is an empty message."""
    from_json = message_type.from_json
    checks = _checks(message_type.desc(), registry)

    def decode(document: bytes) -> Message:
        if not document:
            return message_type()
        if document.count(b"[") + document.count(b"{") > MAX_DEPTH:
            check_depth(document)
        try:
            message = from_json(document, registry=registry, ignore_unknown_fields=ignore_unknown)
            for each in checks:
                each(message)
        except Exception as error:
            raise explain(error, document, message_type, registry, ignore_unknown=ignore_unknown) from error
        return message

    check = oneof_check(message_type.desc())
    if check is None:
        return decode

    def decode_and_check(document: bytes) -> Message:
        message = decode(document)
        try:
            check(document)
        except (ValueError, RecursionError) as error:
            raise _syntax_error(error) from error  # In what the parser has passed over as unknown.
        return message

    return decode_and_check


_LENIENT = frozenset(f"google.protobuf.{name}" for name in ("FieldMask", "Value", "Struct", "ListValue", "Any"))
"""protobuf-py 0.7 reads more as these than it writes: paths that are none, numbers beyond all range."""


def _checks(descriptor: DescMessage, registry: Registry) -> list[Callable[[Message], object]]:
    """Return what raises for messages that were read and cannot be written: nothing for most types."""
    kinds = {descriptor.type_name}
    has_enums = False
    to_see = [descriptor]
    for message in to_see:
        for field in message.fields:
            has_enums = has_enums or _is_enum(field)
            inner = _message_in(field)
            if inner is not None and inner.type_name not in kinds:
                kinds.add(inner.type_name)
                to_see.append(inner)
    checks: list[Callable[[Message], object]] = []
    if not _LENIENT.isdisjoint(kinds):
        checks.append(lambda message: message.to_json(registry=registry))
    if has_enums:
        checks.append(lambda message: message.to_binary())  # Numbers of enums are read whatever their size.
    return checks


def _is_enum(field: DescField) -> bool:
    match field.value:
        case DescFieldValueEnum():
            return True
        case DescFieldValueList(element=inner) | DescFieldValueMap(value=inner):
            return isinstance(inner, DescEnum)
        case _:
            return False


def _message_in(field: DescField) -> DescMessage | None:
    match field.value:
        case DescFieldValueMessage(message=inner):
            return inner
        case DescFieldValueList(element=inner) | DescFieldValueMap(value=inner) if isinstance(inner, DescMessage):
            return inner
        case _:
            return None


def json_encoder(message_type: type[Message], registry: Registry) -> Encoder:
    """Return what makes JSON of a serialized message. It raises whatever the message is wrong with.

    Fields without presence are left out when they hold their default, as ProtoJSON does.
    """
    from_binary = message_type.from_binary

    def encode(data: bytes) -> bytes:
        return from_binary(data).to_json(registry=registry).encode()

    return encode


def check_depth(document: bytes) -> None:
    """Raise ``BadRequest`` when brackets are nested deeper than ``MAX_DEPTH``."""
    # Without strings and all that is no bracket, a document is the shape of its nesting; each pass takes off one level.
    shape = _STRING.sub(b"", document).translate(_BRACKETS, _NOT_BRACKETS)
    too_deep = b"[" * (MAX_DEPTH + 1)
    for _ in range(MAX_DEPTH):
        if too_deep in shape:
            break
        peeled = shape.replace(b"[]", b"")
        if len(peeled) == len(shape):
            return  # What is left, if anything, is not balanced: the parser will say where.
        shape = peeled
    if b"[" in shape:
        raise BadRequest(f"the JSON body is nested deeper than {MAX_DEPTH} levels")


def parse_value(document: bytes) -> Any:
    """Parse a document that stands for one field. Raises ``BadRequest``."""
    check_depth(document)
    try:
        return json.loads(document, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _syntax_error(error) from error


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def explain(
    error: Exception, document: bytes, message_type: type[Message], registry: Registry, *, ignore_unknown: bool
) -> BadRequest:
    """Say what is wrong with a document that could not be parsed: line and column, or field and reason."""
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return _syntax_error(error)
    if len(document) <= MAX_EXPLAINED_BYTES:
        search = _Search(registry, ignore_unknown=ignore_unknown)
        try:
            found = next(search.message(message_type.desc(), json.loads(document), ""), None)
        except (ValueError, RecursionError):
            found = None  # Python reads JSON a little differently, in numbers beyond all range for one.
        if found is not None:
            return found
    reason = _reason(error)
    field = _OF_FIELD.search(str(error))
    return _bad_field(field[1], reason) if field else BadRequest(f"the JSON body does not fit: {reason}")


def _syntax_error(error: Exception) -> BadRequest:
    if isinstance(error, RecursionError) or "recursion limit" in str(error):
        return BadRequest(f"the JSON body is nested deeper than {MAX_DEPTH} levels")
    if isinstance(error, json.JSONDecodeError):
        return BadRequest(f"the body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})")
    return BadRequest(f"the body is not valid JSON: {error}")


def _bad_field(path: str, reason: str) -> BadRequest:
    return BadRequest(f"{path}: {reason}", field=path)


def _reason(error: Exception) -> str:
    text = _OF_FIELD.sub("", str(error))
    text = _PYTHON_TYPE.sub(lambda match: f", got {_KINDS.get(match[1], match[1])}", text)
    return text if len(text) <= 200 else text[:200] + "..."


class _Search:
    """Looks for the first value in a document that does not fit its field. Yields ``BadRequest``."""

    def __init__(self, registry: Registry, *, ignore_unknown: bool) -> None:
        self.registry = registry
        self.ignore_unknown = ignore_unknown

    def message(self, descriptor: DescMessage, value: Any, path: str) -> Iterator[BadRequest]:
        if not isinstance(value, dict):
            yield _bad_field(path or "the body", f"expected an object, got {_KINDS[type(value).__name__]}")
            return
        for key, each in value.items():
            field = find_field(descriptor, key)
            here = f"{path}.{key}" if path else key
            if field is None:
                if not self.ignore_unknown and not key.startswith("["):
                    yield _bad_field(here[:200], f"{descriptor.type_name} has no such field")
            elif each is not None:
                yield from self.field(descriptor, field, each, here)

    def field(self, descriptor: DescMessage, field: DescField, value: Any, path: str) -> Iterator[BadRequest]:
        match field.value:
            case DescFieldValueMessage(message=inner) if _is_plain(inner):
                yield from self.message(inner, value, path)
            case DescFieldValueList(element=element) if isinstance(value, list):
                for index, each in enumerate(value):
                    yield from self.item(descriptor, field, element, each, [each], f"{path}[{index}]")
            case DescFieldValueMap(value=element) if isinstance(value, dict):
                for key, each in value.items():
                    place = f'{path}["{key[:60]}"]'
                    yield from self.item(descriptor, field, element, each, {key: each}, place)
            case _:
                yield from self.try_alone(descriptor, field, value, path)

    def item(
        self,
        descriptor: DescMessage,
        field: DescField,
        element: ScalarType | DescEnum | DescMessage,
        value: Any,
        alone: Any,
        path: str,
    ) -> Iterator[BadRequest]:
        if value is not None and isinstance(element, DescMessage) and _is_plain(element):
            yield from self.message(element, value, path)
        else:
            yield from self.try_alone(descriptor, field, alone, path)

    def try_alone(self, descriptor: DescMessage, field: DescField, value: Any, path: str) -> Iterator[BadRequest]:
        """Parse a message that has this one value: the parser itself says whether it fits."""
        try:
            message_from_json_value(
                descriptor.type,
                {field.json_name: value},
                registry=self.registry,
                ignore_unknown_fields=self.ignore_unknown,
            )
        except Exception as error:  # noqa: BLE001 - whatever it raises is about the value
            yield _bad_field(path, _reason(error))


def _is_plain(descriptor: DescMessage) -> bool:
    """Tell messages with ordinary JSON from those of google.protobuf, which have forms of their own."""
    return not descriptor.type_name.startswith("google.protobuf.")
