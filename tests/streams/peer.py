"""One end in a process of its own: ``python -m tests.streams.peer server|client URL [LIMIT]``.

It tells its state, one JSON object a line. LIMIT: seconds of silence after which it gives up.
"""

import asyncio
import json
import sys

import rpc
from tests.streams.buses import LIMIT, handlers, leftovers, options
from tests.streams.standing import Handlers, stand_all


def tell(**state: object) -> None:
    print(json.dumps(state), flush=True)


async def serve(url: str, limit: float) -> None:
    """Serves until it is killed."""
    standing = Handlers()
    server = rpc.Server(url, options=options(limit=limit))
    server.add_generic_rpc_handlers([handlers(**standing.behaviors)])
    await server.start()
    while True:
        tell(running=standing.running, left=leftovers(server), started=standing.running + len(standing.ended))
        await asyncio.sleep(0.05)


async def call(url: str, limit: float) -> None:
    """Opens calls and waits for their ends."""
    channel = rpc.Channel(url, options=options(limit=limit))
    standing = await stand_all(channel)
    codes: dict[str, str] = {}

    async def wait(index: int) -> None:
        codes[standing[index].name] = (await standing[index].code()).name

    waiting = [asyncio.ensure_future(wait(index)) for index in range(len(standing))]
    while True:
        tell(open=len(standing) - len(codes), codes=codes, left=leftovers(channel))
        await asyncio.sleep(0.05)
        if all(one.done() for one in waiting):
            for one in waiting:
                one.result()


if __name__ == "__main__":
    run = serve if sys.argv[1] == "server" else call
    asyncio.run(run(sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else LIMIT))
