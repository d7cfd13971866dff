"""What stands around routes holds for WebSockets as well: they are refused over HTTP, before they are open."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.filters.auth_options import AuthOptions
from gateway.filters.rate_limit_options import LimitRule, RateLimitOptions
from tests.gateway.asgi import Client
from tests.gateway.sockets import SERVICE, Context, Notes, serve
from tests.gateway.worlds import World

KEY = "a secret"


@pytest.fixture
async def client(world: World, tmp_path: Path) -> AsyncIterator[Client]:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[keys.ada]\nsha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"\n')

    async def talk(requests: Notes, context: Context) -> Notes:
        async for note in requests:
            yield note

    server = await serve(await world.connection(), world.prefix, talk=talk)
    yield await world.ready_gateway(
        auth=AuthOptions(api_keys=keys),
        rate_limit=RateLimitOptions(rules=(LimitRule(name="all", limit=1, window=60.0),)),
    )
    await server.stop(0)


async def open_socket(client: Client, *headers: tuple[bytes, bytes]) -> list[dict[str, Any]]:
    """Open a WebSocket, say that there are no requests, and return what comes."""
    path = f"/{SERVICE}/Talk"
    scope = {
        "type": "websocket",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    messages = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": ""}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "websocket.disconnect", "code": 1000}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await client.application(scope, receive, send)
    return sent


async def test_authentication_and_limits(client: Client) -> None:
    start, body = await open_socket(client)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert json.loads(body["body"])["code"] == 16
    accepted, *_ = await open_socket(client, (b"x-api-key", KEY.encode()))
    assert accepted["type"] == "websocket.accept"
    assert b"ratelimit" in dict(accepted["headers"])
    assert b"x-request-id" in dict(accepted["headers"])
    start, body = await open_socket(client, (b"x-api-key", KEY.encode()))
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert b"retry-after" in dict(start["headers"])
    assert json.loads(body["body"])["code"] == 8
