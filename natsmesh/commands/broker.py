"""``natsmesh broker``: the bundled nats-server in the foreground."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from natsmesh.exits import Exit, Failure, describe_exit
from natsmesh.quantities import SYNC_INTERVAL

if TYPE_CHECKING:
    from rpc.embedded import Broker


@click.command("broker")
@click.option("--port", type=click.IntRange(0, 65535), default=4222, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; nobody has to log in.")
@click.option(
    "--store-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where JetStream keeps its data; without it the data ends with the broker.",
)
@click.option(
    "--sync-interval",
    type=SYNC_INTERVAL,
    default="1s",
    show_default=True,
    help="With --store-dir: how often stored messages are forced to the disk; always: each, before it is confirmed.",
)
def command(port: int, host: str, store_dir: Path | None, sync_interval: float) -> int:
    """Start the bundled nats-server, with JetStream, for development and single machines.

    It stops with Ctrl-C or SIGTERM, and with whoever started it.

    What JetStream has confirmed survives a crash of the broker (kill -9 too), if --store-dir is given. When the power
    fails or the machine's kernel crashes, the messages of the last --sync-interval may be lost, although they were
    confirmed; "always" loses none, and stores more slowly.
    """
    from rpc.embedded import Broker, BrokerError, PortTakenError

    broker = Broker(
        port=port,
        host=host,
        store_dir=store_dir,
        sync_interval=None if store_dir is None else sync_interval,
        output=sys.stderr.fileno(),
    )
    try:
        return asyncio.run(_run(broker, sync_interval))
    except PortTakenError as error:
        raise Failure(f"{error} (--port)", Exit.PORT_TAKEN) from error
    except BrokerError as error:
        raise Failure(str(error)) from error


async def _run(broker: Broker, sync_interval: float) -> int:
    from natsmesh.control import Control
    from natsmesh.signals import StopSignal

    stop = StopSignal(broker.kill)
    control = Control.inherit()
    async with broker:
        click.echo(f"NATS is ready at {broker.url}")
        folder = (
            broker.store_dir if broker.keeps_data else "a temporary folder, removed at the end (--store-dir keeps it)"
        )
        click.echo(f"JetStream keeps its data in {folder}")
        if broker.keeps_data and sync_interval:
            click.echo(
                f"If the power fails, what it confirmed in the last {sync_interval:g} s may be lost (--sync-interval)"
            )
        if control is not None:
            control.ready(url=broker.url)
        while not stop.is_set:
            if broker.exit_code is not None:
                raise Failure(f"nats-server ended by itself: {describe_exit(broker.exit_code)}")
            try:
                await asyncio.wait_for(stop.wait(), 0.2)
            except TimeoutError:
                continue
    return Exit.OK
