"""``natsmesh syslog``: takes syslog from programs that know nothing of us, and ships it over the mesh."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from typing import TYPE_CHECKING

import click

from natsmesh.exits import Exit, Failure
from natsmesh.options import Mesh, grace_option, mesh_options

if TYPE_CHECKING:
    from mesh.v1 import log_pb2
    from rpc.logs.shipper import Shipper

logger = logging.getLogger("natsmesh.syslog")


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise click.BadParameter(f"{value!r}: expected HOST:PORT, such as 127.0.0.1:5514 or [::1]:5514")
    return host.removeprefix("[").removesuffix("]"), int(port)


@click.command("syslog")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:5514",
    show_default=True,
    callback=_address,
    help="Where, for UDP and TCP. Nobody is asked who he is: keep it local.",
)
@grace_option(5.0)
@mesh_options()
def command(listen: tuple[str, int], grace: float, mesh: Mesh) -> int:
    """Listen for syslog (RFC 5424, and what was before) over UDP and TCP; `natsmesh logs` shows it.

    Example: logger --rfc5424 --server 127.0.0.1 --port 5514 --udp "backup done"
    """
    from rpc import telemetry

    telemetry.configure_logging()
    return asyncio.run(_run(listen, grace, mesh))


async def _run(listen: tuple[str, int], grace: float, mesh: Mesh) -> int:
    import rpc
    from natsmesh.control import Control
    from natsmesh.signals import StopSignal
    from natsmesh.syslog.listener import Listener
    from rpc.logs.shipper import Backlog, Shipper

    stop = StopSignal()
    control = Control.inherit()
    connection = await mesh.connect("natsmesh syslog")
    publisher = rpc.Publisher(connection, prefix=mesh.prefix, trace=False)
    await publisher.start()
    backlog = Backlog()
    shipper = Shipper(backlog, _tell_dropped)
    listener = Listener(backlog, shipper)
    shipping = asyncio.create_task(shipper.run(lambda record, key: publisher.publish(record, id=key)))
    try:
        try:
            await listener.start(*listen)
        except OSError as error:
            code = Exit.PORT_TAKEN if error.errno == errno.EADDRINUSE else Exit.FAILED
            raise Failure(f"{error.strerror or error} (--listen)", code) from error
        logger.info("syslog over UDP and TCP is taken at %s, port %d", listen[0], listener.port)
        if control is not None:
            control.ready(port=listener.port)
        await stop.wait()
        await listener.close()
        return await _drain(shipper, grace)
    finally:
        await listener.close()
        shipping.cancel()
        await asyncio.wait([shipping])
        await publisher.close()
        await connection.close()


async def _drain(shipper: Shipper, grace: float) -> int:
    try:
        await asyncio.wait_for(shipper.drained(), grace)
    except TimeoutError:
        logger.warning("the broker did not take all in time: some messages are lost")
        return Exit.FAILED
    logger.info("stopped")
    return Exit.OK


def _tell_dropped(number: int) -> log_pb2.LogRecord:
    from mesh.v1 import log_pb2

    record = log_pb2.LogRecord(
        severity=log_pb2.SEVERITY_WARN,
        severity_text="WARNING",
        service="natsmesh syslog",
        body=f"{number} syslog messages were dropped: they came faster than the broker took them",
        attributes={"dropped": str(number)},
    )
    record.time.FromNanoseconds(time.time_ns())
    return record
