"""grpc.health.v1 for every service of the mesh.

Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md, and the comments of health.proto.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import rpc
from gateway.app import Gateway
from gateway.config import Config
from gateway.mesh_services import contracts
from rpc.testing import MemoryMesh
from tests.gateway.asgi import Client, Conversation
from tests.gateway.backends import RawBackend
from tests.gateway.contracts import compile_proto
from tests.gateway.processes import GatewayProcess
from tests.gateway.worlds import World

HEALTH = "grpc.health.v1.Health"
CHECK = f"/{HEALTH}/Check"
messages: Any = health_pb2  # Its type stubs do not know List yet.
Request, Response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
SCHEMA = compile_proto("""
    syntax = "proto3";
    package one;
    message Thing {}
    service Service { rpc Do(Thing) returns (Thing); }
""")


@pytest.fixture(scope="module")
def gateway(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, str]]:
    prefix = f"t{secrets.token_hex(4)}"
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), nats_url, prefix).start()
    yield gateway, prefix
    gateway.close()


@pytest.fixture
async def stub(gateway: tuple[GatewayProcess, str]) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway[0].port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[rpc.Connection]:
    connection = await rpc.connect(nats_url)
    yield connection
    await connection.close()


async def test_a_service_comes_and_goes(
    stub: Any, connection: rpc.Connection, gateway: tuple[GatewayProcess, str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(Request(service="one.Service"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(Request(service="one.Service"), timeout=20)
    # health.proto: a watch of an unknown service is told so, and goes on.
    assert (await watch.read()).status == Response.SERVICE_UNKNOWN

    backend = RawBackend(connection, "one.Service", SCHEMA, prefix=gateway[1])
    await backend.start()
    assert (await watch.read()).status == Response.SERVING
    assert (await stub.Check(Request(service="one.Service"), timeout=10)).status == Response.SERVING

    second = RawBackend(connection, "one.Service", SCHEMA, prefix=gateway[1])
    await second.start()
    await backend.stop()
    await second.stop()
    # One message for each change, and the first back-end's end was none.
    assert (await watch.read()).status == Response.NOT_SERVING
    assert (await stub.Check(Request(service="one.Service"), timeout=10)).status == Response.NOT_SERVING
    everything = await stub.List(messages.HealthListRequest(), timeout=10)
    assert {name: each.status for name, each in everything.statuses.items()} == {
        "": Response.SERVING,
        HEALTH: Response.SERVING,
        "google.longrunning.Operations": Response.SERVING,
        "grpc.reflection.v1.ServerReflection": Response.SERVING,
        "grpc.reflection.v1alpha.ServerReflection": Response.SERVING,
        "one.Service": Response.NOT_SERVING,
    }
    watch.cancel()


@pytest.mark.parametrize("service", ["", HEALTH])
async def test_the_gateway_itself(stub: Any, service: str) -> None:
    assert (await stub.Check(Request(service=service), timeout=10)).status == Response.SERVING


@pytest.mark.parametrize("data", [b"\xff", Request(service="x" * 257).SerializeToString()])
@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_garbage(gateway: tuple[GatewayProcess, str], method: str, data: bytes) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway[0].port}") as channel:
        # On the wire, a call with one response is a stream of one.
        call: Any = channel.unary_stream(f"/{HEALTH}/{method}")(data, timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_by_connect_and_grpc_web(world: World) -> None:
    client = await world.ready_gateway()
    answer = await client.post(CHECK, json={})
    assert (answer.status, answer.json) == (200, {"status": "SERVING"})
    answer = await client.post(CHECK, json={"service": "no.Such"})
    assert (answer.status, answer.json["code"]) == (404, "not_found")
    answer = await client.post(CHECK, bytes(5), headers={"content-type": "application/grpc-web+proto"})
    assert answer.body.startswith(b"\x00\x00\x00\x00\x02\x08\x01")
    assert b"grpc-status: 0" in answer.body
    # In the numbers it stands like any other method.
    assert any(route.http_method == "POST" and route.template.source == CHECK for route in client.application.routes)


def watch(client: Client, service: str) -> Conversation:
    data = json.dumps({"service": service}).encode()
    headers = {"content-type": "application/connect+json"}
    return client.open("POST", f"/{HEALTH}/Watch", b"\x00" + len(data).to_bytes(4, "big") + data, headers=headers)


async def told(conversation: Conversation) -> dict[str, Any]:
    """The next message, or the end."""
    part = b""
    while not part:
        part = await conversation.part() or b""
    message: dict[str, Any] = json.loads(part[5:])
    return message


async def test_who_watches_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.mesh_services.health.MAX_WATCHERS", 2)
    client = await world.ready_gateway()
    watchers = [watch(client, "") for _ in range(2)]
    for each in watchers:
        await each.head()
        assert await told(each) == {"status": "SERVING"}
    refused = watch(client, "")
    await refused.head()
    assert (await told(refused))["error"]["code"] == "resource_exhausted"
    watchers[0].hang_up()
    await asyncio.wait_for(watchers[0].task, 5)
    again = watch(client, "")
    await again.head()
    assert await told(again) == {"status": "SERVING"}
    for each in (again, watchers[1]):
        each.hang_up()
        await asyncio.wait_for(each.task, 5)


async def test_without_the_bus_nothing_is_served(memory_mesh: MemoryMesh) -> None:
    connection = memory_mesh.connection()
    await connection.connect()
    backend = RawBackend(connection, "one.Service", SCHEMA)
    await backend.start()
    async with Gateway(Config(), connection=connection) as gateway:
        await asyncio.wait_for(gateway.ready(), 5)
        client = Client(gateway)
        watchers = [watch(client, service) for service in ("", "one.Service")]
        for each in watchers:
            await each.head()
            assert await told(each) == {"status": "SERVING"}
        connection.set_connected(False)
        for each in watchers:
            assert await told(each) == {"status": "NOT_SERVING"}
        assert (await client.post(CHECK, json={})).json == {"status": "NOT_SERVING"}
        connection.set_connected(True)
        for each in watchers:
            assert await told(each) == {"status": "SERVING"}
            each.hang_up()
            await asyncio.wait_for(each.task, 5)
        await backend.stop()


async def test_a_health_service_of_a_back_end_does_not_disturb(world: World) -> None:
    theirs = await world.backend(HEALTH, contracts.health())
    client = await world.ready_gateway()
    assert (await client.post(CHECK, json={"service": HEALTH})).json == {"status": "SERVING"}
    assert theirs.requests == []
    await theirs.stop()
    # The gateway's own is there all the same.
    assert (await client.post(CHECK, json={"service": HEALTH})).json == {"status": "SERVING"}
