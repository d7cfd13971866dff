"""``natsmesh events replay``: a group handles events again, from a time on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from natsmesh.exits import Exit, Failure
from natsmesh.options import Mesh, mesh_options

if TYPE_CHECKING:
    from rpc.events.groups import EventType, Group


@click.command("replay")
@click.argument("which", metavar="SERVICE/METHOD")
@click.option(
    "--from",
    "since",
    metavar="TIME",
    required=True,
    callback=lambda _context, _parameter, value: _time(value),
    help="2030-01-31T06:00:00Z, or how long ago: 30m, 2h; `all`: from the oldest event that is kept.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@mesh_options()
def command(which: str, since: datetime, yes: bool, mesh: Mesh) -> None:
    """Have a group handle all events again that came at a time or later, and then go on with what comes.

    Only this method gets them, not the other groups. Its processes may run meanwhile. What it has handled since then is
    handled again: its handler must be able to bear that.
    """
    asyncio.run(_replay(which, since, yes, mesh))


def _time(text: str) -> datetime:
    if text == "all":
        return datetime(1970, 1, 1, tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        from natsmesh.quantities import SECONDS

        try:
            return datetime.now(UTC) - timedelta(seconds=SECONDS.parse(text))
        except (ValueError, OverflowError):
            raise click.BadParameter(f"{text!r}: expected a time (2030-01-31T06:00:00Z) or how long ago (2h)") from None
    return moment.astimezone(UTC) if moment.tzinfo is not None else moment.astimezone().astimezone(UTC)


async def _replay(which: str, since: datetime, yes: bool, mesh: Mesh) -> None:
    from natsmesh.jobs.reach import reach, split
    from rpc.events.groups import event_types, replay
    from rpc.jetstream.specs import StreamError

    service, method = split(which)
    async with reach(mesh, "events replay") as found:
        kind, group = _find(await event_types(found.js, found.subjects), service, method)
        text = f"Handle events of {kind.event} again by {which}, from {since.isoformat(timespec='seconds')} on"
        if not yes:
            await asyncio.to_thread(
                click.confirm, f"{text}; it sees those a second time that it has handled", abort=True
            )
        try:
            count = await replay(found.js, kind, group, since)
        except StreamError as error:
            raise Failure(str(error)) from error
    click.echo(f"{which} has {count} events before it" if count else "there are no events since then")


def _find(kinds: list[EventType], service: str, method: str) -> tuple[EventType, Group]:
    known = []
    for kind in kinds:
        for group in kind.groups:
            if (group.service, group.method) == (service, method):
                return kind, group
            known.append(f"{group.service}/{group.method}".rstrip("/"))
    raise Failure(
        f"no group {service}/{method} has ever handled events here; there is {', '.join(known) or 'none'}",
        Exit.NOT_FOUND,
    )
