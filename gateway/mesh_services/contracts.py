"""The contracts of the gateway's own services, as sets of files: like those that back-ends announce.

Source: grpc/health/v1/health.proto, grpc/reflection/v1/reflection.proto and grpc/reflection/v1alpha/reflection.proto of
https://github.com/grpc/grpc-proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1.ServerReflection"
REFLECTION_ALPHA = "grpc.reflection.v1alpha.ServerReflection"


def health() -> bytes:
    """Return the schema of grpc.health.v1."""
    return _set(_file(health_pb2.DESCRIPTOR))


def reflection_alpha() -> bytes:
    """Return the schema of grpc.reflection.v1alpha, which older clients speak."""
    return _set(_file(reflection_pb2.DESCRIPTOR))


def reflection() -> bytes:
    """Return the schema of grpc.reflection.v1: that of v1alpha under its final name, message for message."""
    text = text_format.MessageToString(_file(reflection_pb2.DESCRIPTOR))
    file = text_format.Parse(text.replace("v1alpha", "v1"), FileDescriptorProto())
    file.options.ClearField("deprecated")
    return _set(file)


def _file(descriptor: Any) -> FileDescriptorProto:
    file = FileDescriptorProto()
    descriptor.CopyToProto(file)
    # The Python packages call their files after themselves; everybody else after the protobuf package.
    file.name = f"{file.package.replace('.', '/')}/{file.name.rpartition('/')[2]}"
    return file


def _set(file: FileDescriptorProto) -> bytes:
    return FileDescriptorSet(file=[file]).SerializeToString(deterministic=True)
