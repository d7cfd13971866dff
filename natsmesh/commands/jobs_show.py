"""``natsmesh jobs show``: all that is known of one job, or one dead letter."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from natsmesh.options import Mesh, json_option, mesh_options

if TYPE_CHECKING:
    from natsmesh.jobs.reach import Reach
    from rpc.durable.letters import DeadLetter
    from rpc.jobs.names import JobName

_LINE = 400


@click.command("show")
@click.argument("name")
@json_option
@mesh_options()
def command(name: str, as_json: bool, mesh: Mesh) -> None:
    """Show a job: its state, attempts and errors, what it reported and returned, and its request.

    NAME is that of its operation (operations/SERVICE/METHOD/ID), or of a dead event (events/SERVICE/METHOD/NUMBER).
    Messages are shown as JSON, by the schema that the service has stored.
    """
    known = asyncio.run(_show(name, mesh))
    click.echo(json.dumps(known, indent=2, ensure_ascii=False) if as_json else _text(known))


async def _show(text: str, mesh: Mesh) -> dict[str, Any]:
    from natsmesh.exits import Exit, Failure
    from natsmesh.jobs.reach import event_name, name_of, reach
    from natsmesh.jobs.text import letter_object

    event = event_name(text)
    name = None if event else name_of(text)
    async with reach(mesh, "jobs show") as found:
        if event is not None:
            letter = await found.letters.find("events", *event)
            if letter is None:
                raise Failure(f"there is no dead letter {text} (any more)", Exit.NOT_FOUND)
            return letter_object(letter, await found.schema(letter.service), payload=True)
        assert name is not None  # noqa: S101 - it is one or the other
        return await _job(found, name)


async def _job(found: Reach, name: JobName) -> dict[str, Any]:
    from natsmesh.exits import Exit, Failure
    from natsmesh.jobs.text import job_object, letter_object, request_json

    record = await found.operations.find(name)
    letter: DeadLetter | None = await found.letters.find("jobs", *name)
    schema = await found.schema(name.service)
    if record is None and letter is None:
        raise Failure(f"there is no operation {name} (any more)", Exit.NOT_FOUND)
    if record is None:
        assert letter is not None  # noqa: S101 - it is one or the other
        return letter_object(letter, schema, payload=True)
    known = job_object(record.job, schema)
    stored = letter.stored if letter is not None else await found.operations.request_of(name)
    if letter is not None:
        known["dead_letter"] = True
    if stored is not None:
        known["request"] = request_json(name.service, name.method, stored.data, schema)
    return known


def _text(known: dict[str, Any]) -> str:
    from natsmesh.jobs.text import clean, cut

    lines = [known["name"]]
    for key, value in known.items():
        if key in {"name", "service", "method", "id", "history"} or isinstance(value, dict):
            continue
        lines.append(f"  {key.replace('_', ' '):<18}{clean(str(value))}")
    if error := known.get("error"):
        lines.append(f"  {'error':<18}{error['code']}: {clean(error['message'])}")
    if history := known.get("history"):
        lines.append("  failed attempts")
        for each in history:
            when = each.get("start_time", "-")
            error_text = f"{each['error']['code']}: {clean(each['error']['message'])}"
            lines.append(f"    {each['number']:>3}  {when:<30}  {error_text}")
    for key in ("headers", "request", "progress", "response"):
        if key in known:
            text = json.dumps(known[key], indent=2, ensure_ascii=False)
            lines.append(f"  {key}")
            # Bytes of megabytes are for --json.
            lines += [f"    {cut(line, _LINE)}" for line in text.splitlines()]
    return "\n".join(lines)
