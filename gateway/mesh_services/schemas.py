"""What the schemas of the mesh declare: which file has a symbol, which files it needs, who extends what.

Every service brings a schema of its own, so a file name, even a symbol, may stand in several, with different contents:
two versions of a shared ``common.proto``, say. An answer comes out of one schema as a whole, so that it fits together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import FileDescriptorResponse


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class File:
    """One file of a schema; the same contents in many schemas are one object."""

    name: str
    data: bytes = field(repr=False)
    """The serialized ``FileDescriptorProto`` as it came."""

    imports: tuple[str, ...]
    symbols: frozenset[str] = field(repr=False)
    """Full names of all that it declares, fields, values and methods included."""

    extensions: Mapping[str, frozenset[int]] = field(repr=False)
    """Numbers of the extensions that it declares, by the full name of the extended message."""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceSchema:
    """The files of one service."""

    service: str
    files: Mapping[str, File]

    def file_of(self, symbol: str) -> File | None:
        """Return the file that declares a symbol."""
        return next((file for file in self.files.values() if symbol in file.symbols), None)

    def file_extending(self, message: str, number: int) -> File | None:
        """Return the file with an extension of a message."""
        return next((file for file in self.files.values() if number in file.extensions.get(message, ())), None)

    def with_imports(self, file: File) -> list[File]:
        """Return a file and all that it imports, directly or not; itself first."""
        found = {file.name: file}
        waiting = [file]
        for each in waiting:
            for name in each.imports:
                imported = self.files.get(name)
                if imported is not None and name not in found:
                    found[name] = imported
                    waiting.append(imported)
        return list(found.values())


class SchemaIndex:
    """The schemas of all services at one time; it does not change, ``updated`` makes the next one."""

    def __init__(
        self,
        sources: Mapping[str, bytes] | None = None,
        schemas: Mapping[str, ServiceSchema] | None = None,
        files: WeakValueDictionary[bytes, File] | None = None,
    ) -> None:
        """An empty one, unless ``updated`` makes it."""
        self._sources = sources or {}
        self._schemas = schemas or {}
        self._files = WeakValueDictionary() if files is None else files

    def updated(self, sources: Mapping[str, bytes]) -> SchemaIndex:
        """Return the index of these schemas, serialized sets of files by service; only new ones are read.

        Takes a while for many: not for the event loop.
        """
        schemas = {
            service: self._schemas[service] if self._sources.get(service) is data else self._read(service, data)
            for service, data in sources.items()
        }
        return SchemaIndex(sources, schemas, self._files)

    def _read(self, service: str, data: bytes) -> ServiceSchema:
        # The message of one repeated field with bytes in it is what a FileDescriptorSet looks like on the wire.
        files = (self._file(each) for each in FileDescriptorResponse.FromString(data).file_descriptor_proto)
        return ServiceSchema(service, {file.name: file for file in files})

    def _file(self, data: bytes) -> File:
        digest = hashlib.sha256(data).digest()
        known = self._files.get(digest)
        if known is None:
            known = self._files[digest] = _parse(data)
        return known

    def schemas(self, symbol: str, preferred: ServiceSchema | None) -> Iterator[ServiceSchema]:
        """Yield the schemas to look into for a symbol, the likeliest first.

        A service, or a method of it, is in its own schema. Else the one that the client was told of last is preferred.
        """
        for service in (symbol, symbol.rpartition(".")[0]):
            if service in self._schemas:
                yield self._schemas[service]
        yield from self.all(preferred)

    def all(self, preferred: ServiceSchema | None = None) -> Iterator[ServiceSchema]:
        """Yield the schemas in the order of their services' names, a preferred one first."""
        if preferred is not None:
            yield preferred
        yield from (self._schemas[service] for service in sorted(self._schemas))

    def extension_numbers(self, message: str) -> set[int] | None:
        """Return the numbers of all known extensions of a message; None when nobody knows the message."""
        files = {id(file): file for schema in self._schemas.values() for file in schema.files.values()}
        known = False
        numbers: set[int] = set()
        for file in files.values():
            known = known or message in file.symbols
            numbers |= file.extensions.get(message, frozenset())
        return numbers if known or numbers else None


def _parse(data: bytes) -> File:
    try:
        file = FileDescriptorProto.FromString(data)
    except DecodeError:
        return File("", data, (), frozenset(), {})  # Never served: the catalog does not take such a schema.
    prefix = f"{file.package}." if file.package else ""
    extensions: dict[str, set[int]] = {}
    symbols = {
        *(f"{prefix}{service.name}" for service in file.service),
        *(f"{prefix}{service.name}.{method.name}" for service in file.service for method in service.method),
        *_messages(prefix, file.message_type, extensions),
        *_enums(prefix, file.enum_type),
        *_extensions(prefix, file, extensions),
    }
    frozen = {message: frozenset(numbers) for message, numbers in extensions.items()}
    return File(file.name, data, tuple(file.dependency), frozenset(symbols), frozen)


def _messages(prefix: str, messages: Iterable[DescriptorProto], extensions: dict[str, set[int]]) -> Iterator[str]:
    waiting = [(prefix, message) for message in messages]
    for within, message in waiting:  # Without recursion: somebody else decides how deep they nest.
        name = f"{within}{message.name}"
        yield name
        inner = f"{name}."
        yield from (f"{inner}{each.name}" for each in message.field)
        yield from (f"{inner}{each.name}" for each in message.oneof_decl)
        yield from _enums(inner, message.enum_type)
        yield from _extensions(inner, message, extensions)
        waiting += [(inner, nested) for nested in message.nested_type]


def _enums(prefix: str, enums: Iterable[EnumDescriptorProto]) -> Iterator[str]:
    for enum in enums:
        yield f"{prefix}{enum.name}"
        # Values stand beside their enum, not inside it, as in C++.
        yield from (f"{prefix}{value.name}" for value in enum.value)


def _extensions(
    prefix: str, scope: FileDescriptorProto | DescriptorProto, extensions: dict[str, set[int]]
) -> Iterator[str]:
    for extension in scope.extension:
        extensions.setdefault(extension.extendee.removeprefix("."), set()).add(extension.number)
        yield f"{prefix}{extension.name}"
