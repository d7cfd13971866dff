"""``natsmesh list``: what is served on the mesh."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from natsmesh.options import Mesh, json_option, mesh_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from natsmesh.conflicts import Conflict
    from natsmesh.mesh import Instance


@click.command("list")
@click.option("--instances", "by_instance", is_flag=True, help="One line for each instance instead of each service.")
@json_option
@mesh_options()
def command(by_instance: bool, as_json: bool, mesh: Mesh) -> None:
    """List the services on the mesh: versions, instances, calls and load, as the back-ends report them.

    HTTP routes that several methods claim are listed below.
    """
    instances, conflicts = asyncio.run(_ask(mesh))
    services: dict[str, list[Instance]] = {}
    for instance in instances:
        services.setdefault(instance.service, []).append(instance)
    if as_json:
        click.echo(json.dumps([_object(name, services[name], conflicts) for name in sorted(services)], indent=2))
    elif not services:
        click.echo(f"nothing is served at {mesh.url}: start something with `natsmesh serve`", err=True)
    else:
        click.echo(_by_instance(services) if by_instance else _by_service(services))
        if conflicts:
            click.echo(f"\n{conflicts_text(conflicts)}")


async def _ask(mesh: Mesh) -> tuple[list[Instance], list[Conflict]]:
    import rpc
    from natsmesh.conflicts import find_conflicts
    from natsmesh.mesh import read_instances

    connection = await mesh.connect("natsmesh list")
    try:
        instances = read_instances(await rpc.discover(connection, "stats"), mesh.prefix)
        return instances, await find_conflicts(connection, instances, mesh.prefix)
    finally:
        await connection.close()


def conflicts_text(conflicts: Sequence[Conflict]) -> str:
    """Return conflicting routes for people."""
    from natsmesh.table import table

    rows = [[conflict.route, conflict.methods[0], ", ".join(conflict.methods[1:])] for conflict in conflicts]
    explanation = "A gateway keeps serving the one that it found first; one that starts now takes the left one."
    return f"Conflicting HTTP routes\n{indent(table(['ROUTE', 'METHOD', 'ALSO CLAIMED BY'], rows))}\n  {explanation}"


def conflict_objects(conflicts: Sequence[Conflict], service: str) -> list[dict[str, Any]]:
    """Return the conflicting routes of a service for programs."""
    return [
        {"route": conflict.route, "methods": list(conflict.methods)}
        for conflict in conflicts
        if conflict.concerns(service)
    ]


def indent(text: str) -> str:
    """Move every line two columns to the right."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def _by_service(services: dict[str, list[Instance]]) -> str:
    from natsmesh.table import table

    rows = []
    for name, instances in sorted(services.items()):
        versions = ", ".join(_versions(instances))
        rows.append([name, versions, str(len(instances)), *_numbers(instances)])
    return table(["SERVICE", "VERSIONS", "INSTANCES", *_HEADS], rows, right=range(2, 8))


def _by_instance(services: dict[str, list[Instance]]) -> str:
    from natsmesh.table import table

    rows = [
        [name, instance.version, instance.id, *_numbers([instance])]
        for name, instances in sorted(services.items())
        for instance in instances
    ]
    return table(["SERVICE", "VERSION", "INSTANCE", *_HEADS], rows, right=range(3, 8))


_HEADS = ("RUNNING", "WAITING", "CALLS", "ERRORS", "AVERAGE")


def _numbers(instances: list[Instance]) -> list[str]:
    calls, errors, nanoseconds = (
        sum(instance.total(key) for instance in instances) for key in ("num_requests", "num_errors", "processing_time")
    )
    running, waiting, limit = (
        sum(instance.load.get(key, 0) for instance in instances) for key in ("running", "waiting", "limit")
    )
    average = f"{nanoseconds / calls / 1e6:.2f} ms" if calls else "-"
    return [f"{running}/{limit}", str(waiting), str(calls), str(errors), average]


def _versions(instances: list[Instance]) -> list[str]:
    from rpc.discovery.versions import version_key

    return sorted({instance.version for instance in instances}, key=version_key, reverse=True)


def _object(name: str, instances: list[Instance], conflicts: Sequence[Conflict]) -> dict[str, Any]:
    return {
        "service": name,
        "versions": _versions(instances),
        "instances": [
            {
                "id": instance.id,
                "version": instance.version,
                "schema": instance.digest,
                "started": instance.reply.get("started"),
                "load": instance.load,
                "methods": [
                    {
                        key: endpoint.get(key)
                        for key in ("name", "num_requests", "num_errors", "last_error", "average_processing_time")
                    }
                    for endpoint in instance.endpoints
                ],
            }
            for instance in instances
        ],
        "conflicts": conflict_objects(conflicts, name),
    }
