"""``rpc.Server``: the shape of ``grpc.aio.Server``, without a port.

What generated code registers is served to whoever calls ``rpc.<package.Service>.<Method>`` on the bus. A second process
that does the same is a second back-end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from rpc import scope, telemetry
from rpc.call import Call, Handler
from rpc.discovery.responder import Responder, ServedService
from rpc.discovery.schema import digest_of, find_service, methods_of, schema_of
from rpc.discovery.versions import check_version
from rpc.dispatch import HandlerCallDetails, first_match, intercepted, method_handler
from rpc.method import MethodInfo
from rpc.options import is_compression, read_options
from rpc.policy import server_stack
from rpc.policy.compression import compress_responses
from rpc.policy.deadline import Deadlines
from rpc.policy.limits import DEFAULT_CONCURRENCY, DEFAULT_QUEUE, ConcurrencyLimit
from rpc.stats import Stats
from rpc.status import StatusCode, StatusError
from rpc.subjects import Subjects
from rpc.transport.base import Connection
from rpc.transport.server import ServerTransport

if TYPE_CHECKING:
    from rpc.dispatch.method import MakeContext
    from rpc.durable.service import DurableMethods

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT = 10.0
"""Seconds that the broker may take to stop the delivery of calls when a server stops."""


class Server(aio.Server):
    """Serves servicers over NATS. Source of the semantics: ``grpc.aio.Server``."""

    def __init__(  # noqa: PLR0913 - the arguments of grpc.aio.server, and ours
        self,
        target: str | Connection | None = None,
        *,
        migration_thread_pool: Executor | None = None,
        handlers: Sequence[grpc.GenericRpcHandler] | None = None,
        interceptors: Sequence[aio.ServerInterceptor] | None = None,
        options: Iterable[tuple[str, Any]] | None = None,
        maximum_concurrent_rpcs: int | None = None,
        compression: grpc.Compression | None = None,
        maximum_queued_rpcs: int = DEFAULT_QUEUE,
        version: str = "0.0.0",
        prefix: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """The first keyword arguments are those of ``grpc.aio.server``.

        ``target``: a NATS URL, or a connection that others use too; None is ``$NATS_URL`` or nats-server's default.
        ``migration_thread_pool`` runs methods that are plain functions.
        ``options``: those of gRPC that mean something here, see ``rpc.options``. ``compression`` of the responses is
        gzip or none; without it, they are compressed if the requests are.
        ``maximum_concurrent_rpcs`` run at once, ``maximum_queued_rpcs`` more wait; what comes beyond is refused.
        ``version`` (semantic) and ``metadata`` are announced with every service. ``prefix`` separates meshes;
        None is ``$NATSMESH_PREFIX``, or none.
        """
        from rpc.connections import as_connection  # noqa: PLC0415 - nats-py is imported only where a connection is made

        self._connection, self._owns_connection = as_connection(target)
        self._executor = migration_thread_pool
        self._interceptors = tuple(interceptors or ())
        for interceptor in self._interceptors:
            if not isinstance(interceptor, aio.ServerInterceptor):
                raise TypeError(f"{interceptor!r} is not a grpc.aio.ServerInterceptor")
        self._options = read_options(options)
        self._compress = None if compression is None else compress_responses(is_compression(compression))
        self._version = check_version(version)
        self._metadata = dict(metadata or {})
        self._subjects = Subjects(prefix)
        self._scope = scope.Scope(self._connection, self._subjects.prefix.rstrip("."))
        self._deadlines = Deadlines()
        self._limit = ConcurrencyLimit(maximum_concurrent_rpcs or DEFAULT_CONCURRENCY, maximum_queued_rpcs)
        self._generic: list[grpc.GenericRpcHandler] = []
        self._registered: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        self._service_names: dict[str, None] = {}
        self.stats = Stats("server")
        """Numbers of the calls that were served, by method."""
        self.instance = secrets.token_hex(8)
        """Id of this server on the mesh."""
        self._made_in = os.getpid()
        self._transport: ServerTransport | None = None
        self._durable: DurableMethods | None = None
        self._responder: Responder | None = None
        self._starting = asyncio.Lock()
        self._stopping: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._grace_ends: float | None = None
        self._grace_changed = asyncio.Event()
        if handlers:
            self.add_generic_rpc_handlers(handlers)

    # -------------------------------------------------------------------------------------------- registration

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve what these handlers give; each must name its service (``grpc.ServiceRpcHandler``): the subject."""
        self._check_not_started()
        for handler in generic_rpc_handlers:
            name = getattr(handler, "service_name", None)
            if name is None:
                raise ValueError(
                    f"{handler!r} does not name a service: a server without a port must know what to subscribe to; "
                    "use grpc.method_handlers_generic_handler(service, handlers)"
                )
            self._generic.append(handler)
            self._service_names[name()] = None

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Serve these methods of a service; generated code calls it."""
        self._check_not_started()
        self._registered.setdefault(service_name, {}).update(method_handlers)
        self._service_names[service_name] = None

    def add_insecure_port(self, address: str) -> int:
        """Do nothing but say so: there are no ports here. Returns the port that was asked for, 0 if none was."""
        logger.info("no port is opened for %s: this server is reached over NATS", address)
        port = address.rpartition(":")[2]
        return int(port) if port.isascii() and port.isdigit() else 0

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Do nothing, see ``add_insecure_port``: the connection to NATS is what is secured."""
        return self.add_insecure_port(address)

    def _check_not_started(self) -> None:
        if self._transport is not None:
            raise RuntimeError("handlers must be added before the server is started")

    # --------------------------------------------------------------------------------------------------- start

    async def start(self) -> None:
        """Connect, subscribe, announce. Raises ``ConnectionError`` when NATS cannot be reached."""
        self._check_not_started()
        if not self._service_names:
            raise RuntimeError("nothing to serve: call add_<Service>Servicer_to_server(servicer, server) first")
        if os.getpid() != self._made_in:
            self.instance = secrets.token_hex(8)  # Forked since: each process is an instance of its own.
        limit = self._limit
        transport = ServerTransport(
            self._connection,
            self._subjects,
            self.instance,
            max_tasks=limit.limit + limit.queue,
            max_message=self._options.max_receive,
            window=self._options.window,
            silence_limit=self._options.silence_limit,
        )
        services = [self._describe(name) for name in self._service_names]
        self._durable = self._durable_methods(services)
        for service in services:
            transport.add(service.name, self._lookup(service))
        self._transport = transport
        self._responder = Responder(self._connection, self._subjects, self.instance, services, self.stats, self._load)
        async with self._starting:
            # Whoever subscribes here hands its context on to the handlers.
            token = scope.current.set(self._scope)
            try:
                await self._connection.connect()
                await transport.start()
                await self._responder.start()
                await self._connection.flush()
                if self._durable is not None:
                    await self._durable.start()
            except BaseException:
                self._transport = None
                await self._responder.close()
                if self._durable is not None:
                    await self._durable.close()
                await transport.close()
                raise
            finally:
                scope.current.reset(token)
            await self._responder.announce("up")

    def _durable_methods(self, services: Sequence[ServedService]) -> DurableMethods | None:
        """Return what works off the jobs and events of these services, None when they have none."""
        methods = [
            info
            for service in services
            for info in service.methods.values()
            if info.job is not None or info.subscription is not None
        ]
        if not methods:
            return None
        from rpc.durable.service import DurableMethods  # noqa: PLC0415 - most servers have neither jobs nor events

        return DurableMethods(self._connection, self._subjects, self.instance, methods, self._durable_handler, services)

    def _durable_handler(self, info: MethodInfo, make_context: MakeContext) -> Handler | None:
        """Return what runs a job or a subscribed method, None when nobody implements it."""
        from rpc.durable.context import is_unwritten, result_handler  # noqa: PLC0415 - loaded by then

        def resolve(details: HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
            found = self._resolve(details)
            return found if found is None or info.job is None else result_handler(found, info.job.response_type)

        found = resolve(HandlerCallDetails(info.path, ()))
        if found is None:
            return None
        if is_unwritten(found):
            logger.info("%s is not implemented here: what there is for it is left to others", info.full_name)
            return None
        return server_stack(
            intercepted(resolve, self._interceptors, info, self._executor, make_context)
            if self._interceptors
            else method_handler(found, info, self._executor, make_context),
            measure=self.stats.interceptor(),
            trace=telemetry.consumer_interceptor(info),
            deadlines=self._deadlines,
            limit=None,  # a method takes no more than its own max_concurrency
        )

    def _load(self) -> Mapping[str, int]:
        running = self._limit.running + (0 if self._durable is None else self._durable.running)
        return {"running": running, "waiting": self._limit.waiting, "limit": self._limit.limit}

    def _describe(self, name: str) -> ServedService:
        descriptor = find_service(name)
        if descriptor is None:
            logger.warning("no descriptor of %s is loaded: gateways cannot learn its methods", name)
            known = {method: self._undescribed(name, method) for method in self._registered.get(name, {})}
            for info in known.values():
                self.stats.method(info)
            return ServedService(name, self._version, known, metadata=self._metadata)
        schema = schema_of(descriptor)
        methods = methods_of(descriptor)
        for info in methods.values():
            self.stats.method(info)
        return ServedService(name, self._version, methods, schema, digest_of(schema), metadata=self._metadata)

    def _lookup(self, service: ServedService) -> Any:
        measure, trace = self.stats.interceptor(), telemetry.server_interceptor(self.stats.knows)

        def stack(handler: Handler) -> Handler:
            return server_stack(
                handler,
                measure=measure,
                trace=trace,
                deadlines=self._deadlines,
                limit=self._limit,
                compress=self._compress,
            )

        def lookup(method: str) -> tuple[MethodInfo, Handler] | None:
            info = service.methods.get(method) or self._undescribed(service.name, method)
            if info.job is not None and self._durable is not None:
                return info, stack(self._durable.enqueue)
            if info.subscription is not None:
                return info, stack(_refuse_call)
            if self._interceptors:
                return info, stack(intercepted(self._resolve, self._interceptors, info, self._executor))
            found = self._resolve(HandlerCallDetails(info.path, ()))
            return None if found is None else (info, stack(method_handler(found, info, self._executor)))

        return lookup

    def _undescribed(self, service: str, method: str) -> MethodInfo:
        """Return what the handler itself says of a method that no descriptor is loaded for."""
        info = MethodInfo(service, method)
        found = self._resolve(HandlerCallDetails(info.path, ()))
        if found is None:
            return info
        return MethodInfo(
            service, method, client_streaming=found.request_streaming, server_streaming=found.response_streaming
        )

    def _resolve(self, details: HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        info = MethodInfo.from_path(details.method)
        found = self._registered.get(info.service, {}).get(info.name)
        if found is not None:
            return found
        generic: grpc.RpcMethodHandler[Any, Any] | None = first_match(self._generic, details)
        return generic

    # ---------------------------------------------------------------------------------------------------- stop

    async def stop(self, grace: float | None) -> None:
        """Stop taking calls at once, without losing one; let those that run end within ``grace`` seconds.

        After it, and at once for None, they are cancelled and their callers told UNAVAILABLE.
        """
        if self._transport is None:
            self._stopped.set()
            await self._leave_connection()
            return
        # A later stop() may shorten the grace of an earlier one, never extend it.
        end = asyncio.get_running_loop().time() + (grace or 0.0)
        self._grace_ends = end if self._grace_ends is None else min(self._grace_ends, end)
        self._grace_changed.set()
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(self._transport), name="natsmesh-server-stop")
        await asyncio.shield(self._stopping)

    async def _idle_or_grace_over(self, transport: ServerTransport) -> None:
        """Wait for the end of the last call, or of the grace."""
        loop = asyncio.get_running_loop()
        durable = self._durable
        while self._in_flight(transport) and (left := (self._grace_ends or 0.0) - loop.time()) > 0:
            self._grace_changed.clear()
            waiting = [
                asyncio.ensure_future(
                    transport.wait_idle(left) if durable is None or transport.in_flight else durable.wait_idle(left)
                ),
                asyncio.ensure_future(self._grace_changed.wait()),
            ]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
        if self._in_flight(transport):
            logger.warning("%d calls were still running when the grace was over", self._in_flight(transport))

    def _in_flight(self, transport: ServerTransport) -> int:
        return transport.in_flight + (0 if self._durable is None else self._durable.running)

    async def _stop(self, transport: ServerTransport) -> None:
        assert self._responder is not None  # noqa: S101 - start() made both
        try:
            async with self._starting:  # A start that is under way comes to its end first.
                if self._transport is None:
                    await self._leave_connection()
                    return
            await self._responder.announce("draining")
            await self._responder.fall_silent()
            if self._durable is not None:
                await self._durable.stop_pulling()
            try:
                await asyncio.wait_for(transport.drain(), DRAIN_TIMEOUT)
            except TimeoutError:
                logger.warning("the broker did not confirm the end of the subscriptions within %g s", DRAIN_TIMEOUT)
            await self._idle_or_grace_over(transport)
            self._limit.refuse_waiting()
            await asyncio.sleep(0)  # They are gone before the others are cancelled.
            await transport.abort_all()
            if self._durable is not None:
                await self._durable.close()
            await self._responder.announce("down")
            await self._responder.close()
            await transport.close()
            await self._leave_connection()
        finally:
            self._stopped.set()

    async def _leave_connection(self) -> None:
        await self._scope.close()
        if self._owns_connection:
            await self._connection.close()
        elif self._connection.is_connected:
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._connection.flush()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until the server has stopped. Returns True when ``timeout`` seconds went by before, as grpc.aio does."""
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout)
        except TimeoutError:
            return True
        return False


async def _refuse_call(call: Call) -> None:
    """Answer who calls a method that is for events: no caller may act as the broker."""
    raise StatusError(
        StatusCode.UNIMPLEMENTED, f"{call.info.full_name} handles events, and takes no calls: publish one"
    )
