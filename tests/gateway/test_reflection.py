"""gRPC server reflection over the whole mesh, by real clients at a gateway that runs.

Source: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md, and the comments of reflection.proto.
"""

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import (
    ExtensionRequest,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

import rpc
from gateway.mesh_services import contracts
from gateway.mesh_services.reflection import MAX_ANSWER, MAX_REQUEST, Reflection
from tests.gateway.backends import RawBackend
from tests.gateway.contracts import compile_proto
from tests.gateway.processes import GatewayProcess
from tests.gateway.worlds import World

OWN = [
    "google.longrunning.Operations",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
]
V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
V1ALPHA = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def shop(package: str, field: str, *, filler: int = 0) -> bytes:
    """A service whose file is called like everybody's, and declares a message that all declare, differently."""
    more = "".join(f"string filler_{'x' * 200}_{number} = {number};" for number in range(10, 10 + filler))
    return compile_proto(
        f"""
        syntax = "proto3";
        package {package};
        import "google/protobuf/descriptor.proto";
        import "google/protobuf/timestamp.proto";
        message Thing {{
          string {field} = 1;
          google.protobuf.Timestamp time = 2;
          Kind kind = 3;
          message Part {{ enum Size {{ SMALL = 0; }} Size size = 1; }}
          oneof choice {{ string left = 4; int32 right = 5; }}
          {more}
        }}
        enum Kind {{ KIND_UNSPECIFIED = 0; }}
        extend google.protobuf.FieldOptions {{ string {field}_note = {50000 + len(field)}; }}
        service Shop {{ rpc Buy(Thing) returns (Thing); }}
        """,
        "shop.proto",
    )


class Site:
    """A gateway that runs, and back-ends of the running test."""

    def __init__(self, gateway: GatewayProcess, nats_url: str, prefix: str) -> None:
        self.target = f"127.0.0.1:{gateway.port}"
        self.channel = grpc.aio.insecure_channel(self.target)
        self._nats_url = nats_url
        self._prefix = prefix
        self._backends: list[RawBackend] = []
        self._connections: list[rpc.Connection] = []

    async def backend(self, service: str, schema: bytes) -> RawBackend:
        self._connections.append(await rpc.connect(self._nats_url))
        backend = RawBackend(self._connections[-1], service, schema, prefix=self._prefix)
        await backend.start()
        self._backends.append(backend)
        await self.until(lambda: self.lists(service))
        return backend

    async def until(self, ask: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(10):
            while not await ask():
                await asyncio.sleep(0.02)

    async def lists(self, service: str) -> bool:
        return service in await self.services()

    async def services(self, method: str = V1) -> list[str]:
        (answer,) = await self.ask(ServerReflectionRequest(list_services=""), method=method)
        return [each.name for each in answer.list_services_response.service]

    async def ask(self, *requests: ServerReflectionRequest, method: str = V1) -> list[ServerReflectionResponse]:
        """Ask on one stream, one after the other."""
        call: Any = self.channel.stream_stream(
            method,
            request_serializer=ServerReflectionRequest.SerializeToString,
            response_deserializer=ServerReflectionResponse.FromString,
        )(timeout=10)
        answers = []
        for request in requests:
            await call.write(request)
            answers.append(await call.read())
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        return answers

    async def close(self) -> None:
        for backend in self._backends:
            await backend.stop()
        for connection in self._connections:
            await connection.close()
        await self.channel.close()


@pytest.fixture(scope="module")
def gateway(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, str]]:
    prefix = f"t{secrets.token_hex(4)}"
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), nats_url, prefix).start()
    yield gateway, prefix
    gateway.close()


@pytest.fixture
async def site(gateway: tuple[GatewayProcess, str], nats_url: str) -> AsyncIterator[Site]:
    site = Site(gateway[0], nats_url, gateway[1])
    yield site
    await site.close()


def files(answer: ServerReflectionResponse) -> dict[str, FileDescriptorProto]:
    """The files of an answer by name; the one that was asked for comes first."""
    found = [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]
    return {file.name: file for file in found}


def first(answer: ServerReflectionResponse) -> FileDescriptorProto:
    return next(iter(files(answer).values()))


def symbol(name: str) -> ServerReflectionRequest:
    return ServerReflectionRequest(file_containing_symbol=name)


async def test_the_client_of_grpcio_learns_a_service(site: Site) -> None:
    await site.backend("one.Shop", shop("one", "first"))

    def learn() -> tuple[list[str], list[str], set[int]]:
        with grpc.insecure_channel(site.target) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            service = pool.FindServiceByName("one.Shop")
            fields = [field.name for field in service.methods_by_name["Buy"].input_type.fields]
            numbers = set(database.FindAllExtensionNumbers("google.protobuf.FieldOptions"))
            assert pool.FindMessageTypeByName("one.Thing.Part").full_name == "one.Thing.Part"
            assert pool.FindFileByName("google/protobuf/timestamp.proto").package == "google.protobuf"
            with pytest.raises(KeyError):
                pool.FindMessageTypeByName("one.Nothing")
            return sorted(database.get_services()), fields, numbers

    services, fields, numbers = await asyncio.to_thread(learn)
    assert services == [*OWN, "one.Shop"]
    assert fields == ["first", "time", "kind", "left", "right"]
    assert numbers >= {50005}


@pytest.mark.parametrize("protocol", ["connect", "grpc", "grpcweb"])
async def test_buf_curl_knows_what_to_send(site: Site, protocol: str) -> None:
    await site.backend("one.Shop", shop("one", "first"))
    buf = [str(Path(sys.executable).with_name("buf")), "curl", "--http2-prior-knowledge", "--protocol", protocol]

    async def run(*words: str) -> str:
        result = await asyncio.to_thread(
            subprocess.run, [*buf, *words], capture_output=True, text=True, check=False, timeout=20
        )
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    listed = (await run("--list-methods", f"http://{site.target}")).split()
    assert {
        "one.Shop/Buy",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    } <= {*listed}
    answer = await run("-d", '{"first": "apple", "kind": 0}', f"http://{site.target}/one.Shop/Buy")
    assert json.loads(answer) == {"first": "apple"}


@pytest.mark.parametrize("method", [V1, V1ALPHA])
async def test_both_versions_list_the_mesh_as_it_is(site: Site, method: str) -> None:
    assert await site.services(method) == OWN
    backend = await site.backend("two.Shop", shop("two", "second"))
    assert await site.services(method) == [*OWN, "two.Shop"]
    await backend.stop()
    await site.until(lambda: _not(site.lists("two.Shop")))
    # What it looked like is still known: the gateway has its routes, too.
    (answer,) = await site.ask(symbol("two.Shop"), method=method)
    assert first(answer).name == "shop.proto"


async def _not(answer: Awaitable[bool]) -> bool:
    return not await answer


@pytest.mark.parametrize(
    "name",
    [
        "two.Shop",
        "two.Shop.Buy",
        ".two.Shop",
        "two.Thing",
        "two.Thing.second",
        "two.Thing.choice",
        "two.Thing.Part",
        "two.Thing.Part.Size",
        "two.Thing.Part.SMALL",
        "two.Kind",
        "two.KIND_UNSPECIFIED",
        "two.second_note",
    ],
)
async def test_the_file_of_every_kind_of_symbol(site: Site, name: str) -> None:
    await site.backend("two.Shop", shop("two", "second"))
    (answer,) = await site.ask(symbol(name))
    assert answer.original_request == symbol(name)
    assert first(answer).package == "two"
    # With all that it imports, so that nobody has to ask again.
    assert list(files(answer)) == ["shop.proto", "google/protobuf/descriptor.proto", "google/protobuf/timestamp.proto"]


async def test_files_of_one_name_are_those_of_the_service_asked_for(site: Site) -> None:
    await site.backend("one.Shop", shop("one", "first"))
    await site.backend("two.Shop", shop("two", "second"))
    by_name = ServerReflectionRequest(file_by_filename="shop.proto")
    answers = await site.ask(symbol("two.Shop"), by_name, symbol("one.Shop.Buy"), by_name)
    assert [first(answer).package for answer in answers] == ["two", "two", "one", "one"]
    # What was sent before is not sent again on the same stream.
    assert [len(files(answer)) for answer in answers] == [3, 1, 1, 1]
    extension = ServerReflectionRequest(
        file_containing_extension=ExtensionRequest(
            containing_type="google.protobuf.FieldOptions", extension_number=50006
        )
    )
    (answer,) = await site.ask(extension)
    assert first(answer).package == "two"
    every = ServerReflectionRequest(all_extension_numbers_of_type="google.protobuf.FieldOptions")
    (answer,) = await site.ask(every)
    assert {50005, 50006} <= set(answer.all_extension_numbers_response.extension_number)


async def test_symbols_that_two_services_declare_differently(site: Site) -> None:
    contents = [shop("same", "first"), shop("same", "second").replace(b"Shop", b"Mart")]
    await site.backend("same.Shop", contents[0])
    await site.backend("same.Mart", contents[1])
    answers = await site.ask(
        symbol("same.Mart"), symbol("same.Thing"), symbol("same.Shop.Buy"), symbol("same.Thing"), symbol("same.Kind")
    )
    fields = [first(answer).message_type[0].field[0].name for answer in answers]
    assert fields == ["second", "second", "first", "first", "first"]


async def test_mistakes_are_answered_and_the_stream_goes_on(site: Site) -> None:
    answers = await site.ask(
        symbol("no.Such"),
        ServerReflectionRequest(file_by_filename="no.proto"),
        ServerReflectionRequest(all_extension_numbers_of_type="no.Type"),
        ServerReflectionRequest(file_containing_extension=ExtensionRequest(containing_type="a", extension_number=1)),
        ServerReflectionRequest(host="here"),
        ServerReflectionRequest(all_extension_numbers_of_type="grpc.reflection.v1.ErrorResponse"),
    )
    codes = [answer.error_response.error_code for answer in answers]
    not_found, invalid = grpc.StatusCode.NOT_FOUND.value[0], grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert codes == [not_found] * 4 + [invalid, 0]
    assert answers[4].valid_host == "here"
    assert list(answers[5].all_extension_numbers_response.extension_number) == []


@pytest.mark.parametrize("data", [b"\xff\xff", symbol("x" * MAX_REQUEST).SerializeToString()])
async def test_garbage_ends_the_stream(site: Site, data: bytes) -> None:
    call: Any = site.channel.stream_stream(V1)(iter([data]), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_answers_are_bounded() -> None:
    large = shop("large", "first", filler=9500)
    assert len(large) > MAX_ANSWER
    reflection = Reflection(lambda: {"large.Shop": large}, lambda: ["large.Shop"])

    async def requests() -> AsyncIterator[bytes]:
        yield symbol("large.Shop").SerializeToString()
        yield ServerReflectionRequest(file_by_filename="google/protobuf/timestamp.proto").SerializeToString()

    answers = [ServerReflectionResponse.FromString(data) async for data in reflection.serve(requests())]
    # What it imports has to be asked for.
    assert [list(files(answer)) for answer in answers] == [["shop.proto"], ["google/protobuf/timestamp.proto"]]


async def test_a_reflection_of_a_back_end_does_not_disturb(site: Site) -> None:
    backend = await site.backend("one.Shop", shop("one", "first"))
    theirs = RawBackend(backend.connection, OWN[2], contracts.reflection(), prefix=backend.prefix.rstrip("."))
    await theirs.start()
    await site.backend("two.Shop", shop("two", "second"))  # Later, so the other is known by now.
    assert await site.services() == [*OWN, "one.Shop", "two.Shop"]
    assert theirs.requests == []
    await theirs.stop()


async def test_it_can_be_switched_off(world: World) -> None:
    client = await world.ready_gateway(reflection=False, health=False, operations=False)
    for path in (V1, V1ALPHA, "/grpc.health.v1.Health/Check", "/google.longrunning.Operations/ListOperations"):
        assert (await client.post(path)).status == 404
