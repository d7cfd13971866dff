"""Schemas by content address: a service's FileDescriptorSet, named by the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

from rpc.discovery.comments import add_comments
from rpc.method import MethodInfo

MAX_SCHEMA_BYTES = 4 * 1024 * 1024
"""A larger schema is refused when it is fetched: nobody's API is that large, but a hostile answer may be."""


def find_service(service: str) -> ServiceDescriptor | None:
    """Return the descriptor of a service whose generated code is imported here, or None."""
    try:
        return descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        return None


def schema_of(service: ServiceDescriptor) -> bytes:
    """Return the serialized FileDescriptorSet of a service's file and all it imports, dependencies first.

    With the comments of the ``.proto``, where they can be had (``rpc.discovery.comments``). The bytes are the same in
    every process that runs the same generated code with the same comments, so the digest is, too.
    """
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in files:
            for dependency in file.dependencies:
                add(dependency)
            files[file.name] = file

    add(service.file)
    result = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        result.file.add().MergeFromString(file.serialized_pb)
    add_comments(files.values(), result)
    return result.SerializeToString(deterministic=True)


def digest_of(schema: bytes) -> str:
    """Return the address of a schema: SHA-256 in lower-case hexadecimal."""
    return hashlib.sha256(schema).hexdigest()


def methods_of(service: ServiceDescriptor) -> dict[str, MethodInfo]:
    """Return what the ``.proto`` says of each method, by name."""
    return {method.name: MethodInfo.from_descriptor(method) for method in service.methods}
