"""The reference services run on all of it, unchanged."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from google.api import httpbody_pb2
from grpc import StatusCode

from concierge.v1 import concierge_pb2, concierge_pb2_grpc
from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from services.concierge import Concierge
from services.greeter import Greeter
from services.thumbnails import Thumbnailer
from tests.contract.meshes import TIMEOUT, Mesh, status
from tests.services import images
from thumbnail.v1 import thumbnail_pb2, thumbnail_pb2_grpc


async def test_the_greeter(mesh: Mesh) -> None:
    server = mesh.server()
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    stub = greeter_pb2_grpc.GreeterStub(mesh.channel())
    assert (await stub.SayHello(greeter_pb2.HelloRequest(name="Ada"), timeout=TIMEOUT)).message == "Hello, Ada!"


async def test_the_concierge_calls_the_greeter(mesh: Mesh) -> None:
    server = mesh.server()
    channel = mesh.channel()
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    concierge_pb2_grpc.add_ConciergeServicer_to_server(Concierge(channel), server)
    await server.start()
    stub = concierge_pb2_grpc.ConciergeStub(mesh.channel())
    response = await stub.Welcome(concierge_pb2.WelcomeRequest(guests=["Ada", "Grace"]), timeout=TIMEOUT)
    assert list(response.greetings) == ["Hello, Ada!", "Hello, Grace!"]


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
async def test_the_thumbnailer(mesh: Mesh, threads: ThreadPoolExecutor, name: str) -> None:
    server = mesh.server(migration_thread_pool=threads)
    thumbnail_pb2_grpc.add_ThumbnailerServicer_to_server(Thumbnailer(), server)
    await server.start()
    stub = thumbnail_pb2_grpc.ThumbnailerStub(mesh.channel())
    image = httpbody_pb2.HttpBody(data=images.encode(images.quarters(), name))
    request = thumbnail_pb2.CreateThumbnailRequest(image=image, width=100)
    assert images.decode((await stub.CreateThumbnail(request, timeout=TIMEOUT)).data).size == (100, 75)
    text = httpbody_pb2.HttpBody(data=b"Dear Sir or Madam,")
    request = thumbnail_pb2.CreateThumbnailRequest(image=text, width=100)
    code, details = await status(stub.CreateThumbnail(request, timeout=TIMEOUT))
    assert code is StatusCode.INVALID_ARGUMENT
    assert details.startswith("image: not a JPEG, PNG or WebP file")
