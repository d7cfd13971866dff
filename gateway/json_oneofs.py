"""Two fields of one oneof in a JSON document are a mistake (ProtoJSON); protobuf-py 0.7 takes the last one instead.

Which fields belong together is known when a route is built; messages without oneofs are not looked at. A document is
searched for the names first, and walked only when two of one oneof are in it, somewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from protobuf import DescEnum, DescField, DescFieldValueList, DescFieldValueMap, DescFieldValueMessage, DescMessage

from gateway.errors import BadRequest

Check = Callable[[bytes], None]
"""Raises ``BadRequest`` for a document, which is one that the parser has taken."""

_NULL_IS_A_VALUE = frozenset({"google.protobuf.Value", "google.protobuf.NullValue"})


def oneof_check(descriptor: DescMessage) -> Check | None:
    """Return what looks for two fields of a oneof in documents of a message; None when it cannot have any."""
    groups = _groups(descriptor)
    if not groups:
        return None

    def check(document: bytes) -> None:
        # An escape may hide a letter of a name.
        if b"\\u" in document or any(_may_have_two(group, document) for group in groups):
            _walk(descriptor, json.loads(document), "")

    return check


def _groups(descriptor: DescMessage) -> list[list[tuple[bytes, ...]]]:
    """Return all oneofs within a message: of each field, its names as they stand in a document."""
    groups: dict[str, list[tuple[bytes, ...]]] = {}
    seen = {descriptor.type_name}
    to_see = [descriptor]
    for message in to_see:
        for field in message.fields:
            oneof = _oneof(field)
            if oneof:
                names = dict.fromkeys((field.json_name, field.name))
                groups.setdefault(f"{message.type_name}.{oneof}", []).append(
                    tuple(f'"{name}"'.encode() for name in names)
                )
            inner = _message_in(field)
            if inner is not None and inner.type_name not in seen:
                seen.add(inner.type_name)
                to_see.append(inner)
    return [group for group in groups.values() if len(group) > 1]


def _may_have_two(group: list[tuple[bytes, ...]], document: bytes) -> bool:
    found = False
    for names in group:
        if any(name in document for name in names):
            if found:
                return True
            found = True
    return False


def _walk(descriptor: DescMessage, value: Any, path: str) -> None:
    if not isinstance(value, dict):
        return
    fields = {name: field for field in descriptor.fields for name in (field.name, field.json_name)}
    chosen: dict[str, str] = {}
    for key, each in value.items():
        field = fields.get(key)
        if field is None or (each is None and not _null_is_a_value(field)):
            continue
        here = f"{path}.{key}" if path else key
        oneof = _oneof(field)
        if oneof and (other := chosen.setdefault(oneof, field.name)) != field.name:
            raise BadRequest(f"{here[:200]}: only one of {other!r} and {field.name!r} can be set", field=here[:200])
        inner = _message_in(field)
        if inner is None:
            continue
        match field.value:
            case DescFieldValueList() if isinstance(each, list):
                for index, element in enumerate(each):
                    _walk(inner, element, f"{here}[{index}]")
            case DescFieldValueMap() if isinstance(each, dict):
                for name, element in each.items():
                    _walk(inner, element, f'{here}["{name[:60]}"]')
            case _:
                _walk(inner, each, here)


def _oneof(field: DescField) -> str:
    oneof = getattr(field.value, "oneof", None)
    return "" if oneof is None else str(oneof.name)


def _message_in(field: DescField) -> DescMessage | None:
    """Return the message that a field holds, unless it is one whose JSON has a form of its own."""
    match field.value:
        case DescFieldValueMessage(message=inner):
            pass
        case DescFieldValueList(element=inner) | DescFieldValueMap(value=inner):
            pass
        case _:
            return None
    if not isinstance(inner, DescMessage) or inner.type_name.startswith("google.protobuf."):
        return None
    return inner


def _null_is_a_value(field: DescField) -> bool:
    kind = getattr(field.value, "message", None) or getattr(field.value, "enum", None)
    return isinstance(kind, DescMessage | DescEnum) and kind.type_name in _NULL_IS_A_VALUE
