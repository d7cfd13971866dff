"""``grpc.health.v1.Health`` for every service of the mesh, and for the gateway itself under the empty name.

Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from rpc import ServiceView, StatusCode, StatusError

MAX_WATCHERS = 1024
"""Clients that watch at once, in one process; more are refused with RESOURCE_EXHAUSTED."""

MAX_NAME = 256
"""Characters of the name of a service (as for discovery)."""

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN

_messages: Any = health_pb2
"""Its type stubs do not know ``List`` yet."""


class Health:
    """Knows who serves. ``changed`` must be called when that may have changed."""

    def __init__(
        self,
        services: Callable[[], Mapping[str, ServiceView]],
        own: frozenset[str],
        is_connected: Callable[[], bool],
        is_ready: Callable[[], bool],
    ) -> None:
        """``own`` are the services that the gateway serves itself; ``is_ready``: it can serve calls."""
        self._services = services
        self._own = own
        self._is_connected = is_connected
        self._is_ready = is_ready
        self._watchers: dict[asyncio.Event, str] = {}

    def status(self, service: str) -> int:
        """Return how a service is now; the gateway itself is the empty name.

        SERVING: it has live back-ends. NOT_SERVING: it had some, or the gateway has lost the bus.
        """
        if not service:
            return SERVING if self._is_ready() else NOT_SERVING
        if service in self._own:
            return SERVING
        view = self._services().get(service)
        if view is None:
            return SERVICE_UNKNOWN
        return SERVING if view.instances and self._is_connected() else NOT_SERVING

    def changed(self, service: str | None = None) -> None:
        """Let those who watch a service look again; None: those who watch any."""
        for event, watched in self._watchers.items():
            if service is None or watched == service:
                event.set()

    async def check(self, data: bytes) -> bytes:
        """Serve ``Check``. Raises ``StatusError`` NOT_FOUND for a service that nobody has heard of."""
        service = _service(data)
        status = self.status(service)
        if status == SERVICE_UNKNOWN:
            raise StatusError(StatusCode.NOT_FOUND, f"no service {service!r} has been seen on the mesh")
        return HealthCheckResponse(status=status).SerializeToString()

    async def list(self, data: bytes) -> bytes:
        """Serve ``List``: all services, the gateway itself under the empty name."""
        try:
            _messages.HealthListRequest.FromString(data)
        except DecodeError:
            raise StatusError(StatusCode.INVALID_ARGUMENT, "this is no HealthListRequest") from None
        names = {"", *self._own, *self._services()}
        statuses = {name: HealthCheckResponse(status=self.status(name)) for name in sorted(names)}
        return bytes(_messages.HealthListResponse(statuses=statuses).SerializeToString())

    async def watch(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Serve ``Watch``: the status now, and each that is another, until the client leaves.

        Raises ``StatusError`` when there are too many who watch.
        """
        service = _service(await anext(requests, b""))
        if len(self._watchers) >= MAX_WATCHERS:
            raise StatusError(
                StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} clients watch already: ask with Check now and then"
            )
        event = asyncio.Event()
        self._watchers[event] = service
        last: int | None = None
        try:
            while True:
                event.clear()
                status = self.status(service)
                if status != last:
                    yield HealthCheckResponse(status=status).SerializeToString()
                    last = status
                await event.wait()
        finally:
            del self._watchers[event]


def _service(data: bytes) -> str:
    try:
        service = HealthCheckRequest.FromString(data).service
    except DecodeError:
        raise StatusError(StatusCode.INVALID_ARGUMENT, "this is no HealthCheckRequest") from None
    if len(service) > MAX_NAME:
        raise StatusError(StatusCode.INVALID_ARGUMENT, f"the name of a service has at most {MAX_NAME} characters")
    return service
