"""One back-end of the drill service, as a process of its own. It writes what happens to its calls into a journal."""

import argparse
import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import uvloop

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "gen")]

import rpc  # noqa: E402 - the paths come first
from tests.integration import drill  # noqa: E402


class Backend:
    """Does what each request says: ``sleep`` seconds, ``fail`` with a code, ``size`` bytes, call a ``nested`` one."""

    def __init__(self, options: argparse.Namespace, channel: rpc.Channel) -> None:
        self._name = options.name
        self._channel = channel
        # Unbuffered appends of one line: several processes may share the file, and a killed one leaves whole lines.
        self._journal = Path(options.journal).open("ab", buffering=0)  # noqa: SIM115 - open as long as the process is

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


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--journal", required=True)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--queue", type=int, default=100)
    parser.add_argument("--grace", type=float, default=10.0)
    options = parser.parse_args()

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
    print(json.dumps({"instance": server.instance}), flush=True)
    await stop.wait()
    await server.stop(options.grace)
    await channel.close()
    await connection.close()


if __name__ == "__main__":
    uvloop.run(main())
