"""``natsmesh call``: one call to any unary method, without generated code."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from natsmesh.exits import Exit, Failure
from natsmesh.options import Mesh, mesh_options, timeout_option

if TYPE_CHECKING:
    from google.protobuf.message import Message

    import rpc
    from natsmesh.schema import Schema


@click.command("call")
@click.argument("method", metavar="PKG.SERVICE/METHOD")
@click.argument("request", metavar="[JSON]", default="{}")
@click.option("-H", "--header", "headers", metavar="'KEY: VALUE'", multiple=True, help="Metadata; -bin keys in base64.")
@click.option("-v", "--verbose", is_flag=True, help="Print the metadata of the answer to standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer on one line, and errors as JSON.")
@timeout_option(10.0)
@mesh_options()
def command(
    method: str, request: str, headers: tuple[str, ...], verbose: bool, as_json: bool, timeout: float, mesh: Mesh
) -> int:
    """Call a unary method; its schema is learned from the bus.

    The request is JSON as protobuf defines it; - reads it from standard input; without one, the message is empty.
    Exits with 64 + the gRPC status code when the call fails.

    Example: natsmesh call greeter.v1.Greeter/SayHello '{"name": "you"}'
    """
    text = sys.stdin.read() if request == "-" else request
    return asyncio.run(_call(mesh, method, text, [_header(each) for each in headers], timeout, verbose, as_json))


async def _call(
    mesh: Mesh,
    method: str,
    text: str,
    metadata: list[tuple[str, str | bytes]],
    timeout: float,
    verbose: bool,
    as_json: bool,
) -> int:
    import rpc
    from natsmesh.mesh import find, schema_of, split_method, unknown_method
    from rpc.status import code_number

    service, name = split_method(method)
    connection = await mesh.connect("natsmesh call")
    try:
        schema = await schema_of(connection, await find(connection, service, mesh.prefix), mesh.prefix)
        methods = {each.name: each for each in schema.service(service).methods}
        if name not in methods:
            raise unknown_method(service, name, methods)
        descriptor = methods[name]
        if descriptor.client_streaming or descriptor.server_streaming:
            raise Failure(f"{service}/{name} is a stream; `natsmesh call` makes unary calls", Exit.USAGE)
        message = _parse(text, schema, descriptor.input_type.full_name)
        channel = rpc.Channel(connection, prefix=mesh.prefix, options=[("grpc.max_receive_message_length", -1)])
        call = rpc.Call(
            rpc.MethodInfo.from_descriptor(descriptor),
            message.SerializeToString(),
            metadata=_checked(metadata),
            deadline=asyncio.get_running_loop().time() + timeout,
        )
        try:
            await channel.invoke(call)
        except rpc.StatusError as error:
            _show_metadata(call, verbose)
            _show_error(error, call, schema, as_json)
            return Exit.STATUS + code_number(error.code)
        finally:
            await channel.close()
        _show_metadata(call, verbose)
        answer = schema.message_class(descriptor.output_type.full_name).FromString(call.response or b"")
        click.echo(_json(answer, schema, as_json))
        return Exit.OK
    finally:
        await connection.close()


def _parse(text: str, schema: Schema, full_name: str) -> Message:
    from google.protobuf import json_format

    message = schema.message_class(full_name)()
    try:
        json_format.Parse(text, message, descriptor_pool=schema.pool)
    except json_format.ParseError as error:
        from natsmesh.examples import example

        shape = json.dumps(example(schema.pool.FindMessageTypeByName(full_name)), ensure_ascii=False)
        raise Failure(f"the request is no {full_name}: {error}\nExpected e.g. {shape}", Exit.USAGE) from error
    return message


def _json(message: Message, schema: Schema, one_line: bool) -> str:
    from google.protobuf import json_format

    return json_format.MessageToJson(
        message, descriptor_pool=schema.pool, indent=None if one_line else 2, ensure_ascii=False
    )


def _header(text: str) -> tuple[str, str | bytes]:
    key, separator, value = text.partition(":")
    key, value = key.strip().lower(), value.strip()
    if not separator or not key:
        raise Failure(f"-H {text!r}: expected 'key: value'", Exit.USAGE)
    if not key.endswith("-bin"):
        return key, value
    try:
        return key, base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise Failure(f"-H {text!r}: the value of a -bin key is base64: {error}", Exit.USAGE) from error


def _checked(metadata: list[tuple[str, str | bytes]]) -> rpc.Metadata:
    import rpc

    try:
        return rpc.normalize_metadata(metadata)
    except ValueError as error:
        raise Failure(f"-H: {error}", Exit.USAGE) from error


def _show_metadata(call: rpc.Call, verbose: bool) -> None:
    if not verbose:
        return
    for kind, pairs in (("header", call.initial_metadata), ("trailer", call.trailing_metadata)):
        for key, value in pairs:
            text = value if isinstance(value, str) else base64.b64encode(value).decode()
            click.echo(f"{kind} {key}: {text}", err=True)


def _show_error(error: rpc.StatusError, call: rpc.Call, schema: Schema, as_json: bool) -> None:
    details = _details(call, schema)
    if as_json:
        click.echo(json.dumps({"code": error.code.name, "message": error.details, "details": details}), err=True)
        return
    click.echo(f"{error.code.name}: {error.details}", err=True)
    for detail in details:
        click.echo(f"  {json.dumps(detail, ensure_ascii=False)}", err=True)


def _details(call: rpc.Call, schema: Schema) -> list[Any]:
    """Return the rich details of an error (google.rpc.Status) as JSON values; unknown kinds by their name only."""
    from google.protobuf import json_format
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2  # noqa: F401 - the details that google.rpc defines

    from rpc.metadata import STATUS_DETAILS_KEY

    status = status_pb2.Status()
    for key, value in call.trailing_metadata:
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:
                return []
    found: list[Any] = []
    for detail in status.details:
        for pool in (schema.pool, None):
            try:
                found.append(json_format.MessageToDict(detail, descriptor_pool=pool))
                break
            except (TypeError, DecodeError):
                continue
        else:
            found.append({"@type": detail.type_url})
    return found
