"""A service for tests of failures: its requests say what its handlers are to do. Both sides import it."""

import json
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2
from grpc import aio

SERVICE = "drill.v1.Drill"
WORK = f"/{SERVICE}/Work"
"""Nothing is promised of it: it may not be repeated."""
ASK = f"/{SERVICE}/Ask"
"""Does the same, but its declaration says that it is idempotent."""


def declare() -> None:
    """Put the service's descriptor into the default pool, as importing generated code would."""
    file = descriptor_pb2.FileDescriptorProto(
        name="drill/v1/drill.proto",
        package="drill.v1",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    service = file.service.add(name="Drill")
    levels = descriptor_pb2.MethodOptions.IdempotencyLevel
    for name, level in (("Work", levels.IDEMPOTENCY_UNKNOWN), ("Ask", levels.IDEMPOTENT)):
        method = service.method.add(
            name=name, input_type=".google.protobuf.BytesValue", output_type=".google.protobuf.BytesValue"
        )
        method.options.idempotency_level = level
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


declare()


def _encode(message: Any) -> bytes:
    return wrappers_pb2.BytesValue(value=json.dumps(message).encode()).SerializeToString()


def _decode(data: bytes) -> Any:
    return json.loads(wrappers_pb2.BytesValue.FromString(data).value)


def method(channel: aio.Channel, path: str = WORK) -> aio.UnaryUnaryMultiCallable[Any, Any]:
    """The callable of a method; requests and responses are JSON objects."""
    return channel.unary_unary(path, request_serializer=_encode, response_deserializer=_decode)


def handlers(behavior: Any) -> grpc.GenericRpcHandler:
    """The service with one behaviour, ``async (request, context) -> response``, behind both methods."""
    handler = grpc.unary_unary_rpc_method_handler(behavior, request_deserializer=_decode, response_serializer=_encode)
    return grpc.method_handlers_generic_handler(SERVICE, {"Work": handler, "Ask": handler})
