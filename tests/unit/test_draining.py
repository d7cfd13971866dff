"""A back-end that drains: what others see of it."""

import asyncio

import grpc

import rpc
from rpc import Call, MethodInfo
from rpc.testing import FakeClock, MemoryMesh

SERVICE = "test.v1.Test"


async def test_who_drains_is_not_there_any_more_for_those_who_follow_the_mesh(memory_mesh: MemoryMesh) -> None:
    async def do(request: bytes, context: object) -> bytes:
        await asyncio.sleep(60)
        return b"done"

    async with FakeClock() as clock, rpc.Channel(memory_mesh.connection()) as channel:
        server = rpc.Server(memory_mesh.connection())
        handler = grpc.unary_unary_rpc_method_handler(do)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Do": handler})])
        await server.start()
        connection = memory_mesh.connection()
        await connection.connect()
        watcher = rpc.ServiceWatcher(connection)
        await watcher.start()
        await clock.advance(1)
        assert watcher.services[SERVICE].instances == {server.instance}
        call = Call(MethodInfo(SERVICE, "Do"))
        calling = asyncio.create_task(channel.invoke(call))
        await clock.advance(1)
        stopping = asyncio.create_task(server.stop(100))
        for _ in range(10):  # The watcher asks for who is there, again and again.
            await clock.advance(5)
            assert not watcher.services[SERVICE].instances
        assert await clock.run(rpc.discover(connection)) == []
        await clock.run(stopping)
        await calling
        assert call.response == b"done"
        await watcher.close()
