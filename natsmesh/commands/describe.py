"""``natsmesh describe``: a service as it describes itself on the bus."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from natsmesh.commands.list import conflict_objects, conflicts_text, indent
from natsmesh.exits import Exit, Failure
from natsmesh.options import Mesh, json_option, mesh_options

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

    from natsmesh.conflicts import Conflict
    from natsmesh.mesh import Instance
    from natsmesh.schema import Schema


@click.command("describe")
@click.argument("name", metavar="SERVICE[/METHOD]")
@json_option
@mesh_options()
def command(name: str, as_json: bool, mesh: Mesh) -> None:
    """Describe a service: its methods, HTTP routes and messages, as proto text learned from the bus.

    Routes that other methods claim as well are named.
    """
    service, _, method = name.removeprefix("/").partition("/")
    instances, schema, conflicts = asyncio.run(_ask(mesh, service, method))
    methods = _methods(schema, service, method)
    if as_json:
        facts = _object(service, instances, schema, methods)
        click.echo(json.dumps({**facts, "conflicts": conflict_objects(conflicts, service)}, indent=2))
    else:
        click.echo(_text(service, method or None, instances, schema, methods))
        if conflicts:
            click.echo(f"\n{conflicts_text(conflicts)}")


async def _ask(mesh: Mesh, service: str, method: str) -> tuple[list[Instance], Schema, list[Conflict]]:
    import rpc
    from natsmesh.conflicts import find_conflicts
    from natsmesh.mesh import find, read_instances, schema_of

    connection = await mesh.connect("natsmesh describe")
    try:
        instances = await find(connection, service, mesh.prefix)
        schema = await schema_of(connection, instances, mesh.prefix)
        everybody = read_instances(await rpc.discover(connection, "info"), mesh.prefix)
        found = await find_conflicts(connection, everybody, mesh.prefix)
        name = f"{service}/{method}"
        return (
            instances,
            schema,
            [each for each in found if (name in each.methods if method else each.concerns(service))],
        )
    finally:
        await connection.close()


def _methods(schema: Schema, service: str, method: str) -> list[MethodDescriptor]:
    from natsmesh.mesh import unknown_method

    try:
        methods = {each.name: each for each in schema.service(service).methods}
    except ValueError as error:
        raise Failure(str(error), Exit.NOT_FOUND) from error
    if not method:
        return list(methods.values())
    if method not in methods:
        raise unknown_method(service, method, methods)
    return [methods[method]]


def _text(
    service: str, only: str | None, instances: list[Instance], schema: Schema, methods: list[MethodDescriptor]
) -> str:
    from natsmesh.examples import curl
    from natsmesh.proto_text import ProtoText
    from natsmesh.table import table

    versions = sorted({instance.version for instance in instances}, reverse=True)
    parts = [f"{service}: {_count(len(instances), 'instance')}, version {', '.join(versions)}"]
    names = schema.type_names()
    printers = {file.name: ProtoText(file, names, schema.pool) for file in schema.files.values()}
    descriptor = schema.service(service)
    parts.append(printers[descriptor.file.name].service(descriptor.name, only).rstrip())
    parts += [printers[file].type(name).rstrip() for file, name in schema.types_of(methods)]
    routes = [
        [f"{route.verb} {route.template}", method.name, f"body: {route.body}" if route.body else ""]
        for method in methods
        for route in schema.routes(method)
    ]
    routes += [[f"POST /{service}/{method.name}", method.name, "Connect"] for method in methods if _is_unary(method)]
    if routes:
        parts.append("HTTP routes\n" + indent(table(["ROUTE", "METHOD", ""], routes)))
    commands = [text for method in methods if (text := curl(schema, method, "localhost:8080"))]
    if commands:
        parts.append("Try\n" + indent("\n".join(commands)))
    return "\n\n".join(parts)


def _object(service: str, instances: list[Instance], schema: Schema, methods: list[MethodDescriptor]) -> dict[str, Any]:
    from natsmesh.examples import example

    return {
        "service": service,
        "versions": sorted({instance.version for instance in instances}, reverse=True),
        "instances": [instance.id for instance in instances],
        "schema": instances[0].digest,
        "file": schema.service(service).file.name,
        "methods": [
            {
                "name": method.name,
                "request": method.input_type.full_name,
                "response": method.output_type.full_name,
                "client_streaming": method.client_streaming,
                "server_streaming": method.server_streaming,
                "routes": [
                    {"method": each.verb, "path": each.template, "body": each.body} for each in schema.routes(method)
                ],
                "example": example(method.input_type),
            }
            for method in methods
        ],
    }


def _is_unary(method: MethodDescriptor) -> bool:
    return not (method.client_streaming or method.server_streaming)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
