"""What a service's schema, as it travels on the bus, says: its methods, their messages and their HTTP routes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from natsmesh.proto_text import type_names


@dataclass(frozen=True, slots=True)
class Route:
    """One HTTP route of a method: ``POST /v1/thumbnail``, and where the body goes."""

    verb: str
    template: str
    body: str = ""
    """Name of the field that the body is; ``*``: the whole request; empty: no body is read."""

    response_body: str = ""


class Schema:
    """A FileDescriptorSet with a pool of its own: two versions of one service never meet."""

    def __init__(self, data: bytes) -> None:
        """Read a serialized FileDescriptorSet. Raises ``ValueError`` when it is none or does not hang together."""
        try:
            self.files = {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(data).file}
            self.pool = descriptor_pool.DescriptorPool()
            for file in self._in_order():
                self.pool.Add(file)
        except (DecodeError, TypeError, KeyError) as error:
            raise ValueError(f"the service sent a schema that is broken: {error}") from error

    def service(self, name: str) -> ServiceDescriptor:
        """Return the descriptor of a service by its full name. Raises ``ValueError`` when the schema lacks it."""
        try:
            return self.pool.FindServiceByName(name)
        except KeyError:
            raise ValueError(f"the schema that the service sent does not describe {name}") from None

    def message_class(self, full_name: str) -> type[Message]:
        """Return a class for a message by its full name."""
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(full_name))

    def routes(self, method: MethodDescriptor) -> list[Route]:
        """Return the HTTP routes that ``google.api.http`` declares for a method, the main one first."""
        options: Any = method.GetOptions()
        if not options.HasExtension(annotations_pb2.http):
            return []
        rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
        return [route for each in (rule, *rule.additional_bindings) if (route := _route(each)) is not None]

    def type_names(self) -> list[str]:
        """Return the full names of all messages and enums."""
        return [name for file in self.files.values() for name in type_names(file)]

    def types_of(self, methods: Iterable[MethodDescriptor]) -> list[tuple[str, str]]:
        """Return (file, full name) of the top-level types that methods use, directly or not.

        In the order in which a reader meets them; those of ``google.protobuf`` are left out: everybody knows them.
        """
        found: dict[tuple[str, str], None] = {}
        waiting: list[Descriptor | EnumDescriptor] = [
            kind for method in methods for kind in (method.input_type, method.output_type)
        ]
        for kind in waiting:
            top = kind
            while top.containing_type is not None:
                top = top.containing_type
            key = (top.file.name, top.full_name)
            if key in found or top.file.package == "google.protobuf":
                continue
            found[key] = None
            if isinstance(top, Descriptor):
                waiting += _used_by(top)
        return list(found)

    def _in_order(self) -> Iterator[descriptor_pb2.FileDescriptorProto]:
        """Yield the files, each after those that it imports."""
        done: set[str] = set()

        def visit(name: str, path: tuple[str, ...]) -> Iterator[descriptor_pb2.FileDescriptorProto]:
            if name in path:
                raise ValueError(f"the service sent a schema whose files import each other: {name}")
            if name not in done:
                done.add(name)
                for dependency in self.files[name].dependency:
                    yield from visit(dependency, (*path, name))
                yield self.files[name]

        for name in self.files:
            yield from visit(name, ())


def _route(rule: http_pb2.HttpRule) -> Route | None:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        return None
    verb, template = (rule.custom.kind, rule.custom.path) if kind == "custom" else (kind.upper(), getattr(rule, kind))
    return Route(verb, template, rule.body, rule.response_body)


def _used_by(message: Descriptor) -> Iterator[Descriptor | EnumDescriptor]:
    for field in message.fields:
        kind = field.message_type or field.enum_type
        if kind is not None:
            yield kind
    for nested in message.nested_types:
        yield from _used_by(nested)
