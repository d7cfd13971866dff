"""The parameters of a binding: the variables of its path, and all that may stand in its query string."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from protobuf import DescEnum, DescField, DescFieldValueList, DescFieldValueMap, DescMessage, ScalarType

from gateway.fields import resolve
from gateway.openapi.components import Components, element_of
from gateway.openapi.examples import NOTHING, Examples
from gateway.openapi.paths import PathParameter
from gateway.openapi.values import JsonSchema, is_null
from gateway.scalars import parser_for

MAX_QUERY = 100
"""Query parameters of one operation that are listed; recursive messages would have endlessly many."""

MAX_LOOKED_AT = 2000
"""Fields that are looked at for that: there are messages with many ways to nothing that could be listed."""

_EXPLICIT = 1

Parameter = dict[str, Any]


class Parameters:
    """Describes the parameters of one service's operations."""

    def __init__(self, components: Components, examples: Examples) -> None:
        self._components = components
        self._examples = examples

    def of_path(self, request: DescMessage, parameters: Iterable[PathParameter]) -> Iterator[Parameter]:
        """Yield the variables of a path."""
        for each in parameters:
            yield self._in_path(request, each)

    def of_query(self, request: DescMessage, bound: Iterable[tuple[str, ...]]) -> Iterator[Parameter]:
        """Yield what may stand in the query string. ``bound``: paths of fields that path and body cover."""
        covered = set(bound)
        room, left = MAX_QUERY, MAX_LOOKED_AT
        # Breadth first, so that what lies deep in a message is what falls victim to the bound.
        pending: list[tuple[tuple[DescField, ...], DescMessage]] = [((), request)]
        while pending:
            parents, message = pending.pop(0)
            for field in message.fields:
                fields = (*parents, field)
                left -= 1
                if left < 0:
                    return
                if tuple(each.name for each in fields) in covered or self._components.is_output(field):
                    continue
                if isinstance(field.value, DescFieldValueMap):
                    continue
                element = element_of(field)
                if parser_for(element) is not None:
                    if isinstance(element, DescEnum) and is_null(element.type_name):
                        continue
                    if not room:
                        return
                    room -= 1
                    yield self._in_query(fields)
                elif _can_be_entered(field, element, (*(each.parent for each in parents), message)):
                    assert isinstance(element, DescMessage)  # noqa: S101 - all else can be parsed
                    pending.append((fields, element))

    def _in_path(self, request: DescMessage, parameter: PathParameter) -> Parameter:
        variable = parameter.variable
        result: Parameter = {"name": parameter.name, "in": "path", "required": True}
        schema: JsonSchema = {"type": "string"}
        example: Any = NOTHING
        notes = []
        if variable is not None:
            field = resolve(request, variable.field_path)[-1]
            own = self._components.field(field)
            comment = own.pop("description", "")
            if parameter.whole and not parameter.many:
                schema = {key: value for key, value in own.items() if key not in {"deprecated", "readOnly"}}
            example = self._examples.field(field) if parameter.whole else NOTHING
            if not parameter.whole:
                notes.append(f"A segment of `{variable.name}`.")
            if comment:
                notes.append(comment)
        if parameter.many:
            result["x-natsmesh-segments"] = True
            notes.append("Takes any number of segments: the slashes between them must not be escaped.")
        elif schema.get("type") == "string" and "pattern" not in schema:
            schema["minLength"] = 1
        if notes:
            result["description"] = "\n\n".join(notes)
        result["schema"] = schema
        result["example"] = "1" if example is NOTHING else example
        return result

    def _in_query(self, fields: tuple[DescField, ...]) -> Parameter:
        field = fields[-1]
        schema = self._components.field(field)
        result: Parameter = {"name": ".".join(each.json_name for each in fields), "in": "query"}
        description = schema.pop("description", "")
        if description:
            result["description"] = description
        if all(self._components.is_required(each) for each in fields):
            result["required"] = True
        if schema.pop("deprecated", False):
            result["deprecated"] = True
        schema.pop("writeOnly", None)
        result["schema"] = schema
        # Those that may be left out are left out of a first try.
        if len(fields) == 1 and int(field.presence) != _EXPLICIT and not isinstance(field.value, DescFieldValueList):
            example = self._examples.field(field)
            if example is not NOTHING:
                result["example"] = example
        return result


def _can_be_entered(field: DescField, element: Any, around: tuple[DescMessage, ...]) -> bool:
    """Tell whether a message's fields can be named one by one, and whether there is an end to them."""
    if isinstance(element, ScalarType | DescEnum) or isinstance(field.value, DescFieldValueList):
        return False
    # Those of google.protobuf that text cannot set have a JSON form that is not made of their fields.
    return not element.type_name.startswith("google.protobuf.") and element not in around
