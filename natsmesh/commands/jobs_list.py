"""``natsmesh jobs list``: jobs, or dead letters, page by page."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from natsmesh.options import Mesh, json_option, mesh_options

if TYPE_CHECKING:
    from natsmesh.jobs.reach import Reach

_WAITING = ("QUEUED", "RUNNING", "RETRYING", "SCHEDULED")
_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
_PAGE = 200
_ERROR = 60


@click.command("list")
@click.argument("which", metavar="[SERVICE[/METHOD]]", default="")
@click.option(
    "--state",
    "states",
    type=click.Choice([*_WAITING, *_ENDED], case_sensitive=False),
    multiple=True,
    help="Only jobs in this state; may be repeated.",
)
@click.option("--dead", is_flag=True, help="The dead letters instead: of jobs and of events.")
@click.option("-n", "--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="So many.")
@json_option
@mesh_options()
def command(which: str, states: tuple[str, ...], dead: bool, limit: int, as_json: bool, mesh: Mesh) -> None:
    """List jobs: first those that wait or run, in the order of their arrival, then those that ended.

    With --dead: what nobody could handle, and why. `natsmesh jobs retry` puts it back.
    """
    asyncio.run(_list(which, [state.upper() for state in states], dead, limit, as_json, mesh))


async def _list(which: str, states: list[str], dead: bool, limit: int, as_json: bool, mesh: Mesh) -> None:
    from natsmesh.jobs.reach import reach, split

    service, method = split(which)
    async with reach(mesh, "jobs list") as found:
        if dead:
            objects, rows, more = await _letters(found, service, method, limit)
            head = ["NAME", "ATTEMPTS", "AGE", "ERROR"]
        else:
            objects, rows, more = await _jobs(found, service, method, states, limit)
            head = ["NAME", "STATE", "ATTEMPT", "AGE", "NEXT", "ERROR"]
    if as_json:
        click.echo(json.dumps(objects, indent=2, ensure_ascii=False))
    elif not rows:
        click.echo(f"there are no {'dead letters' if dead else 'jobs'} of that kind at {mesh.url}", err=True)
    else:
        from natsmesh.table import table

        click.echo(table(head, rows, right=[1] if dead else [2]))
    if more:
        click.echo(f"natsmesh: there are more than {limit} (--limit)", err=True)


async def _jobs(
    found: Reach, service: str, method: str, states: list[str], limit: int
) -> tuple[list[Any], list[list[str]], bool]:
    from natsmesh.jobs.text import age_of, cut, error_of, job_object, next_of, state_of

    parent = "/".join(part for part in ("operations", service, method) if part)
    filter_text = f"state={states[0]}" if len(states) == 1 else ""
    for done, those in (("false", _WAITING), ("true", _ENDED)):
        if len(states) > 1 and set(states) <= set(those):
            filter_text = f"done={done}"
    jobs: list[Any] = []
    token = ""
    while True:
        page, token = await found.operations.listing.page(parent, filter_text, _PAGE, token)
        jobs += [job for job in page if not states or state_of(job) in states]
        if not token or len(jobs) > limit:
            break
    more, jobs = len(jobs) > limit, jobs[:limit]
    length = _ERROR if sys.stdout.isatty() else 1000
    rows = [
        [job.name, state_of(job), str(job.attempt), age_of(job), next_of(job), cut(error_of(job.error), length)]
        for job in jobs
    ]
    return [job_object(job) for job in jobs], rows, more


async def _letters(found: Reach, service: str, method: str, limit: int) -> tuple[list[Any], list[list[str]], bool]:
    import time

    from natsmesh.jobs.text import clean, cut, duration, letter_object
    from rpc.jetstream.migration import parse_time

    letters = []
    async for letter in found.letters.read(service, method):
        letters.append(letter)
        if len(letters) > limit:
            break
    more, letters = len(letters) > limit, letters[:limit]
    length = _ERROR if sys.stdout.isatty() else 2000
    rows = [
        [
            letter.name,
            str(letter.attempts),
            duration(max(0.0, time.time() - parse_time(letter.stored.time).timestamp())),
            cut(clean(f"{letter.code}: {letter.message}"), length),
        ]
        for letter in letters
    ]
    return [letter_object(letter) for letter in letters], rows, more
