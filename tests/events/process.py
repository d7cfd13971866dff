"""A subscriber that the tests kill: ``python -m tests.events.process URL PREFIX LEDGER``.

It writes each event's id into a file once it is done with it, and holds on to those whose id begins with ``hold``.
"""

import asyncio
import sys
from typing import Any

from google.protobuf import empty_pb2
from stage.v1 import stage_pb2_grpc

import rpc


class Mail(stage_pb2_grpc.MailServicer):
    """Notes what it gets."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def OnPlaced(self, event: Any, context: rpc.EventContext) -> empty_pb2.Empty:
        self._note(f"began {event.id}")
        if event.id.startswith("hold") and context.deliveries[0].attempt == 1:
            await asyncio.Event().wait()
        await asyncio.sleep(0.002)
        self._note(f"did {event.id}")
        return empty_pb2.Empty()

    def _note(self, what: str) -> None:
        with open(self._path, "a", encoding="utf-8") as file:  # noqa: PTH123 - a line, at once
            file.write(f"{what}\n")


async def main(url: str, prefix: str, path: str) -> None:
    server = rpc.Server(url, prefix=prefix)
    stage_pb2_grpc.add_MailServicer_to_server(Mail(path), server)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
