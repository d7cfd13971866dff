"""Durable jobs by Connect, gRPC and gRPC-Web at a gateway that runs; gateways, workers and brokers that end."""

import asyncio
import contextlib
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError

import rpc
from gateway.app import Gateway
from gateway.config import Config
from rpc.embedded import Broker, find_server
from tests.gateway import works
from tests.gateway.asgi import Client
from tests.gateway.backends import RawBackend
from tests.gateway.processes import GatewayProcess, free_port
from tests.gateway.works import SERVICE, Works, message, schema, serve

TIMEOUT = 10.0
OPERATIONS = "/google.longrunning.Operations"
UNKNOWN = f"operations/{SERVICE}/Print/0"
Operation = operations_pb2.Operation


@pytest.fixture(scope="module")
def gateway(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that was started when a worker had been there, and was gone."""
    prefix = f"t{secrets.token_hex(4)}"

    async def come_and_go() -> None:
        await (await serve(nats_url, prefix, Works())).stop(None)

    asyncio.run(come_and_go())
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), nats_url, prefix).start()
    yield gateway
    gateway.close()


@pytest.fixture
async def worker(gateway: GatewayProcess) -> AsyncIterator[Works]:
    works = Works("one")
    server = await serve(gateway.options["nats_url"], gateway.options["prefix"], works)
    yield works
    await server.stop(None)


@pytest.fixture
async def channel(gateway: GatewayProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    untyped: Any = operations_pb2_grpc.OperationsStub
    return untyped(channel)


async def print_by_grpc(channel: grpc.aio.Channel, **fields: str) -> Any:
    call = channel.unary_unary(
        f"/{SERVICE}/Print",
        request_serializer=message("PrintRequest").SerializeToString,
        response_deserializer=Operation.FromString,
    )
    return await call(message("PrintRequest")(**fields), timeout=TIMEOUT)


async def code_of(call: Awaitable[Any]) -> StatusCode:
    with pytest.raises(AioRpcError) as failed:
        await call
    return failed.value.code()


async def test_grpc(channel: grpc.aio.Channel, stub: Any, worker: Works) -> None:
    operation = await print_by_grpc(channel, text="hello")
    done = await stub.WaitOperation(operations_pb2.WaitOperationRequest(name=operation.name), timeout=TIMEOUT)
    printed = message("PrintResponse")()
    assert done.response.Unpack(printed)
    assert (printed.printed, printed.printer) == ("hello", "one")
    assert await stub.GetOperation(operations_pb2.GetOperationRequest(name=operation.name), timeout=TIMEOUT) == done
    request = operations_pb2.ListOperationsRequest(name="operations", filter="done=true", page_size=1)
    page = await stub.ListOperations(request, timeout=TIMEOUT)
    assert page.operations
    await stub.DeleteOperation(operations_pb2.DeleteOperationRequest(name=operation.name), timeout=TIMEOUT)
    get = stub.GetOperation(operations_pb2.GetOperationRequest(name=operation.name), timeout=TIMEOUT)
    assert await code_of(get) is StatusCode.NOT_FOUND
    held = await print_by_grpc(channel, fate="hold")
    wait = operations_pb2.WaitOperationRequest(name=held.name, timeout=duration_pb2.Duration(nanos=1000000))
    assert not (await stub.WaitOperation(wait, timeout=TIMEOUT)).done
    await stub.CancelOperation(operations_pb2.CancelOperationRequest(name=held.name), timeout=TIMEOUT)
    cancelled = await stub.GetOperation(operations_pb2.GetOperationRequest(name=held.name), timeout=TIMEOUT)
    assert cancelled.error.code == 1
    await asyncio.wait_for(worker.cancelled.wait(), TIMEOUT)


async def test_grpc_statuses(stub: Any) -> None:
    get, cancel = operations_pb2.GetOperationRequest, operations_pb2.CancelOperationRequest
    assert await code_of(stub.GetOperation(get(name=UNKNOWN), timeout=TIMEOUT)) is StatusCode.NOT_FOUND
    assert await code_of(stub.CancelOperation(cancel(name=UNKNOWN), timeout=TIMEOUT)) is StatusCode.NOT_FOUND
    assert await code_of(stub.GetOperation(get(name="x"), timeout=TIMEOUT)) is StatusCode.INVALID_ARGUMENT
    listing = operations_pb2.ListOperationsRequest(filter="x")
    assert await code_of(stub.ListOperations(listing, timeout=TIMEOUT)) is StatusCode.INVALID_ARGUMENT


async def test_connect(gateway: GatewayProcess, worker: Works) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:

        async def call(path: str, body: dict[str, Any]) -> httpx.Response:
            return await client.post(path, json=body)

        name = (await call(f"/{SERVICE}/Print", {"text": "hello"})).json()["name"]
        done = (await call(f"{OPERATIONS}/WaitOperation", {"name": name})).json()
        response = {"@type": "type.googleapis.com/works.v1.PrintResponse", "printed": "hello", "attempt": 1}
        assert done == {"name": name, "done": True, "response": {**response, "printer": "one"}}
        assert (await call(f"{OPERATIONS}/GetOperation", {"name": name})).json() == done
        listed = (await call(f"{OPERATIONS}/ListOperations", {"filter": "done=true"})).json()
        assert done in listed["operations"]
        failed = await call(f"{OPERATIONS}/GetOperation", {"name": UNKNOWN})
        assert (failed.status_code, failed.json()["code"]) == (404, "not_found")
        request = message("PrintRequest")(text="binary").SerializeToString()
        headers = {"content-type": "application/proto"}
        answer = await client.post(f"/{SERVICE}/Print", content=request, headers=headers)
        assert Operation.FromString(answer.content).name.startswith(f"operations/{SERVICE}/Print/")
        # Compressed in a way that connectrpc takes over: the same JSON.
        compressed = {"content-type": "application/json", "accept-encoding": "gzip", "connect-protocol-version": "1"}
        answer = await client.post(
            f"{OPERATIONS}/GetOperation", content=json.dumps({"name": name}).encode(), headers=compressed
        )
        assert answer.json() == done


async def test_grpc_web(gateway: GatewayProcess, worker: Works) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:

        async def call(path: str, request: Any) -> tuple[bytes, bytes]:
            """Return (message, trailers)."""
            data = request.SerializeToString()
            answer = await client.post(
                path,
                content=b"\0" + len(data).to_bytes(4, "big") + data,
                headers={"content-type": "application/grpc-web+proto"},
            )
            parts, body = {0: b"", 0x80: b""}, answer.content
            while body:
                size = 5 + int.from_bytes(body[1:5], "big")
                parts[body[0]] += body[5:size]
                body = body[size:]
            return parts[0], parts[0x80]

        data, trailers = await call(f"/{SERVICE}/Print", message("PrintRequest")(text="web"))
        assert b"grpc-status: 0" in trailers
        name = Operation.FromString(data).name
        data, _ = await call(f"{OPERATIONS}/WaitOperation", operations_pb2.WaitOperationRequest(name=name))
        assert Operation.FromString(data).done
        _, trailers = await call(f"{OPERATIONS}/GetOperation", operations_pb2.GetOperationRequest(name=UNKNOWN))
        assert b"grpc-status: 5" in trailers


# ---------------------------------------------------------------------------------------------------- ends and begins


class WorkerProcess:
    def __init__(self, url: str, prefix: str, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, works.__file__, url, prefix, name], stdout=subprocess.PIPE, text=True
        )

    def wait_up(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def until(client: httpx.Client, path: str, reached: Callable[[Any], bool], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.TransportError):
            answer = client.get(path)
            if answer.status_code == 200 and reached(answer.json()):
                return answer.json()
        assert time.monotonic() < end, path
        time.sleep(0.05)


def test_a_worker_is_killed_and_the_gateway_restarted(nats_url: str, tmp_path: Path) -> None:
    prefix = f"t{secrets.token_hex(4)}"
    first, second = (WorkerProcess(nats_url, prefix, name) for name in ("first", "second"))
    gateway = GatewayProcess(tmp_path, nats_url, prefix).start()
    try:
        first.wait_up()
        second.wait_up()
        with httpx.Client(base_url=gateway.url, timeout=20) as client:
            until(client, "/v1/operations", lambda _: True)
            held = client.post("/v1/prints", json={"fate": "hold"}).json()["name"]
            until(client, f"/v1/{held}", lambda shown: "metadata" in shown)
            first.kill()
            second.kill()
            assert client.get(f"/v1/{held}").json()["metadata"]["pages"] == 1
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        gateway.start()  # The queue, the operations and the contract are all that is left.
        with httpx.Client(base_url=gateway.url, timeout=20) as client:
            name = client.post("/v1/prints", json={"text": "still"}).json()["name"]
            listed = client.get("/v1/operations").json()["operations"]
            assert [each["name"] for each in listed] == [held, name]
            assert listed[0]["metadata"] == {"@type": "type.googleapis.com/works.v1.PrintProgress", "pages": 1}
            third = WorkerProcess(nats_url, prefix, "third")
            try:
                done = client.post(f"/v1/{name}:wait", json={}).json()
                assert (done["response"]["printed"], done["response"]["printer"]) == ("still", "third")
                assert client.post(f"/v1/{held}:cancel").json() == {}
                assert client.get(f"/v1/{held}").json()["error"]["code"] == 1
            finally:
                third.kill()
    finally:
        for worker in (first, second):
            worker.kill()
        gateway.close()


async def test_the_broker_is_away(tmp_path: Path) -> None:
    port = free_port()
    broker = Broker(port=port, store_dir=tmp_path)
    broker.start()
    gateway = Gateway(Config(nats_url=broker.url))
    try:
        await (await serve(broker.url, "", Works())).stop(None)
        await gateway.start()
        await asyncio.wait_for(gateway.ready(), TIMEOUT)
        client = Client(gateway)
        name = (await client.post("/v1/prints", json={})).json["name"]
        broker.stop()
        assert (await client.get(f"/v1/{name}")).status == 503
        assert (await client.get("/v1/operations")).status == 503
        assert (await client.post("/v1/prints", json={}, headers={"grpc-timeout": "300m"})).status == 503
        waiting = asyncio.create_task(client.post("/v1/prints", json={}))  # It has 30 seconds.
        broker = Broker(port=port, store_dir=tmp_path)
        broker.start()
        assert (await waiting).status == 200
        listed = (await client.get("/v1/operations")).json["operations"]
        assert [each["name"] for each in listed] == [name, (await waiting).json["name"]]
    finally:
        await gateway.close()
        broker.stop()


@contextlib.contextmanager
def without_jetstream() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([find_server(), "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def connected(url: str) -> rpc.Connection:
    async with asyncio.timeout(TIMEOUT):
        while True:
            with contextlib.suppress(ConnectionError):
                return await rpc.connect(url)
            await asyncio.sleep(0.02)


async def test_jetstream_is_off() -> None:
    with without_jetstream() as url:
        connection = await connected(url)
        backend = RawBackend(connection, SERVICE, schema())
        await backend.start()
        gateway = Gateway(Config(nats_url=url))
        started = time.monotonic()
        await gateway.start()
        try:
            await asyncio.wait_for(gateway.ready(), TIMEOUT)
            assert time.monotonic() - started < 2.0
            client = Client(gateway)
            for method, path in (("GET", "operations"), ("GET", UNKNOWN), ("POST", f"{UNKNOWN}:cancel")):
                answer = await client.request(method, f"/v1/{path}")
                assert answer.status == 503, answer
                assert "JetStream" in answer.json["message"]
            answer = await client.post("/v1/prints", json={}, headers={"grpc-timeout": "500m"})
            assert answer.status == 503
            assert "JetStream" in answer.json["message"]
        finally:
            await gateway.close()
            await backend.stop()
            await connection.close()
