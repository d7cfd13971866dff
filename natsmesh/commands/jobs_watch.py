"""``natsmesh jobs watch``: queues as they fill and drain, or one job to its end."""

from __future__ import annotations

import asyncio

import click

from natsmesh.options import Mesh, json_option, mesh_options
from natsmesh.quantities import SECONDS


@click.command("watch")
@click.argument("which", metavar="[SERVICE[/METHOD]|NAME]", default="")
@click.option("--interval", type=SECONDS, default="1s", show_default=True, help="How often to look.")
@click.option("--until-empty", is_flag=True, help="End when nothing waits and nothing runs.")
@json_option
@mesh_options()
def command(which: str, interval: float, until_empty: bool, as_json: bool, mesh: Mesh) -> int:
    """Watch queues: how long they are, how old, what goes in and out per second, and when they will be empty.

    With the NAME of an operation: what becomes of it, to its end. The exit code says how it ended: 0 done, 64+N failed
    with gRPC status N, 65 cancelled. Ctrl-C ends it. In a terminal there is a progress bar; in a pipe, plain lines.
    """
    from natsmesh.jobs.reach import is_name, name_of, split

    if interval <= 0:
        raise click.BadParameter("it must be longer than nothing", param_hint="--interval")
    if is_name(which):
        from natsmesh.jobs.follow import follow

        return asyncio.run(follow(mesh, name_of(which), as_json=as_json))
    from natsmesh.jobs.queues import watch

    return asyncio.run(watch(mesh, *split(which), interval=interval, until_empty=until_empty, as_json=as_json))
