"""Methods that handle events, where they are called like any other."""

import pytest
from google.protobuf import empty_pb2
from grpc import StatusCode, aio

import rpc
from tests.events.conftest import World
from tests.events.stage import stage


async def test_nobody_can_act_as_the_broker(world: World) -> None:
    subscriber = stage.subscriber("Mail")
    await world.serve(subscriber)
    async with rpc.Channel(world.url, prefix=world.prefix) as channel:
        on_placed = channel.unary_unary(
            "/stage.v1.Mail/OnPlaced",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=empty_pb2.Empty.FromString,
        )
        with pytest.raises(aio.AioRpcError, match="publish one") as failure:
            await on_placed(stage.placed("forged"), timeout=5)
    assert failure.value.code() is StatusCode.UNIMPLEMENTED
    assert subscriber.ids == []
