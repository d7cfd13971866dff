"""Descriptors as the ``.proto`` text that they were made of.

What is printed compiles again to the same descriptors: a test holds it to that, over every file that protobuf ships.
Comments are printed where the descriptors carry them (``source_code_info``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf import descriptor_pb2 as pb
from google.protobuf import descriptor_pool, message_factory, text_encoding, text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_FieldProto = pb.FieldDescriptorProto
_SCALARS = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in _FieldProto.Type.items()
    if name not in {"TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP"}
}
_LABELS = {_FieldProto.LABEL_OPTIONAL: "optional ", _FieldProto.LABEL_REQUIRED: "required "}
_MAX_FIELD = 536870911
_MAX_ENUM = 2147483647

# Field numbers in descriptor.proto, of which the paths to comments are made.
_MESSAGES, _ENUMS, _SERVICES, _EXTENSIONS = 4, 5, 6, 7
_FIELDS, _NESTED, _NESTED_ENUMS, _NESTED_EXTENSIONS, _ONEOFS = 2, 3, 4, 6, 8
_METHODS, _VALUES = 2, 2

_Path = tuple[int, ...]


class ProtoText:
    """Prints one file's descriptors, or any part of them."""

    def __init__(
        self,
        file: pb.FileDescriptorProto,
        names: Iterable[str] = (),
        pool: descriptor_pool.DescriptorPool | None = None,
    ) -> None:
        """Read a file's descriptor.

        Args:
            file: The file.
            names: Full names of all types that it could mean (those it imports too), to shorten names as ``protoc``
                would resolve them.
            pool: Knows the custom options that the file uses, where they are not among Python's generated modules.
        """
        self.file = file
        self._pool = pool
        self._names = {*names, *type_names(file)}
        packages = {name.rpartition(".")[0] for name in self._names}
        self._known = self._names | {
            ".".join(parts[:end])
            for parts in (package.split(".") for package in packages)
            for end in range(1, len(parts) + 1)
        }
        self._comments = {tuple(each.path): each for each in file.source_code_info.location}

    def whole(self) -> str:
        """Return the text of the whole file."""
        file = self.file
        lines = [*self._comment((12,)), self._syntax()]
        if file.package:
            lines += ["", f"package {file.package};"]
        if file.dependency:
            lines.append("")
        for index, dependency in enumerate(file.dependency):
            kind = "public " if index in file.public_dependency else "weak " if index in file.weak_dependency else ""
            lines.append(f'import {kind}"{dependency}";')
        lines += [f'import option "{dependency}";' for dependency in getattr(file, "option_dependency", ())]
        if options := list(self._statements(file.options)):
            lines += ["", *options]
        for index, service in enumerate(file.service):
            lines += ["", *self._service(service, (_SERVICES, index))]
        for index, enum in enumerate(file.enum_type):
            lines += ["", *self._enum(enum, (_ENUMS, index), file.package)]
        groups = _group_names(file.extension)
        for index, message in enumerate(file.message_type):
            if message.name not in groups:
                lines += ["", *self._message(message, (_MESSAGES, index), file.package)]
        if file.extension:
            lines += ["", *self._extensions(file.extension, (_EXTENSIONS,), file.package, file.message_type)]
        return "\n".join(lines) + "\n"

    def service(self, name: str, method: str | None = None) -> str:
        """Return the text of a service by its short name; with ``method``, with that method alone."""
        for index, service in enumerate(self.file.service):
            if service.name == name:
                return "\n".join(self._service(service, (_SERVICES, index), method)) + "\n"
        raise KeyError(name)

    def type(self, full_name: str) -> str:
        """Return the text of a top-level message or enum by its full name, with all that is nested in it."""
        package = self.file.package
        for index, message in enumerate(self.file.message_type):
            if _join(package, message.name) == full_name:
                return "\n".join(self._message(message, (_MESSAGES, index), package)) + "\n"
        for index, enum in enumerate(self.file.enum_type):
            if _join(package, enum.name) == full_name:
                return "\n".join(self._enum(enum, (_ENUMS, index), package)) + "\n"
        raise KeyError(full_name)

    def _syntax(self) -> str:
        if self.file.syntax == "editions":
            return f'edition = "{pb.Edition.Name(self.file.edition).removeprefix("EDITION_")}";'
        return f'syntax = "{self.file.syntax or "proto2"}";'

    def _service(self, service: pb.ServiceDescriptorProto, path: _Path, only: str | None = None) -> Iterator[str]:
        yield from self._comment(path)
        yield f"service {service.name} {{"
        body = list(self._statements(service.options))
        for index, method in enumerate(service.method):
            if only in {None, method.name}:
                text = list(self._method(method, (*path, _METHODS, index)))
                body += ["", *text] if body and (len(text) > 1 or body[-1] == "}") else text
        yield from _indent(body)
        yield "}"

    def _method(self, method: pb.MethodDescriptorProto, path: _Path) -> Iterator[str]:
        taken, given = (self._relative(name, self.file.package) for name in (method.input_type, method.output_type))
        taken = f"stream {taken}" if method.client_streaming else taken
        given = f"stream {given}" if method.server_streaming else given
        yield from self._comment(path)
        head = f"rpc {method.name}({taken}) returns ({given})"
        if options := list(self._statements(method.options)):
            yield f"{head} {{"
            yield from _indent(options)
            yield "}"
        else:
            yield f"{head} {{}}" if method.HasField("options") else f"{head};"

    def _message(self, message: pb.DescriptorProto, path: _Path, scope: str) -> Iterator[str]:
        yield from self._comment(path)
        yield f"message {message.name} {{"
        yield from _indent(self._message_body(message, path, _join(scope, message.name)))
        yield "}"

    def _message_body(self, message: pb.DescriptorProto, path: _Path, scope: str) -> Iterator[str]:
        yield from self._statements(message.options, without={"map_entry"})
        yield from _reserved(message)
        for each in message.extension_range:
            options = self._bracket(each.options)
            yield f"extensions {_range(each.start, each.end - 1, _MAX_FIELD)}{options};"
        groups = _group_names([*message.field, *message.extension])
        for index, nested in enumerate(message.nested_type):
            if not nested.options.map_entry and nested.name not in groups:
                yield from self._message(nested, (*path, _NESTED, index), scope)
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*path, _NESTED_ENUMS, index), scope)
        yield from self._fields(message, path, scope)
        if message.extension:
            yield from self._extensions(message.extension, (*path, _NESTED_EXTENSIONS), scope, message.nested_type)

    def _fields(self, message: pb.DescriptorProto, path: _Path, scope: str) -> Iterator[str]:
        printed: set[int] = set()
        maps = {_join(scope, nested.name): nested for nested in message.nested_type if nested.options.map_entry}
        for index, field in enumerate(message.field):
            if not field.HasField("oneof_index") or field.proto3_optional:
                yield from self._field(field, (*path, _FIELDS, index), scope, message.nested_type, maps)
            elif field.oneof_index not in printed:
                printed.add(field.oneof_index)
                oneof = message.oneof_decl[field.oneof_index]
                yield from self._comment((*path, _ONEOFS, field.oneof_index))
                yield f"oneof {oneof.name} {{"
                yield from _indent(self._statements(oneof.options))
                for other, member in enumerate(message.field):
                    if member.HasField("oneof_index") and member.oneof_index == field.oneof_index:
                        place = (*path, _FIELDS, other)
                        yield from _indent(self._field(member, place, scope, message.nested_type, maps, in_oneof=True))
                yield "}"

    def _field(
        self,
        field: pb.FieldDescriptorProto,
        path: _Path,
        scope: str,
        nested: Iterable[pb.DescriptorProto],
        maps: dict[str, pb.DescriptorProto],
        *,
        in_oneof: bool = False,
    ) -> Iterator[str]:
        yield from self._comment(path)
        head = f"{'' if in_oneof else self._label(field)}"
        options = self._field_options(field)
        if entry := maps.get(field.type_name.removeprefix(".")):
            key, value = (self._type(each, scope) for each in entry.field)
            yield f"map<{key}, {value}> {field.name} = {field.number}{options};"
        elif field.type == _FieldProto.TYPE_GROUP:
            group = next(each for each in nested if each.name == field.type_name.rpartition(".")[2])
            yield f"{head}group {group.name} = {field.number}{options} {{"
            yield from _indent(self._message_body(group, (), _join(scope, group.name)))
            yield "}"
        else:
            yield f"{head}{self._type(field, scope)} {field.name} = {field.number}{options};"

    def _label(self, field: pb.FieldDescriptorProto) -> str:
        if field.label == _FieldProto.LABEL_REPEATED:
            return "repeated "
        if field.proto3_optional or self.file.syntax in {"", "proto2"}:
            return _LABELS[field.label]
        return ""

    def _type(self, field: pb.FieldDescriptorProto, scope: str) -> str:
        return _SCALARS.get(field.type) or self._relative(field.type_name, scope)

    def _field_options(self, field: pb.FieldDescriptorProto) -> str:
        extra = []
        if field.HasField("default_value"):
            text = field.default_value
            if field.type == _FieldProto.TYPE_STRING:
                text = f'"{text_encoding.CEscape(text.encode(), as_utf8=True)}"'
            elif field.type == _FieldProto.TYPE_BYTES:
                text = f'"{text}"'
            extra.append(f"default = {text}")
        if field.json_name and field.json_name != _json_name(field.name) and not field.HasField("extendee"):
            extra.append(f'json_name = "{field.json_name}"')
        return self._bracket(field.options, extra)

    def _enum(self, enum: pb.EnumDescriptorProto, path: _Path, scope: str) -> Iterator[str]:
        yield from self._comment(path)
        yield f"enum {enum.name} {{"
        body = [*self._statements(enum.options), *_reserved(enum)]
        for index, value in enumerate(enum.value):
            body += self._comment((*path, _VALUES, index))
            body.append(f"{value.name} = {value.number}{self._bracket(value.options)};")
        yield from _indent(body)
        yield "}"

    def _extensions(
        self,
        fields: Iterable[pb.FieldDescriptorProto],
        path: _Path,
        scope: str,
        nested: Iterable[pb.DescriptorProto],
    ) -> Iterator[str]:
        for index, field in enumerate(fields):
            yield f"extend {self._relative(field.extendee, scope)} {{"
            yield from _indent(self._field(field, (*path, index), scope, nested, {}))
            yield "}"

    def _statements(self, options: Message, without: Iterable[str] = ()) -> Iterator[str]:
        for field, value in self._set_options(options):
            if field.name not in without:
                yield from f"option {_option_name(field)} = {_option_value(field, value, wide=True)};".split("\n")

    def _bracket(self, options: Message, extra: Iterable[str] = ()) -> str:
        texts = [*extra]
        for field, value in self._set_options(options):
            texts.append(f"{_option_name(field)} = {_option_value(field, value, wide=False)}")
        return f" [{', '.join(texts)}]" if texts else ""

    def _set_options(self, options: Message) -> Iterator[tuple[FieldDescriptor, Any]]:
        """Yield the options that are set; a repeated one once for each value."""
        known = options
        if self._pool is not None and options.ByteSize():
            # Custom options are extensions that only the schema's own pool has heard of.
            try:
                kind = self._pool.FindMessageTypeByName(options.DESCRIPTOR.full_name)
                known = message_factory.GetMessageClass(kind).FromString(options.SerializeToString())
            except KeyError:
                pass
        for field, value in known.ListFields():
            for each in value if field.is_repeated else [value]:
                yield field, each

    def _relative(self, type_name: str, scope: str) -> str:
        """Return a name that ``protoc`` resolves to a type, seen from a scope (C++'s rules).

        It is the shortest one for types of this file's package, and the full one for others, as people write them.
        """
        full = type_name.removeprefix(".")
        parts = full.split(".")
        shortest = len(parts) - 1 if full.startswith(f"{self.file.package}.") or not self.file.package else 0
        for start in range(shortest, -1, -1):
            if self._resolve(parts[start], scope) == ".".join(parts[: start + 1]):
                return ".".join(parts[start:])
        return f".{full}"

    def _resolve(self, first: str, scope: str) -> str | None:
        while True:
            if (name := _join(scope, first)) in self._known:
                return name
            if not scope:
                return None
            scope = scope.rpartition(".")[0]

    def _comment(self, path: _Path) -> Iterator[str]:
        if (location := self._comments.get(path)) is None:
            return
        for block in location.leading_detached_comments:
            yield from (f"//{line}".rstrip() for line in block.rstrip("\n").split("\n"))
            yield ""
        if text := location.leading_comments or location.trailing_comments:
            yield from (f"//{line}".rstrip() for line in text.rstrip("\n").split("\n"))


def type_names(file: pb.FileDescriptorProto) -> Iterator[str]:
    """Yield the full names of all messages and enums of a file."""

    def visit(message: pb.DescriptorProto, scope: str) -> Iterator[str]:
        name = _join(scope, message.name)
        yield name
        yield from (_join(name, enum.name) for enum in message.enum_type)
        for nested in message.nested_type:
            yield from visit(nested, name)

    yield from (_join(file.package, enum.name) for enum in file.enum_type)
    for message in file.message_type:
        yield from visit(message, file.package)


def _join(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name


def _indent(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" if line else "" for line in lines)


def _range(first: int, last: int, limit: int) -> str:
    return str(first) if first == last else f"{first} to {'max' if last >= limit else last}"


def _reserved(kind: pb.DescriptorProto | pb.EnumDescriptorProto) -> Iterator[str]:
    # The end of a range is exclusive in a message and inclusive in an enum (descriptor.proto).
    past, limit = (1, _MAX_FIELD) if isinstance(kind, pb.DescriptorProto) else (0, _MAX_ENUM)
    if kind.reserved_range:
        yield f"reserved {', '.join(_range(each.start, each.end - past, limit) for each in kind.reserved_range)};"
    if kind.reserved_name:
        yield "reserved " + ", ".join(f'"{name}"' for name in kind.reserved_name) + ";"


def _group_names(fields: Iterable[pb.FieldDescriptorProto]) -> set[str]:
    return {field.type_name.rpartition(".")[2] for field in fields if field.type == _FieldProto.TYPE_GROUP}


def _json_name(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def _option_name(field: FieldDescriptor) -> str:
    return f"({field.full_name})" if field.is_extension else field.name


def _option_value(field: FieldDescriptor, value: Any, *, wide: bool) -> str:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if wide:
            body = text_format.MessageToString(value, as_utf8=True, indent=2).rstrip("\n")
            return f"{{\n{body}\n}}" if "\n" in body else f"{{{body.strip()}}}"
        return f"{{ {text_format.MessageToString(value, as_utf8=True, as_one_line=True).strip()} }}"
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    match value:
        case bool():
            text = str(value).lower()
        case str():
            text = f'"{text_encoding.CEscape(value.encode(), as_utf8=True)}"'
        case bytes():
            text = f'"{text_encoding.CEscape(value, as_utf8=False)}"'
        case _:
            text = repr(value)
    return text
