"""Metadata, both ways."""

from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import Metadata, ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs
from tests.protos.probe_pb2 import Answer, Question

ORDINARY = [
    ("plain", "value"),
    ("twice", "first"),
    ("raw-bin", b"\x00\xff\n"),
    ("twice", "second"),
    ("raw-bin", b""),
    ("empty", ""),
    ("symbols_.-0", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    ("commas", "a,b, c"),
    ("not-base64-bin", b"caf\xc3\xa9"),
]


def in_order_of_key(metadata: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Only the order among the values of one key is promised."""
    return sorted(metadata, key=lambda pair: pair[0])


class Seen:
    """A handler that keeps what it was sent."""

    async def __call__(self, request: Question, context: ServicerContext) -> Answer:
        self.metadata = context.invocation_metadata()
        return Answer()


@pytest.mark.parametrize("made", [tuple, list, lambda metadata: Metadata(*metadata)], ids=["tuple", "list", "Metadata"])
async def test_invocation_metadata_arrives(mesh: Mesh, made: Any) -> None:
    seen = Seen()
    await (await mesh.serve(seen.__call__)).Ask(Question(), timeout=TIMEOUT, metadata=made(ORDINARY))
    assert in_order_of_key(pairs(seen.metadata)) == in_order_of_key(ORDINARY)


async def test_invocation_metadata_is_a_tuple_of_key_and_value(mesh: Mesh) -> None:
    seen = Seen()
    await (await mesh.serve(seen.__call__)).Ask(Question(), timeout=TIMEOUT, metadata=(("key", "value"),))
    assert isinstance(seen.metadata, tuple)
    assert dict(seen.metadata)["key"] == "value"


@pytest.mark.parametrize("none", [None, (), [], Metadata()], ids=["None", "tuple", "list", "Metadata"])
async def test_no_metadata(mesh: Mesh, none: Any) -> None:
    seen = Seen()
    await (await mesh.serve(seen.__call__)).Ask(Question(), timeout=TIMEOUT, metadata=none)
    assert pairs(seen.metadata) == []


@pytest.mark.parametrize(
    "refused",
    [
        ("Upper", "case"),
        ("with space", "x"),
        ("ümlaut", "x"),
        ("", "x"),
        (":path", "x"),
        ("colon:", "x"),
        ("key", "line\nbreak"),
        ("key", "carriage\rreturn"),
        ("key", "nul\x00"),
        ("key", "ümlaut"),
        ("key-bin", "text"),
        ("key", 5),
    ],
    ids=repr,
)
async def test_metadata_that_cannot_be_sent_is_refused_here(mesh: Mesh, refused: tuple[Any, Any]) -> None:
    """As an exception that is no RpcError: the call never started."""
    called = False

    async def ask(request: Question, context: ServicerContext) -> Answer:
        nonlocal called
        called = True
        return Answer()

    stub = await mesh.serve(ask)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - grpc.aio raises private classes here
        await stub.Ask(Question(), timeout=TIMEOUT, metadata=(refused,))
    assert not isinstance(caught.value, grpc.RpcError | AssertionError)
    assert not called
    await stub.Ask(Question(text="the channel is whole"), timeout=TIMEOUT)


async def test_ascii_values_may_be_bytes(mesh: Mesh) -> None:
    seen = Seen()
    await (await mesh.serve(seen.__call__)).Ask(Question(), timeout=TIMEOUT, metadata=(("key", b"bytes"),))
    assert pairs(seen.metadata) == [("key", "bytes")]


async def test_initial_and_trailing_metadata_of_a_success(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        await context.send_initial_metadata(tuple(ORDINARY))
        context.set_trailing_metadata((("end", "1"), ("end", "2"), ("end-bin", b"\xfe")))
        return Answer()

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    await call
    initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
    assert isinstance(initial, Metadata)
    assert isinstance(trailing, Metadata)
    assert in_order_of_key(pairs(initial)) == in_order_of_key(ORDINARY)
    assert pairs(trailing) == [("end", "1"), ("end", "2"), ("end-bin", b"\xfe")]
    assert trailing.get_all("end") == ["1", "2"]


async def test_initial_and_trailing_metadata_of_an_error(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        await context.send_initial_metadata((("begin", "1"),))
        await context.abort(StatusCode.NOT_FOUND, "gone", (("end", "1"), ("end-bin", b"\xfe")))

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    error = await failure(call)
    assert isinstance(error.initial_metadata(), Metadata)
    assert isinstance(error.trailing_metadata(), Metadata)
    assert pairs(error.initial_metadata()) == pairs(await call.initial_metadata()) == [("begin", "1")]
    end = [("end", "1"), ("end-bin", b"\xfe")]
    assert pairs(error.trailing_metadata()) == pairs(await call.trailing_metadata()) == end


async def test_there_may_be_none(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        return Answer()

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    assert await call.initial_metadata() == await call.trailing_metadata() == Metadata()


async def test_the_last_trailing_metadata_counts(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        context.set_trailing_metadata((("first", "1"),))
        context.set_trailing_metadata((("second", "2"),))
        assert pairs(context.trailing_metadata()) == [("second", "2")]
        return Answer()

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    assert pairs(await call.trailing_metadata()) == [("second", "2")]


async def test_the_metadata_of_abort_counts(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        context.set_trailing_metadata((("first", "1"),))
        await context.abort(StatusCode.ABORTED, "", (("second", "2"),))

    error = await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))
    assert pairs(error.trailing_metadata()) == [("second", "2")]


async def test_initial_metadata_is_sent_once(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        await context.send_initial_metadata((("begin", "1"),))
        with pytest.raises(Exception, match="already sent"):
            await context.send_initial_metadata((("begin", "2"),))
        return Answer(text="still fine")

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    assert (await call).text == "still fine"
    assert pairs(await call.initial_metadata()) == [("begin", "1")]


@pytest.mark.parametrize("how", ["initial", "trailing", "abort"])
async def test_invalid_metadata_of_a_handler_is_an_error(mesh: Mesh, how: str) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        invalid = (("Upper", "case"),)
        if how == "initial":
            await context.send_initial_metadata(invalid)
        elif how == "trailing":
            context.set_trailing_metadata(invalid)
        else:
            await context.abort(StatusCode.NOT_FOUND, "gone", invalid)
        return Answer()

    error = await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))
    assert error.code() is StatusCode.INTERNAL


async def test_large_metadata(mesh: Mesh) -> None:
    large = [(f"key-{n}", "v" * 100) for n in range(40)]

    async def ask(request: Question, context: ServicerContext) -> Answer:
        context.set_trailing_metadata(tuple(pairs(context.invocation_metadata())))
        return Answer()

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT, metadata=large)
    assert in_order_of_key(pairs(await call.trailing_metadata())) == in_order_of_key(large)
