"""Messages and enums as the components of an OpenAPI document, named by their full names."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any

from protobuf import (
    DescEnum,
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescMessage,
    ScalarType,
)

from gateway.openapi.notes import Notes
from gateway.openapi.values import JsonSchema, is_null, key_schema, scalar_schema, well_known_schema

MAX_EXCLUSIVE = 6
"""Members of a oneof of which a schema says in full that but one can be set: the text grows with their square."""

_LEGACY_REQUIRED = 3

Element = ScalarType | DescEnum | DescMessage


class Components:
    """Collects the schemas of all types that were asked for, and of those that they use."""

    def __init__(self, notes: Notes, answered: Iterable[DescMessage], *, closed: bool) -> None:
        """``answered`` are the messages that services answer; ``closed``: unknown fields of requests are refused."""
        self.schemas: dict[str, JsonSchema] = {}
        self._notes = notes
        self._closed = closed
        self._answered = reachable(answered)
        self._pending: list[DescMessage | DescEnum] = []

    def element(self, element: Element) -> JsonSchema:
        """Return the schema of one value: a reference for messages and enums. A new dictionary."""
        if isinstance(element, ScalarType):
            return scalar_schema(element)
        if isinstance(element, DescMessage):
            known = well_known_schema(element, closed=self._closed)
            if known is not None:
                return known
        elif is_null(element.type_name):
            return {"type": "null"}
        self._pending.append(element)
        return {"$ref": reference(element.type_name)}

    def field(self, field: DescField) -> JsonSchema:
        """Return the schema of a field, with what its ``.proto`` says of it."""
        value = field.value
        if isinstance(value, DescFieldValueMap):
            schema: JsonSchema = {"type": "object", "additionalProperties": self.element(value.value)}
            keys = key_schema(value.key)
            if keys is not None:
                schema["propertyNames"] = keys
        elif isinstance(value, DescFieldValueList):
            schema = {"type": "array", "items": self.element(value.element)}
        else:
            schema = self.element(element_of(field))
        comment = self.comment(field)
        if comment:
            schema["description"] = comment
        if field.deprecated:
            schema["deprecated"] = True
        behaviors = self._notes.behaviors(field)
        if "OUTPUT_ONLY" in behaviors:
            schema["readOnly"] = True
        if "INPUT_ONLY" in behaviors:
            schema["writeOnly"] = True
        return schema

    def comment(self, field: DescField) -> str:
        """Return the comment on a field."""
        return self._notes.comment(field.parent.file, f"{field.parent.type_name}.{field.name}")

    def is_required(self, field: DescField) -> bool:
        """Tell whether a request needs the field, by ``google.api.field_behavior``."""
        return "REQUIRED" in self._notes.behaviors(field)

    def is_output(self, field: DescField) -> bool:
        """Tell whether the field is for answers only."""
        return "OUTPUT_ONLY" in self._notes.behaviors(field)

    def object(self, message: DescMessage, without: Iterable[str] = ()) -> JsonSchema:
        """Return the schema of a message itself, without the fields of these names (as in the ``.proto``)."""
        fields = [field for field in message.fields if field.name not in set(without)]
        schema: JsonSchema = {"type": "object"}
        comment = self._notes.comment(message.file, message.type_name)
        if comment:
            schema["description"] = comment
        schema["properties"] = {field.json_name: self.field(field) for field in fields}
        required = [field.json_name for field in fields if self._must_be_there(field)]
        if required:
            schema["required"] = required
        exclusive = _exclusive(message, fields)
        if exclusive:
            schema["not"] = {"anyOf": exclusive}
        proto: Any = message.proto
        if self._closed and not proto.extension_range:
            schema["additionalProperties"] = False
        if message.deprecated:
            schema["deprecated"] = True
        return schema

    def _must_be_there(self, field: DescField) -> bool:
        if int(field.presence) == _LEGACY_REQUIRED:
            return True
        # In an answer, a field that holds its default is left out, whatever it is in requests.
        return field.parent.type_name not in self._answered and self.is_required(field)

    def _enum(self, enum: DescEnum) -> JsonSchema:
        lines = [self._notes.comment(enum.file, enum.type_name)]
        values = []
        for value in enum.values:
            comment = self._notes.comment(enum.file, f"{enum.type_name}.{value.name}")
            if comment:
                values.append(f"- `{value.name}`: {' '.join(comment.split())}")
        if values:
            lines.append("\n".join(values))
        schema: JsonSchema = {"type": "string", "enum": [value.json_name or value.name for value in enum.values]}
        description = "\n\n".join(line for line in lines if line)
        if description:
            schema["description"] = description
        if enum.deprecated:
            schema["deprecated"] = True
        return schema

    def finish(self) -> dict[str, JsonSchema]:
        """Return the schemas of all that was asked for, by full name, once nothing else will be."""
        # Not by recursion: types may form a chain that is longer than Python's stack.
        while self._pending:
            kind = self._pending.pop()
            if kind.type_name not in self.schemas:
                self.schemas[kind.type_name] = self._enum(kind) if isinstance(kind, DescEnum) else self.object(kind)
        return self.schemas


def reference(full_name: str) -> str:
    """Return the ``$ref`` of a type."""
    return f"#/components/schemas/{full_name}"


def element_of(field: DescField) -> Element:
    """Return the type of a field that is no map, or of the elements of a repeated one."""
    value = field.value
    if isinstance(value, DescFieldValueMessage):
        return value.message
    if isinstance(value, DescFieldValueEnum):
        return value.enum
    if isinstance(value, DescFieldValueList):
        return value.element
    if isinstance(value, DescFieldValueMap):
        raise TypeError(f"{field.name} is a map")
    return value.scalar


def reachable(messages: Iterable[DescMessage]) -> frozenset[str]:
    """Return the full names of messages and of all messages in their fields."""
    found: set[str] = set()
    pending = list(messages)
    while pending:
        message = pending.pop()
        if message.type_name in found:
            continue
        found.add(message.type_name)
        for field in message.fields:
            value = field.value
            element = value.value if isinstance(value, DescFieldValueMap) else element_of(field)
            if isinstance(element, DescMessage):
                pending.append(element)
    return frozenset(found)


def _exclusive(message: DescMessage, fields: list[DescField]) -> list[JsonSchema]:
    """Return what must not be there together: two members of one oneof."""
    present = {field.json_name for field in fields}
    result: list[JsonSchema] = []
    for oneof in message.oneofs:
        names = [field.json_name for field in oneof.fields if field.json_name in present]
        if 1 < len(names) <= MAX_EXCLUSIVE:
            result += [{"required": list(pair)} for pair in combinations(names, 2)]
    return result
