"""``natsmesh dev``: everything on this machine, for development."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from natsmesh.options import Mesh, grace_option, mesh_options


@click.command("dev")
@click.argument("targets", nargs=-1, metavar="[MODULE:CLASS...]")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="The gateway's port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The gateway's address.")
@click.option("--nats-port", type=click.IntRange(0, 65535), default=4222, show_default=True, help="The broker's port.")
@click.option("--store-dir", type=click.Path(file_okay=False), help="Keep JetStream's data there.")
@click.option("--watch/--no-watch", default=True, show_default=True, help="Reload what is saved.")
@grace_option(3.0)
@mesh_options(None)
def command(
    targets: tuple[str, ...],
    port: int,
    host: str,
    nats_port: int,
    store_dir: str | None,
    watch: bool,
    grace: float,
    mesh: Mesh,
) -> int:
    """Start a broker, a gateway and this project's services; reload them as you save.

    Without arguments the services are those of pyproject.toml ([tool.natsmesh] services = [...]), else every servicer
    class below services/. With --nats or NATS_URL that broker is used instead of a new one. Code is generated from
    proto/ into gen/.
    """
    from natsmesh.dev.session import DevOptions, DevSession
    from natsmesh.lines import Terminal

    options = DevOptions(mesh, targets, host, port, nats_port, store_dir, grace, watch)
    return asyncio.run(DevSession(options, Path.cwd(), Terminal()).run())
