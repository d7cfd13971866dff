"""What the mesh says of itself, put together for people: services, their instances, their schemas."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import rpc
from natsmesh.exits import Exit, Failure
from natsmesh.schema import Schema
from rpc.discovery.responder import SCHEMA_KEY, SERVICE_KEY
from rpc.discovery.versions import version_key
from rpc.subjects import Subjects


@dataclass(frozen=True, slots=True)
class Instance:
    """One back-end process of one service, as it described itself (ADR-32, INFO or STATS)."""

    service: str
    id: str
    version: str
    digest: str
    reply: dict[str, Any]

    @property
    def endpoints(self) -> list[dict[str, Any]]:
        """Its methods."""
        return [each for each in self.reply.get("endpoints", []) if isinstance(each, dict)]

    @property
    def load(self) -> dict[str, int]:
        """Calls that run, wait, and may run at once (STATS only)."""
        for endpoint in self.endpoints:
            if isinstance(data := endpoint.get("data"), dict):
                return {key: value for key, value in data.items() if isinstance(value, int)}
        return {}

    def total(self, key: str) -> int:
        """Return the sum of a STATS number over all methods."""
        return sum(value for each in self.endpoints if isinstance(value := each.get(key), int))


def read_instances(replies: Iterable[dict[str, Any]], prefix: str) -> list[Instance]:
    """Return the instances of this mesh; other services on the account, and garbage, are passed over."""
    expected = Subjects(prefix)
    found = []
    for reply in replies:
        service, digest = reply["metadata"].get(SERVICE_KEY), reply["metadata"].get(SCHEMA_KEY, "")
        if not isinstance(service, str) or not isinstance(digest, str):
            continue
        instance = Instance(service, reply["id"], reply["version"], digest, reply)
        try:
            version_key(instance.version)
            subjects = {expected.method(service, str(endpoint.get("name"))) for endpoint in instance.endpoints}
        except ValueError:
            continue
        if subjects <= {endpoint.get("subject") for endpoint in instance.endpoints}:
            found.append(instance)
    return found


async def find(connection: rpc.Connection, service: str, prefix: str) -> list[Instance]:
    """Return the instances of a service, the newest version first. Raises ``Failure`` when there are none."""
    try:
        instances = read_instances(await rpc.discover(connection, "info", service), prefix)
    except ValueError as error:
        raise Failure(f"{service!r} is no service name: {error}", Exit.USAGE) from error
    # Two names may become one in ADR-32, which allows no dots.
    instances = [instance for instance in instances if instance.service == service]
    if not instances:
        everything = read_instances(await rpc.discover(connection, "ping"), "")
        names = sorted({instance.service for instance in everything})
        raise Failure(f"no back-end serves {service} at {connection.url}{_suggest(service, names)}", Exit.NOT_FOUND)
    return sorted(instances, key=lambda instance: version_key(instance.version), reverse=True)


async def schema_of(connection: rpc.Connection, instances: Iterable[Instance], prefix: str) -> Schema:
    """Return the newest schema that can be had. Raises ``Failure`` when there is none."""
    problem: Exception | None = None
    for digest in dict.fromkeys(instance.digest for instance in instances if instance.digest):
        try:
            return Schema(await rpc.fetch_schema(connection, digest, subjects=Subjects(prefix)))
        except (LookupError, TimeoutError, ValueError) as error:
            problem = error
    if problem is None:
        raise Failure("the service announces no schema: its back-end has no generated code for it", Exit.NOT_FOUND)
    raise Failure(f"the service's schema cannot be had: {problem or 'no answer in time'}") from problem


def split_method(name: str) -> tuple[str, str]:
    """Return (service, method) of ``pkg.Service/Method``; a slash before it is allowed, as in gRPC's path."""
    service, separator, method = name.removeprefix("/").rpartition("/")
    if not separator or not service or not method:
        raise Failure(f"{name!r} is no method: write pkg.Service/Method, e.g. greeter.v1.Greeter/SayHello", Exit.USAGE)
    return service, method


def unknown_method(service: str, method: str, methods: Iterable[str]) -> Failure:
    """Return the failure for a method that a service does not have."""
    return Failure(f"{service} has no method {method}{_suggest(method, sorted(methods))}", Exit.NOT_FOUND)


def _suggest(name: str, names: list[str]) -> str:
    if close := difflib.get_close_matches(name, names, n=1):
        return f"; did you mean {close[0]}?"
    return f"; there is {', '.join(names[:20])}" if names else "; nothing is served there"
