"""Tells the methods that may be durable from the plain ones, without loading anything: most methods are plain."""

from __future__ import annotations

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

OPERATION = "google.longrunning.Operation"

_METHOD_OPTION = b"\xe2\xad\x19"
"""How the field (mesh.v1.method), number 51932, begins in serialized options."""

_OPERATION_INFO = b"\xca\x41"
"""How the field (google.longrunning.operation_info), number 1049, begins."""


def may_be_durable(method: MethodDescriptor, options: Message) -> bool:
    """Tell whether a method may have a part in jobs or events; ``options`` are its own. False is certain."""
    if method.output_type.full_name == OPERATION:
        return True
    data = options.SerializeToString()
    return bool(data) and (_METHOD_OPTION in data or _OPERATION_INFO in data)
