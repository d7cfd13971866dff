"""Schemas as they are discovered: a ``FileDescriptorSet`` from the bus becomes descriptors, types and methods.

Two libraries read it. google.protobuf's descriptor pool comes first, because it checks a set thoroughly; it also
gives the method options. protobuf-py then makes the message types that JSON is transcoded with, by its public
``FileDescriptorSet.to_registry()``. A schema is somebody else's data: it is bounded in size, and whatever is wrong
with it ends in ``SchemaError``, never in anything that could disturb other services.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor import MethodDescriptor as GoogleMethod
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from protobuf import Message, Registry
from protobuf import wkt as protobuf_wkt

from gateway.json_codec import Encoder, json_encoder
from gateway.operation_json import OPERATION, operation_encoder
from rpc import MethodInfo

MAX_SCHEMA_BYTES = 4 * 1024 * 1024
MAX_METHODS = 1000


class SchemaError(ValueError):
    """A schema that cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method as its schema declares it."""

    info: MethodInfo
    request: type[Message]
    response: type[Message]
    http: HttpRule | None
    """The ``google.api.http`` option, when it has one."""

    to_json: Encoder
    """Makes JSON of a serialized response; raises whatever that is wrong with."""


@dataclass(frozen=True, slots=True)
class Schema:
    """One service and what its messages are made of."""

    service: str
    methods: tuple[Method, ...]
    registry: Registry
    """Every type of the schema and the error details of google.rpc: what ``Any`` is resolved in."""


def load_schema(data: bytes, service: str) -> Schema:
    """Build the schema of ``service`` from a serialized FileDescriptorSet. Raises ``SchemaError``.

    Takes milliseconds for a small schema and may take a second for the largest: not for the event loop.
    """
    if len(data) > MAX_SCHEMA_BYTES:
        raise SchemaError(f"the schema has {len(data)} bytes: at most {MAX_SCHEMA_BYTES} are read")
    try:
        return _load(data, service)
    except (SchemaError, KeyboardInterrupt, SystemExit):
        raise
    # Two foreign parsers over foreign data: whatever they raise is about the data. (A panic in Rust is no Exception.)
    except BaseException as error:
        raise SchemaError(f"the schema is not usable: {type(error).__name__}: {str(error)[:300]}") from error


def _load(data: bytes, service: str) -> Schema:
    files = _in_dependency_order(FileDescriptorSet.FromString(data))
    pool = DescriptorPool()
    for file in files:
        pool.Add(file)
    descriptor = _find_service(pool, service)
    if len(descriptor.methods) > MAX_METHODS:
        raise SchemaError(f"the service has {len(descriptor.methods)} methods: at most {MAX_METHODS} are served")
    for file in files:
        _restore_json_names(pool.FindFileByName(file.name), file)
    own = _registry(files)
    registry = Registry(ERROR_DETAILS, own)
    options = _http_options(files, service)
    return Schema(
        service,
        tuple(_method(method, own, registry, options.get(method.name)) for method in descriptor.methods),
        registry,
    )


def _in_dependency_order(file_set: FileDescriptorSet) -> list[FileDescriptorProto]:
    """Return the files with each one after those it imports, as both libraries want them."""
    by_name = {file.name: file for file in file_set.file}
    ordered: dict[str, FileDescriptorProto] = {}
    # Without recursion: a chain of imports may be longer than Python's stack.
    pending = [(name, False) for name in reversed(by_name)]
    on_the_way: set[str] = set()
    while pending:
        name, imports_done = pending.pop()
        if name in ordered:
            continue
        file = by_name[name]
        if imports_done:
            ordered[name] = file
            on_the_way.discard(name)
            continue
        if name in on_the_way:
            raise SchemaError(f"the file {name!r} imports itself")
        on_the_way.add(name)
        pending.append((name, True))
        for imported in file.dependency:
            if imported not in by_name:
                raise SchemaError(f"the file {name!r} imports {imported!r}, which is not in the schema")
            if imported not in ordered:
                pending.append((imported, False))
    return list(ordered.values())


def _find_service(pool: DescriptorPool, service: str) -> ServiceDescriptor:
    try:
        return pool.FindServiceByName(service)
    except KeyError:
        raise SchemaError(f"the schema does not contain the service {service!r}") from None


def _restore_json_names(descriptor: FileDescriptor, file: FileDescriptorProto) -> None:
    """Fill in the JSON names that protoc leaves out of what it generates for Python; protobuf-py needs them."""
    pairs = [(descriptor.message_types_by_name[message.name], message) for message in file.message_type]
    while pairs:
        message_descriptor, message = pairs.pop()
        for field in message.field:
            if not field.json_name:
                field.json_name = message_descriptor.fields_by_name[field.name].json_name
        pairs.extend((message_descriptor.nested_types_by_name[nested.name], nested) for nested in message.nested_type)
    for extension in _extensions(file):
        if not extension.json_name:
            extension.json_name = extension.name


def _extensions(file: FileDescriptorProto) -> Iterator[FieldDescriptorProto]:
    yield from file.extension
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        yield from message.extension
        messages.extend(message.nested_type)


def _registry(files: list[FileDescriptorProto]) -> Registry:
    data = FileDescriptorSet(file=files).SerializeToString()
    return protobuf_wkt.FileDescriptorSet.from_binary(data).to_registry()


def _http_options(files: list[FileDescriptorProto], service: str) -> dict[str, HttpRule]:
    """Return the ``google.api.http`` option of each method that has one."""
    extension: Any = annotations_pb2.http
    for file in files:
        for each in file.service:
            if (f"{file.package}.{each.name}" if file.package else each.name) == service:
                return {
                    method.name: method.options.Extensions[extension]
                    for method in each.method
                    if method.options.HasExtension(extension)
                }
    return {}


def _method(method: GoogleMethod, own: Registry, registry: Registry, http: HttpRule | None) -> Method:
    types: list[type[Message]] = []
    for name in (method.input_type.full_name, method.output_type.full_name):
        message = own.message(name)
        if message is None:
            raise SchemaError(f"the method {method.name!r} uses {name!r}, which is not in the schema")
        types.append(message.type)
    try:
        info = MethodInfo.from_descriptor(method)
    except ValueError as error:  # What it says of jobs and events is wrong.
        raise SchemaError(str(error)) from error
    is_operation = method.output_type.full_name == OPERATION
    encode = operation_encoder(lambda _name: registry) if is_operation else json_encoder(types[1], registry)
    return Method(info, types[0], types[1], http, encode)


def _builtin(*modules: FileDescriptor) -> Registry:
    ordered: dict[str, FileDescriptorProto] = {}

    def add(file: FileDescriptor) -> None:
        for imported in file.dependencies:
            add(imported)
        if file.name not in ordered:
            proto = FileDescriptorProto()
            file.CopyToProto(proto)
            _restore_json_names(file, proto)
            ordered[file.name] = proto

    for module in modules:
        add(module)
    return _registry(list(ordered.values()))


ERROR_DETAILS = _builtin(error_details_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR)
"""google.rpc.Status and the standard error details (google/rpc/error_details.proto)."""
