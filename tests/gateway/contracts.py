"""Contracts for tests: .proto text compiled in the test's own process, and messages of it as plain dictionaries."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, json_format
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

from natsmesh.protos import includes

LIBRARY = Path(__file__).with_name("library.proto")


def compile_proto(text: str, name: str = "test.proto", imported: Mapping[str, str] | None = None) -> bytes:
    """Return the FileDescriptorSet of a .proto, imports included, as protoc writes it.

    ``imported`` are the texts of files that it imports, by name.
    """
    with tempfile.TemporaryDirectory() as folder:
        for other, other_text in (imported or {}).items():
            (Path(folder) / other).write_text(other_text)
        (Path(folder) / name).write_text(text)
        target = Path(folder) / "set"
        arguments = [
            "protoc",
            f"-I{folder}",
            *(f"-I{include}" for include in includes()),
            f"-I{Path(protoc.__file__).parent / '_proto'}",
            "--include_imports",
            f"--descriptor_set_out={target}",
            name,
        ]
        assert protoc.main(arguments) == 0, text
        return target.read_bytes()


@cache
def library() -> bytes:
    """The schema of library.v1."""
    return compile_proto(LIBRARY.read_text(), "library.proto")


@cache
def _pool(schema: bytes) -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(schema).file:
        pool.Add(file)
    return pool


class Messages:
    """The messages of a schema by google's library: the other opinion on what our transcoder does."""

    def __init__(self, schema: bytes) -> None:
        self.pool = _pool(schema)

    def type(self, name: str) -> type[Message]:
        return GetMessageClass(self.pool.FindMessageTypeByName(name))

    def write(self, name: str, value: dict[str, Any]) -> bytes:
        """Serialize a message given as its JSON."""
        return json_format.ParseDict(value, self.type(name)(), descriptor_pool=self.pool).SerializeToString()

    def read(self, name: str, data: bytes) -> dict[str, Any]:
        """Return a serialized message as its JSON."""
        return json_format.MessageToDict(self.type(name).FromString(data), descriptor_pool=self.pool)


def register(schema: bytes) -> None:
    """Make a schema known to this process, as importing generated code does."""
    # What it imports is known already: the gateway itself imports google.api.
    descriptor_pool.Default().Add(FileDescriptorSet.FromString(schema).file[-1])
