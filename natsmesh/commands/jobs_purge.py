"""``natsmesh jobs purge``: cancels all that waits, or removes dead letters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from natsmesh.options import Mesh, mesh_options

if TYPE_CHECKING:
    from natsmesh.jobs.reach import Reach

_AT_ONCE = 64
_WAITING = ("QUEUED", "RETRYING", "SCHEDULED")


@click.command("purge")
@click.argument("which", metavar="SERVICE[/METHOD]")
@click.option("--dead", is_flag=True, help="The dead letters instead, of jobs and of events.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@mesh_options()
def command(which: str, dead: bool, yes: bool, mesh: Mesh) -> int:
    """Cancel all jobs that wait: in the queue, for their next attempt, or for their time.

    Those that run go on. With --dead, dead letters are removed for good.
    """
    return asyncio.run(_purge(which, dead, yes, mesh))


async def _purge(which: str, dead: bool, yes: bool, mesh: Mesh) -> int:
    from natsmesh.exits import Exit
    from natsmesh.jobs.reach import reach, split

    service, method = split(which)
    async with reach(mesh, "jobs purge") as found:
        count = await found.letters.count(service, method) if dead else await _count(found, service, method)
        what = "dead letters" if dead else "jobs that wait or run"
        if not count:
            click.echo(f"there are no {what} of {which}")
            return Exit.OK
        if not yes:
            question = (
                f"Remove {count} {what} of {which}" if dead else f"Cancel what waits of {count} {what} of {which}"
            )
            await asyncio.to_thread(click.confirm, question, abort=True)
        if dead:
            click.echo(f"removed {await found.letters.purge(service, method)} dead letters")
        else:
            click.echo(f"cancelled {await _cancel_all(found, service, method)} jobs")
    return Exit.OK


async def _count(found: Reach, service: str, method: str) -> int:
    from rpc.jobs.layout import queue_name

    stream = queue_name(found.subjects, service)
    return (await found.js.oldest(stream, found.subjects.any_jobs_of(service, method or "*")))[1]


async def _cancel_all(found: Reach, service: str, method: str) -> int:
    from natsmesh.jobs.reach import name_of
    from natsmesh.jobs.text import state_of
    from rpc.status import StatusError

    parent = f"operations/{service}/{method}".rstrip("/")
    slots = asyncio.Semaphore(_AT_ONCE)
    cancelled = 0

    async def cancel(job: Any) -> None:
        nonlocal cancelled
        async with slots:
            try:
                await found.operations.cancel(name_of(job.name))
            except StatusError:
                return  # It has ended meanwhile, and its record, too.
            cancelled += 1

    token = ""
    while True:
        page, token = await found.operations.listing.page(parent, "done=false", 1000, token)
        await asyncio.gather(*(cancel(job) for job in page if state_of(job) in _WAITING))
        if not token:
            return cancelled
