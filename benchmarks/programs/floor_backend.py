"""Echoes every message, in nats-py's own callback.

python -m benchmarks.programs.floor_backend <nats url>
"""

import asyncio
import sys

import nats
import uvloop
from nats.aio.msg import Msg

from benchmarks.programs.floor_gateway import SUBJECT


async def echo(message: Msg) -> None:
    await message.respond(message.data)


async def main() -> None:
    connection = await nats.connect(sys.argv[1])
    await connection.subscribe(SUBJECT, queue="q", cb=echo)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
