"""A worker of ``Lab`` as a process: ``python lab_process.py URL PREFIX FOLDER``. It writes what it does into a journal.

What a request says: ``sleep 0.1``; ``hang`` or ``report`` progress (for ever, on its first attempt); ``die`` (kills its
process).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import rpc
from tests.jobs.lab import lab


async def main(url: str, prefix: str, folder: Path) -> None:
    lab.use(folder)

    def note(*words: object) -> None:
        with (folder / f"journal-{prefix}").open("a") as journal:
            print(os.getpid(), *words, file=journal)

    class Worker(lab.grpc.LabServicer):
        async def Work(self, request: Any, context: Any) -> Any:
            note("begun", request.request_id, context.attempt)
            what, _, argument = request.what.partition(" ")
            if what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "hang" and context.attempt == 1:
                await asyncio.sleep(3600)
            if what == "sleep":
                await asyncio.sleep(float(argument))
            if what == "report" and context.attempt == 1:
                try:
                    while True:
                        await context.report(lab.pb.Progress(percent=1))
                        await asyncio.sleep(0.1)
                except asyncio.CancelledError:
                    note("cancelled", request.request_id, context.attempt)
                    raise
            note("done", request.request_id, context.attempt)
            return lab.pb.WorkResponse(done=request.what, attempt=context.attempt)

        Many = Hasty = Work

    server = rpc.Server(url, prefix=prefix)
    lab.grpc.add_LabServicer_to_server(Worker(), server)
    await server.start()
    note("ready")
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    await server.stop(5)
    note("stopped")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
