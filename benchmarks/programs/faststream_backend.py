"""FastStream service.

NATS_URL=nats://... python -m benchmarks.programs.faststream_backend
"""

import uvloop
from faststream import FastStream

from benchmarks.programs.fastapi_gateway import SUBJECT, HelloReply, HelloRequest, broker


@broker.subscriber(SUBJECT, queue="q")
async def say_hello(request: HelloRequest) -> HelloReply:
    return HelloReply(message=f"Hello, {request.name}!")


if __name__ == "__main__":
    uvloop.run(FastStream(broker, logger=None).run())
