"""Large messages, and the limits of gRPC's options."""

import os

import pytest
from grpc import StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question
from tests.protos.probe_pb2_grpc import ProbeStub

MEGABYTE = 1 << 20
UNLIMITED = [("grpc.max_receive_message_length", -1)]


async def resize(request: Question, context: ServicerContext) -> Answer:
    """Answers with the first `number` bytes of the data, repeated if there are fewer."""
    times = -(-request.number // max(1, len(request.data)))
    return Answer(data=(request.data * times)[: request.number], number=len(request.data))


@pytest.mark.parametrize("size", [100_000, 3 * MEGABYTE])
async def test_up_to_four_megabytes_pass(mesh: Mesh, size: int) -> None:
    data = os.urandom(size)
    answer = await (await mesh.serve(resize)).Ask(Question(data=data, number=size), timeout=TIMEOUT)
    assert answer.data == data


@pytest.mark.parametrize("size", [8 * MEGABYTE, 20 * MEGABYTE])
async def test_more_passes_where_both_ends_allow_it(mesh: Mesh, size: int) -> None:
    data = os.urandom(size)
    await mesh.start(resize, options=UNLIMITED)
    stub = ProbeStub(mesh.channel(options=UNLIMITED))
    answer = await stub.Ask(Question(data=data, number=size), timeout=30)
    assert answer.data == data


async def test_a_request_over_the_servers_limit_is_refused(mesh: Mesh) -> None:
    stub = await mesh.serve(resize)
    error = await failure(stub.Ask(Question(data=bytes(5 * MEGABYTE)), timeout=TIMEOUT))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()
    assert (await stub.Ask(Question(data=b"small"), timeout=TIMEOUT)).number == 5


async def test_a_response_over_the_clients_limit_is_refused(mesh: Mesh) -> None:
    stub = await mesh.serve(resize)
    error = await failure(stub.Ask(Question(data=b"x", number=5 * MEGABYTE), timeout=TIMEOUT))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()
    assert (await stub.Ask(Question(data=b"small"), timeout=TIMEOUT)).number == 5


async def test_limits_may_be_lower(mesh: Mesh) -> None:
    await mesh.start(resize, options=[("grpc.max_receive_message_length", 1000)])
    stub = mesh.stub()
    assert (await stub.Ask(Question(data=bytes(900)), timeout=TIMEOUT)).number == 900
    error = await failure(stub.Ask(Question(data=bytes(1100)), timeout=TIMEOUT))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
