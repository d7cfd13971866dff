"""The contracts of the gateway's own services, as sets of files: like those that back-ends announce.

Source: grpc/health/v1/health.proto, grpc/reflection/v1/reflection.proto and grpc/reflection/v1alpha/reflection.proto of
https://github.com/grpc/grpc-proto; google/longrunning/operations.proto of https://github.com/googleapis/googleapis.
"""

from __future__ import annotations

from typing import Any

from google.api import annotations_pb2
from google.longrunning import operations_pb2
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

OPERATIONS = "google.longrunning.Operations"
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


_OPERATIONS_COMMENTS = {
    "Operations": "Durable jobs that were asked for: what became of them, and how to be rid of them (https://google.aip.dev/151).",
    "ListOperations": """Lists operations, page by page: first those that wait or run, then those that have ended.

The filter compares `done`, `state` (QUEUED, SCHEDULED, RUNNING, RETRYING, SUCCEEDED, FAILED, CANCELLED), `service`
and `method` by `=` and `!=`, joined by `AND`: `service=shop.v1.Orders AND done=false`.""",
    "GetOperation": "Returns an operation as it is now.",
    "DeleteOperation": "Forgets an operation that has ended. One that has not is to be cancelled first.",
    "CancelOperation": "Cancels an operation: one that waits is not begun any more, one that runs is told to stop.",
    "WaitOperation": """Returns an operation as soon as it is done, or as it is when `timeout` is over.

Without `timeout`, or if that is longer than the call may take, it ends a little before the call's deadline.""",
}


def operations() -> bytes:
    """Return the schema of google.longrunning.Operations, with REST for WaitOperation, which it has none for."""
    files: dict[str, FileDescriptorProto] = {}

    def add(descriptor: Any) -> None:
        for imported in descriptor.dependencies:
            add(imported)
        if descriptor.name not in files:
            files[descriptor.name] = FileDescriptorProto()
            descriptor.CopyToProto(files[descriptor.name])

    add(operations_pb2.DESCRIPTOR)
    file = files[operations_pb2.DESCRIPTOR.name]
    service = file.service[0]
    http: Any = annotations_pb2.http
    for number, method in enumerate(service.method):
        comment = _OPERATIONS_COMMENTS.get(method.name, "")
        file.source_code_info.location.add(path=[6, 0, 2, number], span=[0, 0, 0], leading_comments=comment)
        if method.name == "WaitOperation" and not method.options.HasExtension(http):
            rule = method.options.Extensions[http]
            rule.post, rule.body = "/v1/{name=operations/**}:wait", "*"
    file.source_code_info.location.add(path=[6, 0], span=[0, 0, 0], leading_comments=_OPERATIONS_COMMENTS[service.name])
    return FileDescriptorSet(file=files.values()).SerializeToString(deterministic=True)


def _file(descriptor: Any) -> FileDescriptorProto:
    file = FileDescriptorProto()
    descriptor.CopyToProto(file)
    # The Python packages call their files after themselves; everybody else after the protobuf package.
    file.name = f"{file.package.replace('.', '/')}/{file.name.rpartition('/')[2]}"
    return file


def _set(file: FileDescriptorProto) -> bytes:
    return FileDescriptorSet(file=[file]).SerializeToString(deterministic=True)
