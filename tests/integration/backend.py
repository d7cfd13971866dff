"""One back-end of the drill service, as a process of its own. It writes what happens to its calls into a journal."""

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import uvloop

import rpc
import rpc.transport.nats  # imported here, it is there already in every process that is forked
from tests.integration import drill


@dataclass(frozen=True)
class Options:
    """What a back-end is to be like."""

    url: str
    name: str
    journal: Path
    log: Path
    prefix: str = ""
    version: str = "1.0.0"
    concurrency: int = 100
    queue: int = 100
    grace: float = 10.0


class Backend:
    """Does what each request says: ``sleep`` seconds, ``fail`` with a code, ``size`` bytes, call a ``nested`` one."""

    def __init__(self, options: Options, channel: rpc.Channel) -> None:
        self._name = options.name
        self._channel = channel
        # Unbuffered appends of one line: several processes may share the file, and a killed one leaves whole lines.
        self._journal = options.journal.open("ab", buffering=0)

    def note(self, event: str, request: dict[str, Any]) -> None:
        line = {"event": event, "by": self._name, "id": request.get("id"), "at": time.monotonic()}
        self._journal.write(json.dumps(line).encode() + b"\n")

    async def work(self, request: dict[str, Any], context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, Any]:
        self.note("started", request)
        reply: dict[str, Any] = {"by": self._name, "remaining": context.time_remaining()}
        try:
            if "block" in request:
                time.sleep(request["block"])  # noqa: ASYNC251 - blocks the event loop, as bad handlers do
            if "sleep" in request:
                await asyncio.sleep(request["sleep"])
            if "nested" in request:
                reply["nested"] = await drill.method(self._channel)(request["nested"])
            if "fail" in request:
                await context.abort(grpc.StatusCode[request["fail"]], request.get("details", ""))
        except asyncio.CancelledError:
            self.note("cancelled", request)
            raise
        except grpc.aio.AioRpcError as error:
            self.note(f"nested {error.code().name}", request)
            raise
        self.note("ended", request)
        if "size" in request:
            reply["padding"] = "x" * request["size"]
        return reply


async def serve(options: Options, ready: Connection) -> None:
    """Serve until SIGTERM comes; ``ready`` is told the id of the instance."""
    connection = await rpc.connect(options.url, name=options.name)
    channel = rpc.Channel(connection, prefix=options.prefix)
    server = rpc.Server(
        connection,
        prefix=options.prefix,
        version=options.version,
        maximum_concurrent_rpcs=options.concurrency,
        maximum_queued_rpcs=options.queue,
    )
    server.add_generic_rpc_handlers([drill.handlers(Backend(options, channel).work)])
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    ready.send(server.instance)
    ready.close()
    await stop.wait()
    await server.stop(options.grace)
    await channel.close()
    await connection.close()


def run(options: Options, ready: Connection) -> None:
    """Be a back-end; what it says goes to the log."""
    with options.log.open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    uvloop.run(serve(options, ready))
