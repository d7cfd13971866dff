"""FastAPI application that asks a FastStream service over NATS."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from faststream.nats import NatsBroker
from pydantic import BaseModel

SUBJECT = "greeter.say_hello"


class HelloRequest(BaseModel):
    name: str


class HelloReply(BaseModel):
    message: str


broker = NatsBroker(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), logger=None)  # no line of log a message


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with broker:
        await broker.start()
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/greeter.v1.Greeter/SayHello")
async def say_hello(request: HelloRequest) -> HelloReply:
    reply = await broker.request(request, SUBJECT, timeout=5.0)
    return HelloReply.model_validate(await reply.decode())
