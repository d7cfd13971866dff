"""One back-end process: servicers on an ``rpc.Server``, from start to drain."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from natsmesh import garbage
from natsmesh.control import Control
from natsmesh.exits import Exit, Failure
from natsmesh.options import Mesh
from natsmesh.servicers import Servicer, load, use_project
from natsmesh.shipping import ship_logs
from natsmesh.signals import StopSignal

if TYPE_CHECKING:
    from rpc import Server

logger = logging.getLogger("natsmesh.serve")

_STOP_SECONDS = 5.0
"""What stopping may take beside the grace: the broker has to confirm, and it may be away."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve. ``concurrency`` and ``queue`` are calls of this process; None takes the library's default."""

    mesh: Mesh
    concurrency: int | None = None
    queue: int | None = None
    grace: float = 10.0
    version: str = "0.0.0"
    max_message: int = 32 * 1024 * 1024
    """Bytes of one request. gRPC's own 4 are too few for photos; the gateway takes bodies of 16."""


def run_worker(targets: Sequence[str], options: ServeOptions) -> int:
    """Serve what the targets name until a signal comes; return the exit code. Raises ``Failure``."""
    control = Control.inherit()
    if control is not None:
        control.grace = options.grace
    options.mesh.export()
    use_project(Path.cwd())
    servicers = [servicer for target in targets for servicer in load(target)]
    names = [name for servicer in servicers for name in servicer.service_names()]
    if twice := {name for name in names if names.count(name) > 1}:
        raise Failure(f"{', '.join(sorted(twice))} would be served twice by one process: name it once", Exit.USAGE)

    from rpc import telemetry

    instance = secrets.token_hex(8)
    telemetry.configure_logging()
    ship_logs(names[0], instance, names)
    telemetry.configure(names[0], instance_id=instance, version=options.version)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_serve(servicers, names, instance, options, control))
    telemetry.shutdown()
    return code


async def _serve(
    servicers: Sequence[Servicer], names: Sequence[str], instance: str, options: ServeOptions, control: Control | None
) -> int:
    import rpc

    stop = StopSignal()
    connection = await options.mesh.connect(f"natsmesh serve {' '.join(names)} (process {os.getpid()})")
    limits: dict[str, Any] = {} if options.queue is None else {"maximum_queued_rpcs": options.queue}
    server = rpc.Server(
        connection,
        options=[("grpc.max_receive_message_length", options.max_message)],
        maximum_concurrent_rpcs=options.concurrency,
        version=options.version,
        prefix=options.mesh.prefix,
        **limits,
    )
    server.instance = instance
    try:
        for servicer in servicers:
            servicer.add_to(server)
        await _start(server)
        garbage.settle()
        logger.info("serving %s as instance %s at %s", ", ".join(names), instance, connection.url)
        if control is not None:
            control.ready(services=list(names), instance=instance)
        await stop.wait()
        return await _drain(server, options.grace)
    finally:
        await connection.close()


async def _start(server: Server) -> None:
    from rpc.durable.reading import OptionsError
    from rpc.jetstream.specs import StreamError

    try:
        await server.start()
    except OptionsError as error:  # Starting it again would not help: it is in the .proto.
        raise Failure(str(error), Exit.USAGE) from error
    except StreamError as error:  # It would, once somebody has done at the broker what this says.
        raise Failure(str(error)) from error
    except ConnectionError as error:
        raise Failure(str(error), Exit.UNREACHABLE) from error


async def _drain(server: Server, grace: float) -> int:
    logger.info("stopping: calls that run may take %g s more", grace)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        async with asyncio.timeout(grace + _STOP_SECONDS):
            await server.stop(grace)
    except TimeoutError:
        logger.warning("the server did not stop in time")
        return Exit.FAILED
    if loop.time() - begun >= grace > 0:
        return Exit.FAILED  # calls were cut off, and the server has said how many
    logger.info("stopped")
    return Exit.OK


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
