"""``natsmesh events list``: types of events, and their groups."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import click

from natsmesh.options import Mesh, json_option, mesh_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rpc.events.groups import EventType


@click.command("list")
@json_option
@mesh_options()
def command(as_json: bool, mesh: Mesh) -> None:
    """List the types of events, how many are kept, and of each group that handles them how far behind it is."""
    kinds, dead = asyncio.run(_ask(mesh))
    if as_json:
        click.echo(json.dumps([_object(kind, dead) for kind in kinds], indent=2))
    elif not kinds:
        click.echo(f"there are no events at {mesh.url}", err=True)
    else:
        click.echo(_text(kinds, dead))


async def _ask(mesh: Mesh) -> tuple[list[EventType], dict[tuple[str, str], int]]:
    from natsmesh.jobs.reach import reach
    from rpc.events.groups import event_types

    async with reach(mesh, "events list") as found:
        kinds = await event_types(found.js, found.subjects)
        names = [(group.service, group.method) for kind in kinds for group in kind.groups if group.method]
        return kinds, {name: await found.letters.count(*name) for name in names}


def _text(kinds: Sequence[EventType], dead: dict[tuple[str, str], int]) -> str:
    from natsmesh.jobs.text import duration
    from natsmesh.table import table

    rows = [
        [
            kind.event,
            str(kind.messages),
            str(kind.bytes),
            "-" if kind.oldest is None else duration(max(0.0, time.time() - kind.oldest)),
        ]
        for kind in kinds
    ]
    text = table(["EVENT", "KEPT", "BYTES", "OLDEST"], rows, right=range(1, 4))
    rows = [
        [
            f"{group.service}/{group.method}".rstrip("/"),
            kind.event,
            str(group.lag),
            str(group.in_flight),
            str(dead.get((group.service, group.method), 0)),
            "yes" if group.has_subscribers or group.in_flight else "no",
        ]
        for kind in kinds
        for group in kind.groups
    ]
    if not rows:
        return text
    head = ["GROUP", "EVENT", "BEHIND", "IN FLIGHT", "DEAD", "ACTIVE"]
    return f"{text}\n\n{table(head, rows, right=range(2, 5))}"


def _object(kind: EventType, dead: dict[tuple[str, str], int]) -> dict[str, Any]:
    return {
        "event": kind.event,
        "stream": kind.stream,
        "messages": kind.messages,
        "bytes": kind.bytes,
        "oldest_age": None if kind.oldest is None else round(max(0.0, time.time() - kind.oldest), 3),
        "groups": [
            {
                "service": group.service,
                "method": group.method,
                "behind": group.lag,
                "in_flight": group.in_flight,
                "dead": dead.get((group.service, group.method), 0),
                "active": group.has_subscribers or group.in_flight > 0,
            }
            for group in kind.groups
        ],
    }
