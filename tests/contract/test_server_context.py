"""The context argument of a handler: what is not about errors, metadata, deadlines or cancelling."""

import asyncio
import contextvars
from typing import Any

import grpc
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh
from tests.protos.probe_pb2 import Answer, Question


async def test_it_is_a_servicer_context_of_grpc_aio(mesh: Mesh) -> None:
    """As far as grpc.aio itself is one: by its methods."""

    async def ask(request: Question, context: ServicerContext) -> Answer:
        missing = [name for name in dir(ServicerContext) if not name.startswith("_") and not hasattr(context, name)]
        return Answer(text=" ".join(missing))

    assert (await (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)).text == ""


async def test_before_the_end(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        assert context.code() is None
        assert context.details() == ""
        assert not context.trailing_metadata()
        assert not context.done()
        assert not context.cancelled()
        return Answer(text="all of it holds")

    assert (await (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)).text == "all of it holds"


async def test_the_peer_is_a_text_and_has_no_identity(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        assert context.peer_identities() is None
        assert context.peer_identity_key() is None
        assert isinstance(dict(context.auth_context()), dict)
        return Answer(text=context.peer())

    kind, _, rest = (await (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)).text.partition(":")
    assert kind in ("ipv4", "nats")
    assert rest


async def test_compression_may_be_asked_for(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()
        return Answer(text=request.text)

    stub = await mesh.serve(ask)
    answer = await stub.Ask(Question(text="x" * 1000), timeout=TIMEOUT, compression=grpc.Compression.Gzip)
    assert answer.text == "x" * 1000


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_calls_do_not_see_each_others_context_variables(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        before = variable.get()
        variable.set(request.text)
        await asyncio.sleep(0.01)
        assert variable.get() == request.text
        return Answer(text=before)

    stub = await mesh.serve(ask)
    answers = await asyncio.gather(*(stub.Ask(Question(text=str(n)), timeout=TIMEOUT) for n in range(10)))
    assert {answer.text for answer in answers} == {"unset"}


async def test_tasks_that_a_handler_starts_may_outlive_it(mesh: Mesh) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def ask(request: Question, context: ServicerContext) -> Answer:
        tasks.append(asyncio.create_task(asyncio.sleep(0.05, "finished")))
        return Answer()

    await (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    assert await asyncio.wait_for(tasks[0], TIMEOUT) == "finished"
