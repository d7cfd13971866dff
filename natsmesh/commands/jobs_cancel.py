"""``natsmesh jobs cancel``: ends jobs that have not ended."""

from __future__ import annotations

import asyncio

import click

from natsmesh.options import Mesh, mesh_options


@click.command("cancel")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@mesh_options()
def command(names: tuple[str, ...], mesh: Mesh) -> int:
    """Cancel jobs by the names of their operations: those that wait never run, handlers that run are cancelled."""
    return asyncio.run(_cancel(names, mesh))


async def _cancel(names: tuple[str, ...], mesh: Mesh) -> int:
    from natsmesh.exits import Exit
    from natsmesh.jobs.reach import name_of, reach
    from natsmesh.jobs.text import state_of
    from rpc.status import StatusCode, StatusError

    wanted = [name_of(name) for name in names]
    code = Exit.OK
    async with reach(mesh, "jobs cancel") as found:
        for name in wanted:
            try:
                record = await found.operations.cancel(name)
            except StatusError as error:
                if error.code is not StatusCode.NOT_FOUND:
                    raise
                click.echo(f"natsmesh: {error.details}", err=True)
                code = Exit.NOT_FOUND
                continue
            click.echo(f"{name}  {state_of(record.job)}")
    return code
