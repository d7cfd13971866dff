"""HTTP routes that several methods claim: found in the schemas of the services, by the gateway's own rules.

A gateway serves the one that it meets first. Those that are there when it starts it takes in the order of their names;
so that is the order here, and what a gateway that starts now would do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto, MethodOptions
from google.protobuf.message import DecodeError

import rpc
from gateway.http_rule import Binding, bindings
from gateway.path_template import PathTemplate
from gateway.routes import RouteTable
from natsmesh.mesh import Instance
from rpc.discovery.versions import version_key
from rpc.subjects import Subjects

_AT_ONCE = 16
"""Schemas that are asked for at once."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """One route and the methods that claim it, the one first that a gateway would serve."""

    route: str
    """``GET /v1/{name}``, as the first one writes it."""

    methods: tuple[str, ...]
    """Each as ``pkg.Service/Method``."""

    def concerns(self, service: str) -> bool:
        """Tell whether one of the methods is of this service."""
        return any(method.startswith(f"{service}/") for method in self.methods)


@dataclass(frozen=True, slots=True)
class _Claim:
    http_method: str
    template: PathTemplate
    method: str


async def find_conflicts(connection: rpc.Connection, instances: Iterable[Instance], prefix: str) -> list[Conflict]:
    """Return the conflicts between these services, by their newest schemas; what has none here claims nothing."""
    newest: dict[str, Instance] = {}
    for instance in instances:
        known = newest.get(instance.service)
        if instance.digest and (known is None or version_key(instance.version) > version_key(known.version)):
            newest[instance.service] = instance
    turns = asyncio.Semaphore(_AT_ONCE)

    async def fetch(digest: str) -> bytes:
        async with turns:
            try:
                return await rpc.fetch_schema(connection, digest, subjects=Subjects(prefix))
            except (LookupError, TimeoutError, ValueError):
                return b""

    schemas = await asyncio.gather(*(fetch(instance.digest) for instance in newest.values()))
    return conflicts(dict(zip(newest, schemas, strict=True)))


def conflicts(schemas: Mapping[str, bytes]) -> list[Conflict]:
    """Return the conflicts between services, given their serialized schemas by name."""
    table = RouteTable(claim for service in sorted(schemas) for claim in _claims(service, schemas[service]))
    found: dict[_Claim, list[str]] = {}
    for each in table.conflicts:
        found.setdefault(each.kept, [each.kept.method]).append(each.refused.method)
    return [Conflict(f"{kept.http_method} {kept.template.source}", tuple(methods)) for kept, methods in found.items()]


def _claims(service: str, schema: bytes) -> Iterator[_Claim]:
    try:
        files = FileDescriptorSet.FromString(schema).file
    except DecodeError:
        return
    extension: Any = annotations_pb2.http
    for file in files:
        for each in file.service:
            if (f"{file.package}.{each.name}" if file.package else each.name) != service:
                continue
            for method in each.method:
                yield from _by_name(f"{service}/{method.name}", method)
            for method in each.method:
                if method.options.HasExtension(extension):
                    for binding in bindings(method.options.Extensions[extension]):
                        if isinstance(binding, Binding):
                            yield _Claim(binding.http_method, binding.template, f"{service}/{method.name}")


def _by_name(full_name: str, method: MethodDescriptorProto) -> Iterator[_Claim]:
    """Yield what every method has: its path in Connect and gRPC."""
    template = PathTemplate(f"/{full_name}", tuple(full_name.split("/")), (), "")
    yield _Claim("POST", template, full_name)
    if method.options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
        yield _Claim("GET", template, full_name)
