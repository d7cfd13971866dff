"""What runs inside a call: its deadline, and exceptions that Python's futures cannot carry."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc import aio

import rpc
from rpc import Call, MethodInfo, StatusCode, StatusError
from rpc.discovery.responder import Responder, ServedService
from rpc.discovery.schema import digest_of
from rpc.stats import Stats
from rpc.subjects import Subjects
from rpc.testing import FakeClock, MemoryMesh, MemoryMessage

SERVICE = "test.v1.Test"


async def serve(mesh: MemoryMesh, methods: dict[str, Callable[..., Any]], **options: Any) -> rpc.Server:
    server = rpc.Server(mesh.connection(), **options)
    handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    await server.start()
    return server


@pytest.mark.parametrize("where", ["handler", "interceptor"])
async def test_the_deadline_holds_for_calls_made_inside(memory_mesh: MemoryMesh, where: str) -> None:
    async with FakeClock() as clock, rpc.Channel(memory_mesh.connection()) as channel:
        inner: list[aio.UnaryUnaryCall[Any, Any]] = []

        def call_inside() -> None:
            inner.append(channel.unary_unary(f"/{SERVICE}/Sleep")(b""))

        class Interceptor(aio.ServerInterceptor):
            async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
                if where == "interceptor" and details.method.endswith("Do"):  # type: ignore[attr-defined]
                    call_inside()
                return await continuation(details)

        async def do(request: bytes, context: object) -> bytes:
            if where == "handler":
                call_inside()
            return b""

        async def sleep(request: bytes, context: object) -> bytes:
            await asyncio.sleep(3600)
            return b""

        server = await serve(memory_mesh, {"Do": do, "Sleep": sleep}, interceptors=[Interceptor()])
        await clock.run(channel.unary_unary(f"/{SERVICE}/Do")(b"", timeout=10))
        await clock.advance(9)
        assert not inner[0].done()
        await clock.advance(1.5)
        assert inner[0].done()
        assert await inner[0].code() is StatusCode.DEADLINE_EXCEEDED
        await server.stop(None)


async def test_a_function_that_raises_stop_iteration_ends_the_call(memory_mesh: MemoryMesh) -> None:
    def do(request: bytes, context: object) -> bytes:
        return next(iter(()))

    server = await serve(memory_mesh, {"Do": do})
    async with rpc.Channel(memory_mesh.connection()) as channel:
        with pytest.raises(StatusError) as error:
            await asyncio.wait_for(channel.invoke(Call(MethodInfo(SERVICE, "Do"))), 10)
    assert error.value.code is StatusCode.UNKNOWN
    await server.stop(None)


async def test_an_exception_that_is_no_exception_by_its_class_ends_the_call(memory_mesh: MemoryMesh) -> None:
    class Odd(BaseException):
        """As test frameworks raise them."""

    async def do(request: bytes, context: object) -> bytes:
        raise Odd("what callers must not see")

    server = await serve(memory_mesh, {"Do": do})
    async with rpc.Channel(memory_mesh.connection()) as channel:
        with pytest.raises(StatusError) as error:
            await asyncio.wait_for(channel.invoke(Call(MethodInfo(SERVICE, "Do"))), 10)
    assert (error.value.code, error.value.details) == (StatusCode.UNKNOWN, f"Unexpected exception in {SERVICE}/Do")
    await server.stop(None)


async def test_a_request_of_garbage_is_one_line_in_the_log(
    memory_mesh: MemoryMesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def do(request: int, context: object) -> bytes:
        return b""

    server = rpc.Server(memory_mesh.connection())
    handler = grpc.unary_unary_rpc_method_handler(do, request_deserializer=int)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Do": handler})])
    await server.start()
    async with rpc.Channel(memory_mesh.connection()) as channel:
        with pytest.raises(StatusError):
            await channel.invoke(Call(MethodInfo(SERVICE, "Do"), b"garbage"))
    (record,) = [each for each in caplog.records if each.name == "rpc.context"]
    assert record.exc_info is None
    assert "Test/Do could not be deserialized" in record.getMessage()
    await server.stop(None)


async def test_the_prefix_of_the_environment(memory_mesh: MemoryMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    async def do(request: bytes, context: object) -> bytes:
        return b"here"

    monkeypatch.setenv("NATSMESH_PREFIX", "shop")
    server = await serve(memory_mesh, {"Do": do})
    call = Call(MethodInfo(SERVICE, "Do"))
    async with (
        rpc.Channel(memory_mesh.connection()) as channel,
        rpc.Channel(memory_mesh.connection(), prefix="") as other,
    ):
        await channel.invoke(call)
        assert call.response == b"here"
        with pytest.raises(StatusError) as error:
            await other.invoke(Call(MethodInfo(SERVICE, "Do")))
    assert error.value.code is StatusCode.UNAVAILABLE
    await server.stop(None)


async def test_a_question_for_a_schema_is_answered_though_the_instance_goes(memory_mesh: MemoryMesh) -> None:
    schema = b"a schema"
    digest = digest_of(schema)
    connection, other = memory_mesh.connection(), memory_mesh.connection()
    await connection.connect()
    await other.connect()
    service = ServedService(SERVICE, "1.0.0", {}, schema, digest)
    responder = Responder(connection, Subjects(), "a1", [service], Stats("server", tracked=False), dict)
    await responder.start()
    answers: list[MemoryMessage] = []
    await other.subscribe("answers", answers.append)
    await other.publish(Subjects().schema(digest), b"", reply="answers")
    await responder.close()
    await asyncio.sleep(0.01)
    assert [answer.data for answer in answers] == [schema]
