"""Ways to register methods: generated code, registered handlers, generic handlers."""

import grpc
from grpc import StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question
from tests.protos.probe_pb2_grpc import ProbeServicer, ProbeStub, add_ProbeServicer_to_server


def saying(text: str) -> grpc.RpcMethodHandler:
    async def method(request: Question, context: ServicerContext) -> Answer:
        return Answer(text=text)

    return grpc.unary_unary_rpc_method_handler(method, Question.FromString, Answer.SerializeToString)


async def ask(mesh: Mesh) -> str:
    return (await mesh.stub().Ask(Question(), timeout=TIMEOUT)).text


async def test_a_generated_servicer(mesh: Mesh) -> None:
    class Probe(ProbeServicer):
        async def Ask(self, request: Question, context: ServicerContext) -> Answer:
            return Answer(text="generated")

    server = mesh.server()
    add_ProbeServicer_to_server(Probe(), server)
    await server.start()
    assert await ask(mesh) == "generated"


async def test_a_servicer_needs_no_base_class(mesh: Mesh) -> None:
    class Probe:
        async def Ask(self, request: Question, context: ServicerContext) -> Answer:
            return Answer(text="duck")

        Other = Tell = Gather = Talk = Ask

    server = mesh.server()
    add_ProbeServicer_to_server(Probe(), server)
    await server.start()
    assert await ask(mesh) == "duck"


async def test_generic_handlers_in_the_order_they_were_added(mesh: Mesh) -> None:
    server = mesh.server()
    for text in ("first", "second"):
        handlers = {"Ask": saying(text)} if text == "first" else {"Ask": saying(text), "Other": saying(text)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("probe.v1.Probe", handlers),))
    await server.start()
    assert await ask(mesh) == "first"
    assert (await mesh.stub().Other(Question(), timeout=TIMEOUT)).text == "second"


async def test_generic_handlers_of_the_constructor(mesh: Mesh) -> None:
    handler = grpc.method_handlers_generic_handler("probe.v1.Probe", {"Ask": saying("constructor")})
    await mesh.server(handlers=[handler]).start()
    assert await ask(mesh) == "constructor"


async def test_registered_handlers_win_over_generic_ones(mesh: Mesh) -> None:
    server = mesh.server()
    generic = grpc.method_handlers_generic_handler("probe.v1.Probe", {"Ask": saying("generic")})
    server.add_generic_rpc_handlers((generic,))
    server.add_registered_method_handlers("probe.v1.Probe", {"Ask": saying("registered")})
    await server.start()
    assert await ask(mesh) == "registered"


async def test_two_services_on_one_server(mesh: Mesh) -> None:
    server = mesh.server()
    server.add_registered_method_handlers("probe.v1.Probe", {"Ask": saying("probe")})
    server.add_registered_method_handlers("another.v1.Service", {"Do": saying("another")})
    await server.start()
    do = mesh.channel().unary_unary("/another.v1.Service/Do", Question.SerializeToString, Answer.FromString)
    assert await ask(mesh) == "probe"
    assert (await do(Question(), timeout=TIMEOUT)).text == "another"


async def test_a_service_without_a_package_and_without_serializers(mesh: Mesh) -> None:
    async def reverse(request: bytes, context: ServicerContext) -> bytes:
        return request[::-1]

    server = mesh.server()
    handlers = {"Reverse": grpc.unary_unary_rpc_method_handler(reverse)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bytes", handlers),))
    await server.start()
    assert await mesh.channel().unary_unary("/Bytes/Reverse")(b"\x00abc", timeout=TIMEOUT) == b"cba\x00"


async def test_a_deserializer_that_raises(mesh: Mesh) -> None:
    def broken(data: bytes) -> Question:
        raise ValueError("secret")

    async def method(request: Question, context: ServicerContext) -> Answer:
        return Answer()

    server = mesh.server()
    handler = grpc.unary_unary_rpc_method_handler(method, broken, Answer.SerializeToString)
    server.add_registered_method_handlers("probe.v1.Probe", {"Ask": handler})
    await server.start()
    error = await failure(ProbeStub(mesh.channel()).Ask(Question(), timeout=TIMEOUT))
    assert error.code() is StatusCode.UNKNOWN
    assert ("secret" in error.details()) == mesh.shows_exceptions
