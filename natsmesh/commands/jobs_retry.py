"""``natsmesh jobs retry``: dead letters go back where they came from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from natsmesh.exits import Exit, Failure
from natsmesh.options import Mesh, mesh_options

if TYPE_CHECKING:
    from natsmesh.jobs.reach import Reach
    from rpc.durable.letters import DeadLetter


@click.command("retry")
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--dead", "which", metavar="SERVICE[/METHOD]", help="All dead letters of a service, or a method.")
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@mesh_options()
def command(names: tuple[str, ...], which: str | None, everything: bool, mesh: Mesh) -> int:
    """Put dead letters back: their attempts begin anew.

    A job keeps the name of its operation. An event goes to the group alone that could not handle it. A dead letter is
    removed once what it holds is stored where it came from. NAMEs are those of `natsmesh jobs list --dead`.
    """
    if bool(names) + bool(which) + everything != 1:
        raise click.UsageError("say which: NAME..., --dead SERVICE[/METHOD], or --all")
    return asyncio.run(_retry(names, which or "", mesh))


async def _retry(names: tuple[str, ...], which: str, mesh: Mesh) -> int:
    from natsmesh.jobs.reach import event_name, name_of, reach, split

    wanted = [("events", *event) if (event := event_name(name)) else ("jobs", *name_of(name)) for name in names]
    service, method = split(which)
    code = Exit.OK
    async with reach(mesh, "jobs retry") as found:
        if not wanted:
            count = 0
            async for letter in found.letters.read(service, method):
                count += await found.letters.revive(letter)
            click.echo(f"put back {count} dead letters")
        for name, parts in zip(names, wanted, strict=True):
            letter_found = await found.letters.find(*parts)
            if letter_found is None:
                click.echo(f"natsmesh: there is no dead letter {name} (any more)", err=True)
                code = Exit.NOT_FOUND
                continue
            await _revive(found, letter_found)
    return code


async def _revive(found: Reach, letter: DeadLetter) -> None:
    from rpc.jetstream.api import JetStreamUnavailableError

    try:
        is_back = await found.letters.revive(letter)
    except JetStreamUnavailableError as error:
        raise Failure(f"{letter.name} cannot go back: {letter.origin} is stored nowhere any more ({error})") from error
    click.echo(f"{letter.name}  {'put back' if is_back else 'nothing to do: it has ended, or was put back meanwhile'}")
