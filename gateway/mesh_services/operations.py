"""``google.longrunning.Operations`` at the gateway: durable jobs are asked about and cancelled here, by REST too.

The calls themselves are answered by the gateway's channel, from what JetStream holds: no worker has to be up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from protobuf import Registry

from gateway.mesh_services import contracts
from gateway.mesh_services.contracts import OPERATIONS
from gateway.operation_json import LIST, OPERATION, operation_encoder, operations_encoder, service_of
from gateway.schema import ERROR_DETAILS, Method, Schema, load_schema


def operations_schema(registry_of: Callable[[str], Registry | None]) -> Schema:
    """Return the schema, ready to make routes of. ``registry_of`` gives the types of a service of the mesh."""

    def registry(operation: str) -> Registry:
        return registry_of(service_of(operation)) or ERROR_DETAILS

    encoders = {OPERATION: operation_encoder(registry), LIST: operations_encoder(registry)}

    def with_encoder(method: Method) -> Method:
        return replace(method, to_json=encoders.get(method.response.desc().type_name, method.to_json))

    schema = load_schema(contracts.operations(), OPERATIONS)
    return replace(schema, methods=tuple(map(with_encoder, schema.methods)))
