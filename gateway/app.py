"""The gateway as an ASGI application: any ASGI server may host it, ``gateway.server`` is the one that comes with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import rpc
from gateway.asgi import Receive, Scope, Send
from gateway.catalog import Catalog, Route
from gateway.compression_route import CompressingRoute
from gateway.config import Config
from gateway.connect import connect_routes
from gateway.errors import connect_error, rest_error
from gateway.filters import RouteFilter, ServiceRoute, Surroundings, filtered, route_filters
from gateway.filters.cors import Cors
from gateway.filters.own_routes import OwnRoute
from gateway.grpc_error import grpc_kind, grpc_status, send_grpc_error
from gateway.headers import new_request_id
from gateway.mesh_services import MAX_STREAMS, MeshServices
from gateway.mesh_services.contracts import OPERATIONS
from gateway.mesh_services.operations import operations_schema
from gateway.not_found import describe
from gateway.openapi.live import LiveDocument
from gateway.openapi.routes import docs_routes
from gateway.operations import healthz, metrics, readyz
from gateway.rest_routes import rest_routes
from gateway.rest_streams import IS_HEAD
from gateway.routes import NO_SEGMENTS
from gateway.schema import ERROR_DETAILS, Schema
from gateway.unary import UnaryServer, send_error
from gateway.websocket_handshake import WEBSOCKET, Handshake, OriginCheck
from gateway.websocket_routes import websocket_routes
from rpc import Connection, ServiceView, ServiceWatcher, Stats, StatusCode
from rpc.telemetry import WorkerStats

if TYPE_CHECKING:
    from rpc.telemetry import HttpTracer  # loads OpenTelemetry

logger = logging.getLogger(__name__)

_START_SECONDS = 5.0
"""How long the server waits for the first news of the mesh before it lets requests in."""

# Methods whose names may become labels of numbers; anything else comes from a client's imagination.
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Gateway:
    """Serves the services of a mesh over HTTP. Source of the interface: the ASGI specification, HTTP and Lifespan.

    ``async with`` or the server's lifespan events start and stop it. It belongs to one event loop.
    """

    def __init__(self, config: Config | None = None, *, connection: Connection | None = None) -> None:
        """``connection`` is one that others use too; without it the gateway makes its own from ``config``."""
        self.config = config or Config()
        self._shared_connection = connection
        self._connection: Connection | None = connection
        self._channel: rpc.Channel | None = None
        self._watcher: ServiceWatcher | None = None
        self._unary: UnaryServer | None = None
        self._tracer: HttpTracer | None = None
        directory = self.config.worker_directory
        self._worker_stats = WorkerStats(directory) if directory is not None else None
        self._tasks: list[asyncio.Task[None]] = []
        self._filters: Sequence[RouteFilter] = ()
        self.stats = Stats("http")
        """Numbers of the requests that were answered, by route."""
        self._document: LiveDocument | None = None
        if self.config.docs.serve:
            closed = not self.config.ignore_unknown
            self._document = LiveDocument(
                self.config.docs, self.config.auth, lambda: self._catalog.table, closed=closed
            )
        cors = self.config.cors
        self._origins = (
            OriginCheck() if cors is None else OriginCheck(Cors(self, cors).allows, credentials=cors.credentials)
        )
        self._catalog = Catalog(self._compile, self._own_routes())
        self._mesh_services = MeshServices(
            reflection=self.config.reflection,
            health=self.config.health,
            operations=self.config.operations,
            schemas=lambda: self._catalog.schemas,
            services=lambda: {} if self._watcher is None else self._watcher.services,
            is_connected=lambda: self._connection is not None and self._connection.is_connected,
            is_ready=lambda: not self._reason_against_ready(),
        )
        self._own_server: UnaryServer | None = None
        self._operations: Schema | None = None
        self._forget_connection: Callable[[], None] | None = None
        self._queues: rpc.QueueMetrics | None = None

    # ------------------------------------------------------------------------------------------------- life cycle

    async def start(self) -> None:
        """Connect and begin to follow the mesh. Raises ``ConnectionError`` when the bus cannot be reached."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        config = self.config
        if self._shared_connection is None:
            self._connection = await rpc.connect(
                config.nats_url, name="natsmesh-gateway", credentials=config.credentials
            )
        connection = self._connection
        assert connection is not None  # noqa: S101 - for the type checker
        limit = ("grpc.max_receive_message_length", config.max_response)
        self._channel = rpc.Channel(connection, prefix=config.prefix, options=[limit])
        self._queues = rpc.QueueMetrics(connection, prefix=config.prefix)
        await self._channel.channel_ready()
        self._tracer = rpc.telemetry.http_tracer()
        self._unary = UnaryServer(self._channel.handler, config, tracer=self._tracer)
        self._filters = route_filters(config, Surroundings(self._unary, connection))
        for each in self._filters:
            await each.start()
        if self._filters:
            self._catalog.wrap_own(lambda route: filtered(OwnRoute(route, self.stats), self._filters))
        await self._serve_own(connection)
        self._watcher = ServiceWatcher(connection, self._changed, prefix=config.prefix, stored=True)
        await self._watcher.start()
        self._spawn(self._catalog.run(self._watcher.ready), "gateway-catalog")
        if self._worker_stats is not None:
            self._spawn(self._worker_stats.run(), "gateway-worker-stats")

    async def _serve_own(self, connection: Connection) -> None:
        """Serve what this process answers itself, as ordinary methods."""
        own = self._mesh_services
        limited = replace(self.config, max_streams=MAX_STREAMS)
        server = UnaryServer(own.invoke, limited, tracer=self._tracer)
        self._own_server = server
        schemas = await asyncio.to_thread(own.load)
        routes: list[ServiceRoute] = [
            route for schema in schemas for route in connect_routes(schema, server, self.stats)
        ]
        if self.config.operations:
            routes += await self._operation_routes()
        self._catalog.add_own([filtered(route, self._filters) for route in routes])
        self._forget_connection = connection.on_state_change(lambda _connected: own.health.changed())
        self._spawn(self._tell_when_settled(), "gateway-settled")

    async def _operation_routes(self) -> list[ServiceRoute]:
        """Return the routes of google.longrunning.Operations; its calls go through the channel as all others do."""
        unary = self._unary
        assert unary is not None  # noqa: S101 - start() made it
        schema = await asyncio.to_thread(operations_schema, self._catalog.registries.get)
        self._operations = schema
        ignore_unknown = self.config.ignore_unknown
        return [
            *connect_routes(schema, unary, self.stats),
            *rest_routes(schema, unary, self.stats, ignore_unknown=ignore_unknown),
        ]

    async def _tell_when_settled(self) -> None:
        await self._catalog.settled.wait()
        self._mesh_services.health.changed()

    def _changed(self, view: ServiceView) -> None:
        self._catalog.changed(view)
        self._mesh_services.health.changed(view.name)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report_failure)
        self._tasks.append(task)

    async def close(self) -> None:
        """Stop; calls that are still under way are cancelled."""
        if self._watcher is not None:
            await self._watcher.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in self._filters:
            await each.close()
        if self._forget_connection is not None:
            self._forget_connection()
        for server in (self._unary, self._own_server):
            if server is not None:
                await server.close()
        if self._channel is not None:
            await self._channel.close()
        if self._shared_connection is None and self._connection is not None:
            await self._connection.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def ready(self) -> None:
        """Return once the services that were there at the start are served."""
        await self._catalog.settled.wait()

    @property
    def routes(self) -> list[Route]:
        """What is served now, conflicts left out."""
        return self._catalog.table.all()

    def _reason_against_ready(self) -> str:
        if self._connection is None or not self._connection.is_connected:
            return "no connection to NATS"
        if not self._catalog.settled.is_set():
            return "the services of the mesh are not known yet"
        return ""

    async def _queue_numbers(self) -> bytes:
        if self._queues is None or self._connection is None or not self._connection.is_connected:
            return b""
        return await self._queues.text()

    def _own_routes(self) -> Sequence[Route]:
        routes: list[Route] = [healthz(), readyz(self._reason_against_ready)]
        if self.config.metrics:
            routes.append(metrics(self._worker_stats, self._queue_numbers))
        if self._document is not None:
            routes += docs_routes(self._document)
        compression = self.config.compression
        return [CompressingRoute(each, compression.minimum) for each in routes] if compression.responses else routes

    def _compile(self, schema: Schema) -> Sequence[Route]:
        unary = self._unary
        assert unary is not None  # noqa: S101 - the catalog runs after start only
        if self._document is not None:
            self._document.learn(schema)
            if self._operations is not None and any(method.info.job for method in schema.methods):
                self._document.learn(self._operations)  # Without jobs there is nothing that it could be asked.
        if schema.service == OPERATIONS and self._operations is not None:
            logger.info("%s: the gateway answers for itself, whoever serves it on the mesh", schema.service)
            return ()
        # Events come from their stream; nobody calls their handlers.
        schema = replace(schema, methods=tuple(each for each in schema.methods if each.info.subscription is None))
        routes: list[ServiceRoute] = [
            *rest_routes(schema, unary, self.stats, ignore_unknown=self.config.ignore_unknown),
        ]
        if schema.service in self._mesh_services.schemas:
            logger.info("%s: the gateway answers for itself, whoever serves it on the mesh", schema.service)
        else:
            routes = [*connect_routes(schema, unary, self.stats), *routes]
        ignore_unknown = self.config.ignore_unknown
        routes += websocket_routes(schema, unary, self.stats, self._origins, ignore_unknown=ignore_unknown)
        return [filtered(route, self._filters) for route in routes]

    # ------------------------------------------------------------------------------------------------------- ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan of the server."""
        literals = self._catalog.table.literals.get(scope.get("method", ""))
        route = literals.get(scope.get("raw_path", b"")) if literals is not None else None
        if route is not None:
            await route.serve(scope, receive, send, NO_SEGMENTS)
        else:
            await self._other(scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what is no literal path: variables, other kinds of scopes, mistakes."""
        kind = scope["type"]
        if kind == "lifespan":
            return await self._lifespan(receive, send)
        path = raw_path(scope)
        if kind == "websocket":
            scope = {**scope, "headers": self._origins.headers(scope)}
            return await self._websocket(Handshake(scope, receive, send), path)
        method: str = scope["method"]
        table = self._catalog.table
        found = table.find(method, path)
        if found is None and method == "HEAD":
            # As GET, only that the server sends no body with it (RFC 9110, 9.3.2).
            scope = {**scope, "method": "GET", IS_HEAD: True}
            found = table.find("GET", path)
        if found is not None:
            route, segments = found
            return await route.serve(scope, receive, send, segments)
        return await self._not_found(scope, method, path, send)

    async def _websocket(self, handshake: Handshake, path: bytes) -> None:
        await handshake.begin()
        found = self._catalog.sockets.find(WEBSOCKET, path)
        if found is None:
            return await self._not_found(handshake.scope, "GET", path, handshake.send_response)
        route, segments = found
        return await route.serve(handshake.scope, handshake.receive_request, handshake.send_response, segments)

    async def _not_found(self, scope: Scope, method: str, path: bytes, send: Send) -> None:
        started = perf_counter()
        span = None if self._tracer is None else self._tracer.start(method, "", scope)
        request_id = new_request_id()
        headers: list[tuple[bytes, bytes]] = []
        allowed = [] if WEBSOCKET in scope else self._catalog.table.methods_for(path)
        if allowed:
            if "GET" in allowed:
                allowed.append("HEAD")
            allowed = sorted({*allowed, "OPTIONS"})
            headers.append((b"allow", ", ".join(allowed).encode()))
        if allowed and method == "OPTIONS":
            status = 204
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            shown = path[:200].decode("utf-8", "replace")
            status = 405 if allowed else 404
            if WEBSOCKET in scope:
                message = f"no stream is served at {shown}: WebSockets are for streaming methods"
            else:
                message = describe(method, path, allowed, self._catalog.table, self._catalog.knows)
            if kind := grpc_kind(scope["headers"]):
                trailers = grpc_status(StatusCode.UNIMPLEMENTED, message, ())
                await send_grpc_error(scope, send, kind, [(b"x-request-id", request_id)], trailers)
            else:
                await send_error(send, status, _error_for(scope, status, message), request_id, headers)
        seconds = perf_counter() - started
        if span is not None:
            span.end(status)
        self.stats.entry(method if method in _KNOWN_METHODS else "_OTHER", "", "http").record(status, seconds)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                    # Whoever is let in before would be told that services which are there do not exist.
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.ready(), _START_SECONDS)
                except Exception as error:  # told to the server, which stops and says so
                    if not isinstance(error, ConnectionError):
                        logger.exception("the gateway could not start")
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def raw_path(scope: Scope) -> bytes:
    """Return the path as it was sent, below the mount point, without the query string."""
    raw: bytes | None = scope.get("raw_path")
    if not raw:
        raw = quote(scope["path"]).encode()
    # The specification leaves the query string out; some servers do not.
    raw = raw.partition(b"?")[0]
    root = scope.get("root_path", "")
    if root:
        raw = raw.removeprefix(quote(root).encode())
    return raw if raw.startswith(b"/") else b"/" + raw


def _error_for(scope: Scope, status: int, message: str) -> bytes:
    """Return an error as a client on an unknown path can read it: Connect's form for those who say they speak it."""
    for name, value in scope["headers"]:
        if name == b"connect-protocol-version" or (
            name == b"content-type" and value.startswith(b"application/connect")
        ):
            # Connect's code for an unknown procedure; for a method that it does not know it has none.
            code = StatusCode.UNIMPLEMENTED if status == 404 else StatusCode.UNKNOWN
            return connect_error(code, message, (), ERROR_DETAILS)
    return rest_error(StatusCode.NOT_FOUND if status == 404 else StatusCode.UNIMPLEMENTED, message, (), ERROR_DETAILS)


def _report_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a task of the gateway has failed: %s", task.get_name(), exc_info=error)
