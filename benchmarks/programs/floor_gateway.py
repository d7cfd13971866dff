"""ASGI application: the request's body to NATS as it is, the reply's to HTTP as it is."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import nats
from nats.aio.client import Client

Message = MutableMapping[str, Any]

SUBJECT = "floor.echo"
TIMEOUT = 5.0

connection: Client


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    event = await receive()
    body = event["body"]
    while event.get("more_body"):
        event = await receive()
        body += event["body"]
    reply = await connection.request(SUBJECT, body, timeout=TIMEOUT)
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply.data))],
        }
    )
    await send({"type": "http.response.body", "body": reply.data})


async def lifespan(receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    global connection  # noqa: PLW0603 - one connection a process, made on its loop
    await receive()
    connection = await nats.connect(os.environ["NATS_URL"])
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await connection.close()
    await send({"type": "lifespan.shutdown.complete"})
