"""Services that the gateway itself serves about the mesh: reflection, health and long-running operations.

They are ordinary services, with schemas and routes as any other, only that their calls end in this process, or, of
``google.longrunning.Operations``, in JetStream. Where a back-end serves one of the same name, the gateway's own answers
at the gateway; callers on the bus reach the back-end's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.mesh_services import contracts
from gateway.mesh_services.contracts import HEALTH, OPERATIONS, REFLECTION, REFLECTION_ALPHA
from gateway.mesh_services.health import MAX_WATCHERS, Health
from gateway.mesh_services.local import LocalMethods, StreamMethod, UnaryMethod
from gateway.mesh_services.reflection import Reflection
from gateway.schema import Schema, load_schema
from rpc import ServiceView

MAX_STREAMS = MAX_WATCHERS + 256
"""Streams of these services at once, in one process."""


class MeshServices:
    """The gateway's own services. ``schemas`` are their serialized sets of files, by name."""

    def __init__(
        self,
        *,
        reflection: bool,
        health: bool,
        operations: bool,
        schemas: Callable[[], Mapping[str, bytes]],
        services: Callable[[], Mapping[str, ServiceView]],
        is_connected: Callable[[], bool],
        is_ready: Callable[[], bool],
    ) -> None:
        """``schemas`` and ``services`` are those of the mesh, as they are now."""
        self.schemas: dict[str, bytes] = {}
        if health:
            self.schemas[HEALTH] = contracts.health()
        if reflection:
            self.schemas[REFLECTION] = contracts.reflection()
            self.schemas[REFLECTION_ALPHA] = contracts.reflection_alpha()
        if operations:
            self.schemas[OPERATIONS] = contracts.operations()
        self.health = Health(services, frozenset(self.schemas), is_connected, is_ready)

        def live() -> set[str]:
            # What is listed can be described: a service whose schema cannot be used is served by nobody here.
            described = schemas()
            return {*self.schemas, *(name for name, view in services().items() if view.instances and name in described)}

        self._reflection = Reflection(lambda: {**schemas(), **self.schemas}, live)
        unary: dict[str, UnaryMethod] = {f"{HEALTH}/Check": self.health.check, f"{HEALTH}/List": self.health.list}
        streams: dict[str, StreamMethod] = {f"{HEALTH}/Watch": self.health.watch}
        for service in (REFLECTION, REFLECTION_ALPHA):
            streams[f"{service}/ServerReflectionInfo"] = self._reflection.serve
        self.invoke = LocalMethods(unary, streams).invoke

    def load(self) -> list[Schema]:
        """Return the schemas of those that this process answers, ready to make routes of."""
        return [load_schema(data, name) for name, data in self.schemas.items() if name != OPERATIONS]
