"""``natsmesh gateway``: HTTP in front of everything on the mesh."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import signal
import threading
import time
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

import click

from natsmesh.exits import Exit, Failure
from natsmesh.options import Mesh, grace_option, mesh_options

if TYPE_CHECKING:
    from natsmesh.control import Control

_READY_SECONDS = 30.0
_POLL_SECONDS = 0.02


@click.command("gateway")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")  # noqa: S104 - what it is for
@click.option("--workers", type=click.IntRange(1, 512), default=1, show_default=True, help="Processes on the port.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Deadline of a unary call whose client names none.",
)
@click.option(
    "--max-timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Longest deadline that a client gets.",
)
@click.option(
    "--stream-timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="Longest that a stream may last.  [default: as long as both ends like]",
)
@click.option(
    "--heartbeat",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    default=15.0,
    show_default=True,
    help="Pause after which server-sent events get a comment.",
)
@click.option(
    "--max-streams",
    metavar="N",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Streams at once in one process, else 503.",
)
@click.option("--max-body", metavar="MIB", type=click.IntRange(1), default=16, show_default=True, help="Else 413.")
@click.option(
    "--max-response",
    metavar="MIB",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Largest message that a service may answer.",
)
@click.option("--forward-header", "forward_headers", metavar="NAME", multiple=True, help="Pass it on to services.")
@click.option("--ignore-unknown", is_flag=True, help="REST: pass over unknown fields instead of refusing them.")
@click.option("--access-log", is_flag=True, help="One log line for each request.")
@click.option("--metrics/--no-metrics", default=True, show_default=True, help="Serve /metrics for Prometheus.")
@grace_option(30.0)
@mesh_options()
def command(  # noqa: PLR0913, PLR0917 - one argument an option
    port: int,
    host: str,
    workers: int,
    timeout: float,
    max_timeout: float,
    stream_timeout: float | None,
    heartbeat: float,
    max_streams: int,
    max_body: int,
    max_response: int,
    forward_headers: tuple[str, ...],
    ignore_unknown: bool,
    access_log: bool,
    metrics: bool,
    grace: float,
    mesh: Mesh,
) -> int:
    """Serve every service on the mesh over HTTP: REST, Connect, gRPC-Web, gRPC.

    It learns them from the bus, and follows what comes and goes; nothing has to be configured.
    """
    from gateway.config import MEBIBYTE, Config, ConfigError
    from gateway.server import ListenError, run
    from natsmesh.control import Control

    control = Control.inherit()
    if control is not None:
        control.grace = grace
        threading.Thread(target=_tell_ready, args=(control, host, port), daemon=True).start()
    mesh.export()
    try:
        config = Config(
            host=host,
            port=port,
            nats_url=mesh.url,
            credentials=mesh.credentials,
            prefix=mesh.prefix,
            workers=workers,
            timeout=timeout,
            max_timeout=max(max_timeout, timeout),
            stream_timeout=stream_timeout,
            heartbeat=heartbeat,
            max_streams=max_streams,
            max_body=max_body * MEBIBYTE,
            max_response=max_response * MEBIBYTE,
            grace=grace,
            ignore_unknown=ignore_unknown,
            forward_headers=forward_headers,
            access_log=access_log,
            metrics=metrics,
        )
        asyncio.run(_check(mesh))
        return run(config, before_start=prepare_process)
    except ConfigError as error:
        raise Failure(str(error), Exit.USAGE) from error
    except ListenError as error:
        code = Exit.PORT_TAKEN if error.errno == errno.EADDRINUSE else Exit.FAILED
        raise Failure(f"{error.strerror or error} (--port)", code) from error


def prepare_process() -> None:
    """Prepare a process that serves: its logs, its telemetry, and that it does not outlive its parent."""
    import multiprocessing

    from natsmesh import garbage
    from rpc import __version__, telemetry

    telemetry.configure_logging()
    telemetry.configure("natsmesh-gateway", instance_id=secrets.token_hex(8), version=__version__)
    garbage.settle()
    if (parent := multiprocessing.parent_process()) is not None:

        def end_with_parent() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=end_with_parent, name="natsmesh-parent", daemon=True).start()


async def _check(mesh: Mesh) -> None:
    """Say at once, and clearly, when there is no broker."""
    connection = await mesh.connect("natsmesh gateway")
    await connection.close()


def _tell_ready(control: Control, host: str, port: int) -> None:
    end = time.monotonic() + _READY_SECONDS
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    while time.monotonic() < end:
        connection = HTTPConnection(address, port, timeout=1)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                control.ready(port=port)
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(_POLL_SECONDS)
