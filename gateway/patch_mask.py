"""The field mask of a PATCH that names none: the fields that its JSON has.

A client that patches a resource sends the fields that it wants changed, and nothing else. Source: AIP-134
(``update_mask``), and what grpc-gateway makes of it ("PATCH feature" in its documentation).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from protobuf import (
    DescField,
    DescFieldValueMessage,
    DescMessage,
    Message,
    Registry,
)

from gateway.errors import BadRequest
from gateway.fields import HTTP_BODY, find_field, submessage
from gateway.http_rule import WHOLE, Binding
from gateway.json_codec import parse_value
from gateway.schema import Method
from gateway.transcode import RequestTranscoder

UPDATE_MASK: Final = "update_mask"
FIELD_MASK: Final = "google.protobuf.FieldMask"

MAX_PATHS: Final = 1000
"""Paths that a mask is filled with: recursive messages may have as many fields as a body has bytes."""


class PatchTranscoder(RequestTranscoder):
    """Makes requests of PATCHes whose body is a resource; fills in the mask that the client left out."""

    __slots__ = ("_in_path", "_mask", "_resource")

    def __init__(self, method: Method, binding: Binding, registry: Registry, *, ignore_unknown: bool) -> None:
        """The binding is one that ``fills_mask``. Raises ``RuleError``."""
        super().__init__(method, binding, registry, ignore_unknown=ignore_unknown)
        descriptor = method.request.desc()
        mask, resource = _mask_field(descriptor), _resource_type(descriptor, binding)
        assert mask is not None  # noqa: S101 - see fills_mask
        assert resource is not None  # noqa: S101
        self._mask = mask
        self._resource = resource
        self._in_path = frozenset(
            ".".join(variable.field_path[1:])
            for variable in binding.template.variables
            if variable.field_path[0] == binding.body
        )

    def request(self, body: bytes, content_type: str, segments: list[bytes], query: bytes) -> bytes:
        """Return the serialized request. Raises ``HttpError``."""
        message = self._read_body(body, content_type)
        self.bind(message, segments, query)
        mask: Message | None = message[self._mask]
        if body and (mask is None or not _paths(mask)) and not content_type.lower().startswith("multipart/"):
            # What the path covers names the resource: it has the path's value, and is nothing to update.
            paths = [each for each in mask_of(parse_value(body), self._resource) if each not in self._in_path]
            if paths:
                _paths(submessage(message, self._mask)).extend(paths)
        return message.to_binary()


def fills_mask(method: Method, binding: Binding) -> bool:
    """Tell whether a binding is a PATCH of a resource that has an ``update_mask`` beside it."""
    if binding.http_method != "PATCH" or binding.body in ("", WHOLE):
        return False
    descriptor = method.request.desc()
    return _resource_type(descriptor, binding) is not None and _mask_field(descriptor) is not None


def mask_of(resource: Any, descriptor: DescMessage) -> list[str]:
    """Return the paths of what a JSON object of this type has, sorted. It has been parsed as such a message before.

    Nested messages are named by their fields; lists, maps and values that have a JSON form of their own (``Struct``,
    ``Timestamp``, ...) as a whole. A field that is null, or an empty object, is named: it is to be cleared.
    """
    paths: list[str] = []
    for path in _walk(resource, descriptor, ""):
        if len(paths) >= MAX_PATHS:
            raise BadRequest(f"the body has more than {MAX_PATHS} fields: say which to update in {UPDATE_MASK}")
        paths.append(path)
    return sorted(paths)


def _walk(value: Any, descriptor: DescMessage, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        field = find_field(descriptor, name)
        if field is None:
            continue  # An unknown one, that whoever runs the gateway wants passed over.
        here = f"{path}.{field.name}" if path else field.name
        if (
            isinstance(inner, dict)
            and inner
            and isinstance(field.value, DescFieldValueMessage)
            and _has_fields(field.value.message)
        ):
            yield from _walk(inner, field.value.message, here)
        else:
            yield here


def _has_fields(message: DescMessage) -> bool:
    """Tell whether the JSON of a message is its fields."""
    return not message.type_name.startswith("google.protobuf.") and message.type_name != HTTP_BODY


def _mask_field(descriptor: DescMessage) -> DescField | None:
    field = find_field(descriptor, UPDATE_MASK)
    if field is None or not isinstance(field.value, DescFieldValueMessage):
        return None
    return field if field.value.message.type_name == FIELD_MASK else None


def _resource_type(descriptor: DescMessage, binding: Binding) -> DescMessage | None:
    field = find_field(descriptor, binding.body)
    if field is None or not isinstance(field.value, DescFieldValueMessage):
        return None
    return field.value.message if _has_fields(field.value.message) else None


def _paths(mask: Message) -> list[str]:
    paths: list[str] = mask[mask.desc().fields[0]]
    return paths
