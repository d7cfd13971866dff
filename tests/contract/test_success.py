"""Calls that succeed."""

import asyncio

import grpc
import pytest

from tests.contract.meshes import TIMEOUT, Mesh
from tests.protos.probe_pb2 import Answer, Question


async def echo(request: Question, context: grpc.aio.ServicerContext) -> Answer:
    return Answer(text=request.text, data=request.data, number=request.number)


@pytest.mark.parametrize(
    "question",
    [
        Question(text="hello", data=b"\x00\xff", number=-(2**63)),
        Question(),
        Question(text="Þórbergur 🧊 \x00 \r\n" * 10_000),
        Question(data=bytes(range(256)) * 2_000),
    ],
    ids=["small", "empty", "large unicode", "large bytes"],
)
async def test_the_message_arrives_and_comes_back(mesh: Mesh, question: Question) -> None:
    answer = await (await mesh.serve(echo)).Ask(question, timeout=TIMEOUT)
    assert answer == Answer(text=question.text, data=question.data, number=question.number)


async def test_a_call_without_timeout_has_no_deadline(mesh: Mesh) -> None:
    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        return Answer(text=repr(context.time_remaining()))

    call = (await mesh.serve(ask)).Ask(Question())
    assert call.time_remaining() is None
    assert (await call).text == "None"


async def test_two_methods_of_one_service(mesh: Mesh) -> None:
    async def other(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        return Answer(text="other")

    stub = await mesh.serve(echo, other=other)
    assert (await stub.Ask(Question(text="ask"), timeout=TIMEOUT)).text == "ask"
    assert (await stub.Other(Question(), timeout=TIMEOUT)).text == "other"


async def test_a_thousand_calls_at_once(mesh: Mesh) -> None:
    running = most = 0

    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return Answer(number=request.number)

    stub = await mesh.serve(ask)
    answers = await asyncio.gather(*(stub.Ask(Question(number=n), timeout=30) for n in range(1000)))
    assert [answer.number for answer in answers] == list(range(1000))
    assert most > 10


async def test_calls_end_in_their_own_order(mesh: Mesh) -> None:
    gate = asyncio.Event()

    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        if request.text == "slow":
            await gate.wait()
        return Answer(text=request.text)

    stub = await mesh.serve(ask)
    slow = stub.Ask(Question(text="slow"), timeout=TIMEOUT)
    assert (await stub.Ask(Question(text="fast"), timeout=TIMEOUT)).text == "fast"
    assert not slow.done()
    gate.set()
    assert (await slow).text == "slow"


async def test_a_call_may_be_awaited_again(mesh: Mesh) -> None:
    call = (await mesh.serve(echo)).Ask(Question(text="x"), timeout=TIMEOUT)
    assert await call == await call == Answer(text="x")


async def test_calls_without_serializers_carry_bytes(mesh: Mesh) -> None:
    await mesh.start(echo)
    ask = mesh.channel().unary_unary("/probe.v1.Probe/Ask")
    assert (
        await ask(Question(text="raw").SerializeToString(), timeout=TIMEOUT) == Answer(text="raw").SerializeToString()
    )


async def test_a_handler_may_call_another_service(mesh: Mesh) -> None:
    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        return await stub.Other(request, timeout=TIMEOUT)

    stub = await mesh.serve(ask, other=echo)
    assert (await stub.Ask(Question(text="through"), timeout=TIMEOUT)).text == "through"
