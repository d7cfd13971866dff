"""``natsmesh logs``: the log records of the mesh, as its collector keeps them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from natsmesh.exits import Exit, Failure
from natsmesh.log_lines import LEVELS, as_json, as_text, severity_of
from natsmesh.options import Mesh, json_option, mesh_options
from natsmesh.quantities import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from mesh.v1 import log_pb2, logs_pb2_grpc

_SERVICE = "mesh.v1.Logs"
_TIMEOUT = 30.0
_PAGE = 1000
_PAUSE = 1.0


@click.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--service", default="", metavar="NAME", help="Logged by this service.")
@click.option(
    "--level",
    "min_severity",
    type=click.Choice(LEVELS, case_sensitive=False),
    callback=lambda _context, _parameter, level: 0 if level is None else severity_of(level),
    help="As grave as this, or graver.",
)
@click.option("--trace", "trace_id", default="", metavar="ID", help="Of this trace: 32 hexadecimal digits.")
@click.option("--text", default="", help="With this in the message, upper or lower case.")
@click.option("--since", type=SECONDS, help="Not older than this: 30s, 5m, 2h.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, 100_000),
    help="The latest so many records: 100, or 10000 with --since. With --follow, all since then come.",
)
@json_option
@mesh_options()
def command(follow: bool, since: float | None, lines: int | None, as_json: bool, mesh: Mesh, **asked: Any) -> int:
    """Print log records: those of rpc.LogHandler, of `NATSMESH_LOGS=mesh`, and of `natsmesh syslog`.

    A collector has to run (services.logs:Logs, see docs/logs.md).

    Example: natsmesh logs --follow --service shop.v1.Orders --level warn
    """
    begin = None if since is None else time.time() - since
    show = _printer(as_json)
    if follow:
        return asyncio.run(_follow(mesh, asked, begin, show))
    return asyncio.run(_list(mesh, asked, begin, lines, show))


def _printer(json: bool) -> Callable[[log_pb2.LogRecord], None]:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def show(record: log_pb2.LogRecord) -> None:
        print(as_json(record) if json else as_text(record, colour=colour), flush=True)  # noqa: T201 - what it is for

    return show


async def _list(
    mesh: Mesh,
    asked: dict[str, Any],
    begin: float | None,
    lines: int | None,
    show: Callable[[log_pb2.LogRecord], None],
) -> int:
    import grpc

    from mesh.v1 import logs_pb2

    limit = lines or (100 if begin is None else 10_000)
    request = logs_pb2.ListLogRecordsRequest(**asked)
    if begin is not None:
        request.start_time.FromNanoseconds(int(begin * 1e9))
    records: list[log_pb2.LogRecord] = []
    connection, stub = await _connect(mesh)
    try:
        while len(records) < limit:
            request.page_size = min(_PAGE, limit - len(records))
            answer = await stub.ListLogRecords(request, timeout=_TIMEOUT)
            records.extend(answer.records)
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
    except grpc.aio.AioRpcError as error:
        raise _failure(error, connection.url) from error
    finally:
        await connection.close()
    for record in reversed(records):
        show(record)
    if request.page_token and lines is None:
        click.echo(f"natsmesh: these are the latest {limit}; there are more (-n)", err=True)
    return Exit.OK


async def _follow(
    mesh: Mesh, asked: dict[str, Any], begin: float | None, show: Callable[[log_pb2.LogRecord], None]
) -> int:
    """Print what comes; a collector that goes away and comes back is asked for what was missed."""
    import grpc

    from mesh.v1 import logs_pb2

    request = logs_pb2.FollowLogRecordsRequest(**asked)
    request.start_time.FromNanoseconds(int((time.time() if begin is None else begin) * 1e9))
    connection, stub = await _connect(mesh)
    try:
        try:  # Is anybody there? Is what was asked a question?
            await stub.ListLogRecords(logs_pb2.ListLogRecordsRequest(**asked, page_size=1), timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise _failure(error, connection.url) from error
        while True:
            try:
                async for answer in stub.FollowLogRecords(request):
                    request.resume_token = answer.resume_token
                    show(answer.record)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise _failure(error, connection.url) from error
            await asyncio.sleep(_PAUSE)
    finally:
        await connection.close()


async def _connect(mesh: Mesh) -> tuple[Any, logs_pb2_grpc.LogsAsyncStub]:
    import rpc
    from mesh.v1 import logs_pb2_grpc

    connection = await mesh.connect("natsmesh logs")
    return connection, logs_pb2_grpc.LogsStub(rpc.Channel(connection, prefix=mesh.prefix))


def _failure(error: grpc.aio.AioRpcError, url: str) -> Failure:
    import grpc

    from rpc.status import code_number

    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Failure(
            f"no collector serves {_SERVICE} at {url}: start one, e.g. "
            "`LOGS_DB=logs.duckdb natsmesh serve services.logs:Logs`",
            Exit.NOT_FOUND,
        )
    return Failure(f"{error.code().name}: {error.details()}", Exit.STATUS + code_number(error.code()))
