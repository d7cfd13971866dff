"""The servicers of grpcio-health-checking and grpcio-reflection, as they are."""

from typing import Any

import grpc_health.v1.health as health_servicer
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import StatusCode
from grpc.aio import EOF
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos import probe_pb2

SERVICE = "probe.v1.Probe"
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


async def serve_health(mesh: Mesh, servicer: Any) -> health_pb2_grpc.HealthStub:
    server = mesh.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await server.start()
    return health_pb2_grpc.HealthStub(mesh.channel())


async def test_health_check(mesh: Mesh) -> None:
    servicer = health_servicer.aio.HealthServicer()
    stub = await serve_health(mesh, servicer)
    assert (await stub.Check(HealthCheckRequest(), timeout=TIMEOUT)).status == SERVING
    error = await failure(stub.Check(HealthCheckRequest(service=SERVICE), timeout=TIMEOUT))
    assert error.code() is StatusCode.NOT_FOUND
    await servicer.set(SERVICE, NOT_SERVING)
    assert (await stub.Check(HealthCheckRequest(service=SERVICE), timeout=TIMEOUT)).status == NOT_SERVING


async def test_health_watch(mesh: Mesh) -> None:
    servicer = health_servicer.aio.HealthServicer()
    stub = await serve_health(mesh, servicer)
    watch = stub.Watch(HealthCheckRequest(service=SERVICE), timeout=TIMEOUT)
    assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
    for status in (SERVING, NOT_SERVING, SERVING):
        await servicer.set(SERVICE, status)
        assert (await watch.read()).status == status
    await servicer.enter_graceful_shutdown()
    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()
    assert await watch.code() is StatusCode.CANCELLED


async def test_many_watch_and_go(mesh: Mesh) -> None:
    servicer = health_servicer.aio.HealthServicer()
    stub = await serve_health(mesh, servicer)
    watches = [stub.Watch(HealthCheckRequest(service=SERVICE), timeout=TIMEOUT) for _ in range(10)]
    for watch in watches:
        await watch.read()
    for watch in watches[::2]:
        watch.cancel()
    await servicer.set(SERVICE, SERVING)
    assert [(await watch.read()).status for watch in watches[1::2]] == [SERVING] * 5


async def test_the_sync_health_servicer(mesh: Mesh) -> None:
    servicer = health_servicer.HealthServicer()
    stub = await serve_health(mesh, servicer)
    servicer.set(SERVICE, SERVING)
    assert (await stub.Check(HealthCheckRequest(service=SERVICE), timeout=TIMEOUT)).status == SERVING


async def serve_reflection(mesh: Mesh) -> reflection_pb2_grpc.ServerReflectionStub:
    server = mesh.server()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer.aio.HealthServicer(), server)
    reflection.enable_server_reflection((health_servicer.SERVICE_NAME, SERVICE, reflection.SERVICE_NAME), server)
    await server.start()
    return reflection_pb2_grpc.ServerReflectionStub(mesh.channel())


async def ask(stub: reflection_pb2_grpc.ServerReflectionStub, *requests: Any) -> list[ServerReflectionResponse]:
    return [response async for response in stub.ServerReflectionInfo(requests, timeout=TIMEOUT)]


async def test_reflection_lists_services(mesh: Mesh) -> None:
    (response,) = await ask(await serve_reflection(mesh), ServerReflectionRequest(list_services=""))
    assert sorted(service.name for service in response.list_services_response.service) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        SERVICE,
    ]


async def test_reflection_gives_descriptors(mesh: Mesh) -> None:
    by_symbol, by_name, unknown = await ask(
        await serve_reflection(mesh),
        ServerReflectionRequest(file_containing_symbol=SERVICE),
        ServerReflectionRequest(file_by_filename=health_pb2.DESCRIPTOR.name),
        ServerReflectionRequest(file_containing_symbol="nobody.knows.This"),
    )
    files = by_symbol.file_descriptor_response.file_descriptor_proto
    assert probe_pb2.DESCRIPTOR.name in [FileDescriptorProto.FromString(file).name for file in files]
    (file, *_) = by_name.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(file).package == health_pb2.DESCRIPTOR.package
    assert unknown.error_response.error_code == StatusCode.NOT_FOUND.value[0]


async def test_reflection_as_a_conversation(mesh: Mesh) -> None:
    call = (await serve_reflection(mesh)).ServerReflectionInfo(timeout=TIMEOUT)
    for _ in range(3):
        await call.write(ServerReflectionRequest(list_services=""))
        assert len((await call.read()).list_services_response.service) == 3
    await call.done_writing()
    assert await call.read() is EOF
