"""Rich errors: google.rpc.Status with details, by grpcio-status."""

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import StatusCode
from grpc_status import rpc_status

from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs
from tests.protos.probe_pb2 import Answer, Question


def rich(message: str = "no such book") -> status_pb2.Status:
    details = [
        error_details_pb2.ErrorInfo(reason="BOOK_GONE", domain="library", metadata={"shelf": "7"}),
        error_details_pb2.BadRequest(field_violations=[{"field": "isbn", "description": "unknown ü"}]),
    ]
    packed = [any_pb2.Any() for _ in details]
    for into, detail in zip(packed, details, strict=True):
        into.Pack(detail)
    return status_pb2.Status(code=code_pb2.NOT_FOUND, message=message, details=packed)


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    return rpc_status.from_call(error)


async def test_abort_with_status_carries_every_detail(mesh: Mesh) -> None:
    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        await context.abort_with_status(rpc_status.to_status(rich()))

    error = await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "no such book")
    assert details_of(error) == rich()


async def test_details_survive_in_the_call_object_too(mesh: Mesh) -> None:
    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        await context.abort_with_status(rpc_status.to_status(rich("ünï")))

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    assert await call.code() is StatusCode.NOT_FOUND
    assert await call.details() == "ünï"
    assert dict(await call.trailing_metadata())["grpc-status-details-bin"] == rich("ünï").SerializeToString()


async def test_details_may_be_set_as_trailing_metadata(mesh: Mesh) -> None:
    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        context.set_trailing_metadata(rpc_status.to_status(rich()).trailing_metadata)
        context.set_code(StatusCode.NOT_FOUND)
        context.set_details("no such book")
        return Answer()

    assert details_of(await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))) == rich()


async def test_a_plain_error_has_no_details(mesh: Mesh) -> None:
    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        await context.abort(StatusCode.NOT_FOUND, "plain")

    assert details_of(await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))) is None


async def test_details_that_contradict_the_status_are_noticed(mesh: Mesh) -> None:
    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        await context.abort(StatusCode.ABORTED, "no such book", rpc_status.to_status(rich()).trailing_metadata)

    error = await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))
    assert error.code() is StatusCode.ABORTED
    with pytest.raises(ValueError, match="doesn't match"):
        details_of(error)


class PlainStatus(grpc.Status):
    """Any object with these three attributes is a status."""

    code = StatusCode.DATA_LOSS
    details = "it is gone"
    trailing_metadata = (("since", "yesterday"), ("raw-bin", b"\xff"))


async def test_any_status_object_does(mesh: Mesh) -> None:
    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        await context.abort_with_status(PlainStatus())

    error = await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))
    assert (error.code(), error.details()) == (StatusCode.DATA_LOSS, "it is gone")
    assert pairs(error.trailing_metadata()) == [("since", "yesterday"), ("raw-bin", b"\xff")]
