"""The gateway follows the mesh: on the bus in memory and on a real nats-server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

import rpc
from gateway.app import Gateway
from gateway.config import Config
from rpc.testing import MemoryMesh
from tests.gateway.asgi import Answer, Client
from tests.gateway.backends import RawBackend
from tests.gateway.contracts import Messages, compile_proto, register
from tests.gateway.worlds import World


def contract(package: str, *, fields: str = "", path: str = "/{name}", methods: str = "") -> bytes:
    """The schema of a service ``<package>.Service`` with a method Do that echoes."""
    return compile_proto(
        f"""
        syntax = "proto3";
        package {package};
        import "google/api/annotations.proto";
        message Thing {{ string name = 1; {fields} }}
        service Service {{
          rpc Do(Thing) returns (Thing) {{ option (google.api.http) = {{get: "/{package}{path}"}}; }}
          {methods}
        }}
        """
    )


async def until(ask: Callable[[], Awaitable[Answer]], status: int, seconds: float = 5) -> Answer:
    """Ask until the answer has this status; fail when it does not come in time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (answer := await ask()).status != status:
        assert loop.time() < end, f"still {answer} after {seconds} s"
        await asyncio.sleep(0.01)
    return answer


async def test_services_that_are_there_already(world: World) -> None:
    await world.backend("one.Service", contract("one"))
    await world.backend("two.Service", contract("two"))
    client = await world.ready_gateway()
    assert (await client.get("/one/x")).json == {"name": "x"}
    assert (await client.post("/two.Service/Do", json={"name": "y"})).json == {"name": "y"}
    assert (await client.get("/readyz")).status == 200


async def test_a_service_that_comes_later_is_callable_within_a_second(world: World) -> None:
    client = await world.ready_gateway()
    assert (await client.get("/late/x")).status == 404
    await world.backend("late.Service", contract("late"))
    answer = await until(lambda: client.get("/late/x"), 200, seconds=1)
    assert answer.json == {"name": "x"}
    assert (await client.post("/late.Service/Do", json={"name": "y"})).json == {"name": "y"}


async def test_a_service_that_went_is_503_at_once(world: World) -> None:
    backend = await world.backend("gone.Service", contract("gone"))
    client = await world.ready_gateway()
    assert (await client.get("/gone/x")).status == 200
    for silently in (True, False):
        await backend.stop(silently=silently)
        started = asyncio.get_running_loop().time()
        answer = await client.get("/gone/x")
        assert (answer.status, answer.json["code"]) == (503, 14)
        assert (await client.post("/gone.Service/Do", json={})).json["code"] == "unavailable"
        assert asyncio.get_running_loop().time() - started < 0.5
        # And when it is back, so are its answers.
        await backend.start()
        await until(lambda: client.get("/gone/x"), 200, seconds=1)


async def test_a_newer_schema_takes_over_and_an_older_one_does_not(world: World) -> None:
    # Each answers with its version and the name that it was asked for.
    def named(schema: bytes) -> Any:
        messages = Messages(schema)
        return lambda method, request: messages.write("thing.Thing", {**messages.read("thing.Thing", request)})

    old = contract("thing", path="/old/{name}")
    new = contract("thing", fields="int32 size = 2;", path="/new/{name}", methods="rpc More(Thing) returns (Thing);")
    await world.backend("thing.Service", old, version="1.2.0", respond=named(old))
    client = await world.ready_gateway()
    assert (await client.get("/thing/old/x")).status == 200
    assert (await client.get("/thing/old/x?size=3")).status == 400

    newer = await world.backend("thing.Service", new, version="1.10.0", respond=named(new))
    await until(lambda: client.get("/thing/new/x?size=3"), 200, seconds=1)
    assert (await client.get("/thing/old/x")).status == 404
    assert (await client.post("/thing.Service/More", json={"name": "x"})).status == 200

    oldest = contract("thing", path="/oldest/{name}")
    await world.backend("thing.Service", oldest, version="1.9.9", respond=named(oldest))
    # What is announced after it is served: so it has been looked at.
    await world.backend("later.Service", contract("later"))
    await until(lambda: client.get("/later/x"), 200, seconds=2)
    assert (await client.get("/thing/oldest/x")).status == 404

    # When the newest goes, the newest of the rest is served.
    await newer.stop()
    await until(lambda: client.get("/thing/oldest/x"), 200)


HOSTILE = {
    "garbage": b"\xff" * 1000,
    "empty": b"",
    "another service": contract("another"),
    "huge": b"\x00" * 900_000,
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE)
async def test_a_bad_schema_disturbs_nobody(world: World, schema: bytes, caplog: pytest.LogCaptureFixture) -> None:
    await world.backend("good.Service", contract("good"))
    client = await world.ready_gateway()
    with caplog.at_level(logging.WARNING):
        await world.backend("bad.Service", schema)
        await world.backend("later.Service", contract("later"))
        await until(lambda: client.get("/later/x"), 200, seconds=2)
        async with asyncio.timeout(5):  # Services that came together are looked at in any order.
            while schema and "bad.Service 1.0.0 is not served" not in caplog.text:
                await asyncio.sleep(0.01)
    assert (await client.get("/good/x")).json == {"name": "x"}
    assert (await client.post("/bad.Service/Do", json={})).status == 404


async def test_a_bad_schema_leaves_the_one_before_in_service(world: World) -> None:
    await world.backend("thing.Service", contract("thing"), version="1.0.0")
    client = await world.ready_gateway()
    await world.backend("thing.Service", b"garbage", version="2.0.0", respond=lambda method, request: request)
    await world.backend("later.Service", contract("later"))
    await until(lambda: client.get("/later/x"), 200, seconds=2)
    assert (await client.get("/thing/x")).json == {"name": "x"}


async def test_a_schema_that_is_not_what_its_digest_says_is_not_used(world: World) -> None:
    await world.backend("forged.Service", contract("forged"), digest="0" * 64)
    client = await world.ready_gateway()
    assert (await client.post("/forged.Service/Do", json={})).status == 404


async def test_conflicting_routes_are_told_and_the_earlier_one_keeps_serving(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    first = await world.backend("b.Service", contract("b", path="/x"))
    client = await world.ready_gateway()
    with caplog.at_level(logging.WARNING):
        # The same path as the first one's, and one that nobody may have.
        second = await world.backend(
            "a.Service",
            compile_proto(
                """
                syntax = "proto3";
                package a;
                import "google/api/annotations.proto";
                message Thing {}
                service Service {
                  rpc Do(Thing) returns (Thing) {
                    option (google.api.http) = {
                      get: "/b/x" additional_bindings { get: "/healthz" } additional_bindings { get: "/a/x" }
                    };
                  }
                }
                """
            ),
        )
        await until(lambda: client.get("/a/x"), 200, seconds=2)
    before = len(first.requests), len(second.requests)
    assert (await client.get("/b/x")).status == 200
    assert (len(first.requests), len(second.requests)) == (before[0] + 1, before[1])
    assert (await client.get("/healthz")).body == b"ok\n"
    conflicts = [record.getMessage() for record in caplog.records if "conflicting routes" in record.getMessage()]
    assert len(conflicts) == 2
    assert any("/b/x" in each for each in conflicts)
    assert any("/healthz" in each for each in conflicts)


@pytest.mark.parametrize("package", ["grpc.health.v1", "mesh.v1", "schema", "inst", "rpc"])
async def test_services_may_be_named_like_our_own_things(world: World, package: str) -> None:
    await world.backend(f"{package}.Service", contract(package))
    client = await world.ready_gateway()
    assert (await client.post(f"/{package}.Service/Do", json={"name": "x"})).json == {"name": "x"}


async def test_what_a_back_end_gets(world: World) -> None:
    backend = await world.backend("plain.Service", contract("plain"))
    client = await world.ready_gateway()
    headers = {
        "authorization": "Bearer x",
        "nats-msg-id": "1",
        "Nats-Trace-Only": "true",
        "user-agent": "u",
        "x-a": "1",
    }
    await client.get("/plain/x", headers=headers)
    method, request, received = backend.requests[-1]
    assert (method, request) == ("Do", b"\x0a\x01x")
    assert received.keys() == {"grpc-timeout", "authorization", "x-a"}
    await client.get("/plain/x")
    assert backend.requests[-1][2].keys() == {"grpc-timeout"}


async def test_not_ready_before_the_first_round(world: World) -> None:
    client = await world.gateway()
    answer = await client.get("/readyz")
    assert (answer.status, answer.body) == (503, b"not ready: the services of the mesh are not known yet\n")
    await asyncio.wait_for(client.application.ready(), 10)
    assert (await client.get("/readyz")).status == 200


async def test_without_the_bus_it_is_alive_but_not_ready() -> None:
    mesh = MemoryMesh()
    connection = mesh.connection()
    await connection.connect()
    backend = RawBackend(mesh.connection(), "thing.Service", contract("thing"))
    await backend.connection.connect()
    await backend.start()
    async with Gateway(Config(), connection=connection) as gateway:
        client = Client(gateway)
        await asyncio.wait_for(gateway.ready(), 10)
        mesh.stop()
        assert (await client.get("/healthz")).status == 200
        answer = await client.get("/readyz")
        assert (answer.status, answer.body) == (503, b"not ready: no connection to NATS\n")
        assert (await client.get("/thing/x")).status == 503
        mesh.start()
        assert (await client.get("/readyz")).status == 200
        assert (await client.get("/thing/x")).status == 200


SERVED = compile_proto(
    """
    syntax = "proto3";
    package served.v1;
    import "google/api/annotations.proto";
    message Thing { string name = 1; }
    service Service {
      rpc Do(Thing) returns (Thing) { option (google.api.http) = {get: "/served/{name}"}; }
    }
    """,
    "served_v1.proto",
)
register(SERVED)


async def serve(world: World, do: Any) -> rpc.Server:
    server = rpc.Server(await world.connection(), prefix=world.prefix)
    handlers = {"Do": grpc.unary_unary_rpc_method_handler(do)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("served.v1.Service", handlers)])
    await server.start()
    return server


async def test_a_servicer_behind_the_gateway(world: World) -> None:
    async def do(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        metadata = dict(context.invocation_metadata() or ())
        await context.send_initial_metadata([("x-got", metadata.get("x-tenant", ""))])
        context.set_trailing_metadata([("x-left", f"{context.time_remaining():.0f}"), ("x-bin-bin", b"\xff")])
        return request

    server = await serve(world, do)
    client = await world.ready_gateway()
    answer = await client.get("/served/x", headers={"x-tenant": "t", "grpc-timeout": "5S"})
    assert answer.status == 200
    assert answer.json == {"name": "x"}
    assert answer.header("x-got") == "t"
    assert answer.header("trailer-x-left") == "5"
    assert answer.header("trailer-x-bin-bin") == "/w"
    await server.stop(0)


async def test_errors_of_a_servicer(world: World) -> None:
    async def do(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        if request == b"\x0a\x03bug":
            raise RuntimeError("secret")
        if request == b"\x0a\x04slow":
            await asyncio.sleep(30)
        status = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="no such thing ä")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="GONE"))
        await context.abort_with_status(rpc_status.to_status(status))

    server = await serve(world, do)
    client = await world.ready_gateway()
    answer = await client.get("/served/x")
    assert answer.status == 404
    assert answer.json == {
        "code": 5,
        "message": "no such thing ä",
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "GONE"}],
    }
    answer = await client.get("/served/bug")
    assert answer.status == 500
    assert "secret" not in answer.body.decode()
    answer = await client.get("/served/slow", headers={"grpc-timeout": "100m"})
    assert (answer.status, answer.json["code"]) == (504, 4)
    await server.stop(0)


async def test_a_client_that_hangs_up_stops_the_handler(world: World) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def do(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        started.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return request

    server = await serve(world, do)
    gateway = (await world.ready_gateway()).application
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    events.put_nowait({"type": "http.request", "body": b"{}", "more_body": False})
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/served.v1.Service/Do",
        "raw_path": b"/served.v1.Service/Do",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    request = asyncio.create_task(gateway(scope, events.get, send))
    await asyncio.wait_for(started.wait(), 5)
    events.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(stopped.wait(), 5)
    await asyncio.wait_for(request, 5)
    entry = next(each for each in gateway.stats if each.labels == ("POST", "/served.v1.Service/Do", "http"))
    assert list(entry.by_code()) == [499]
    await server.stop(0)


async def test_metrics(world: World) -> None:
    await world.backend("counted.Service", contract("counted"))
    client = await world.ready_gateway()
    await client.get("/counted/x")
    await client.get("/nope")
    await client.request("BREW", "/nope")
    answer = await client.get("/metrics")
    assert answer.status == 200
    assert (answer.header("content-type") or "").startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    assert 'http_route="/counted/{name}"' in text
    assert 'rpc_method="counted.Service/Do"' in text
    assert "BREW" not in text
    hidden = await world.ready_gateway(metrics=False)
    assert (await hidden.get("/metrics")).status == 404
