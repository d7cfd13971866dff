"""What is too much is refused with a reason, and the connection survives it."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

import rpc
from rpc.embedded import Broker
from tests.integration import drill
from tests.integration.processes import Backends
from tests.waiting import until


async def test_more_than_a_back_end_can_take_in_is_refused_not_lost(backends: Backends, channel: rpc.Channel) -> None:
    """It blocks its event loop, so thousands of requests pile up in front of it: each one gets an answer."""
    await backends.start("b1", concurrency=5, queue=5)
    work = drill.method(channel)
    blocking = work({"id": "blocking", "block": 1.0}, timeout=20)
    await until(lambda: backends.journal("started", "blocking"))
    no_retry = rpc.Channel(channel._connection, prefix=backends.prefix, retry=False)
    calls = [drill.method(no_retry)({"id": number}, timeout=20) for number in range(4000)]
    codes = await asyncio.gather(*(call.code() for call in calls))
    assert set(codes) == {rpc.StatusCode.OK, rpc.StatusCode.UNAVAILABLE}
    details = {await call.details() for call in calls if await call.code() is not rpc.StatusCode.OK}
    reasons = {text.partition("(")[0].strip() for text in details}
    overflow = "the back-end could not take the message in"  # nats-py's buffer was full
    assert {overflow} <= reasons <= {overflow, "the back-end is busy"}
    assert len(backends.journal("started")) == 1 + codes.count(rpc.StatusCode.OK)
    assert (await blocking)["by"] == "b1"
    await no_retry.close()


async def test_two_channels_on_one_connection_do_not_mix_their_replies(
    backends: Backends, nats_url: str, prefix: str
) -> None:
    await backends.start("b1", "b2")
    connection = await rpc.connect(nats_url)
    channels = [rpc.Channel(connection, prefix=prefix) for _ in range(3)]
    sent = [(at, number) for number in range(300) for at in range(len(channels))]

    async def echo(at: int, number: int) -> tuple[int, int]:
        reply = await drill.method(channels[at])({"id": [at, number], "size": number}, timeout=10)
        return at, len(reply["padding"])

    assert await asyncio.gather(*(echo(at, number) for at, number in sent)) == sent
    await channels[0].close()
    assert connection.is_connected
    assert (await drill.method(channels[1])({}, timeout=5))["by"] in ("b1", "b2")
    for channel in channels:
        await channel.close()
    await connection.close()


async def test_messages_over_the_brokers_limit(backends_at: Callable[[str], Backends], prefix: str) -> None:
    """Larger than one NATS message is no problem; larger than what the receiver takes is RESOURCE_EXHAUSTED."""
    with Broker(port=0, max_payload=64 * 1024) as broker:
        await backends_at(broker.url).start("b1")
        async with rpc.Channel(broker.url, prefix=prefix) as channel:
            work = drill.method(channel)
            reply = await work({"text": "x" * 200_000, "size": 200_000}, timeout=10)
            assert len(reply["padding"]) == 200_000
            too_large = [{"text": "x" * 5_000_000}, {"size": 5_000_000}]
            for request in too_large:
                call = work(request, timeout=10)
                assert await call.code() is rpc.StatusCode.RESOURCE_EXHAUSTED
                assert "larger than max" in await call.details()
            metadata = (("text", "x" * 15_000), ("data-bin", bytes(900)))
            assert (await work({}, timeout=10, metadata=metadata))["by"] == "b1"
            assert channel._connection.is_connected


async def test_a_message_that_just_fits_and_one_that_just_does_not(
    backends: Backends, channel: rpc.Channel, nats_url: str
) -> None:
    await backends.start("b1")
    await channel.channel_ready()
    largest = channel._transport._largest
    for size in (largest - 1, largest, largest + 1, largest + 40_000):
        call = channel.unary_unary(drill.WORK)(bytes(size), timeout=20)
        # It is no JSON, or too large: in any case it arrived, or its size was told, and nobody was cut off.
        assert await call.code() in (rpc.StatusCode.INTERNAL, rpc.StatusCode.RESOURCE_EXHAUSTED), size
    assert channel._connection.is_connected


async def test_metadata_over_the_limit_is_refused_on_both_sides(nats_url: str, prefix: str) -> None:
    async def talkative(request: object, context: grpc.aio.ServicerContext) -> object:  # type: ignore[type-arg]
        context.set_trailing_metadata((("a", "x" * 20_000),))
        return request

    server = rpc.Server(nats_url, prefix=prefix)
    server.add_generic_rpc_handlers([drill.handlers(talkative)])
    await server.start()
    async with rpc.Channel(nats_url, prefix=prefix) as channel:
        with pytest.raises(ValueError, match="over the limit"):
            await drill.method(channel)({}, metadata=(("a", "x" * 20_000),))
        assert await drill.method(channel)({}, timeout=5).code() in (rpc.StatusCode.UNKNOWN, rpc.StatusCode.INTERNAL)
    await server.stop(None)
