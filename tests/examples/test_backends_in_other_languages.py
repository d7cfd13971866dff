"""One contract, held against a back-end in Node that was written from docs/wire-protocol.md, and against ours."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

import rpc
from rpc.embedded import Broker

ROOT = Path(__file__).parents[2]
NODE_BACKEND = ROOT / "examples" / "node-backend"
PROTO = NODE_BACKEND / "proto"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Generated code of the contract, and its descriptor set."""
    folder = tmp_path_factory.mktemp("ticker")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", "ticker/v1/ticker.proto", "--include_imports"]
    outputs = [f"--python_out={folder}", f"--grpc_python_out={folder}", f"--descriptor_set_out={folder}/ticker.binpb"]
    subprocess.run(
        [*command, *outputs],
        check=True,
        timeout=60,
    )
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def node_modules() -> None:
    """Installs what the example needs, once."""
    if not (NODE_BACKEND / "node_modules" / ".package-lock.json").exists():
        assert shutil.which("npm"), "Node is missing: install it (Debian, Ubuntu: apt install nodejs npm)"
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=NODE_BACKEND, check=True, timeout=120)


@pytest.fixture(params=[pytest.param("node", marks=pytest.mark.node), "python"])
async def stub(request: pytest.FixtureRequest, generated: Path) -> AsyncIterator[Any]:
    with Broker(port=0, max_payload=1024 * 1024) as broker:
        if request.param == "node":
            request.getfixturevalue("node_modules")
            command = ["node", "ticker.mjs", str(generated / "ticker.binpb"), broker.url]
        else:
            command = [sys.executable, str(Path(__file__).with_name("python_ticker.py")), broker.url, str(generated)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = await asyncio.create_subprocess_exec(
            *command, cwd=NODE_BACKEND, stdout=asyncio.subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), 20)
            assert line.startswith(b"serving"), line
            async with rpc.Channel(broker.url) as channel:
                stub = importlib.import_module("ticker.v1.ticker_pb2_grpc").TickerStub(channel)
                stub.pb = importlib.import_module("ticker.v1.ticker_pb2")
                stub.url = broker.url
                stub.process = process
                yield stub
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def running(stub: Any, watches: int) -> None:
    """Waits until so many Watch calls are under way in the back-end."""
    async with asyncio.timeout(10):
        while (await stub.Running(stub.pb.RunningRequest(), timeout=5)).watches != watches:
            await asyncio.sleep(0.01)


async def test_a_unary_call(stub: Any) -> None:
    call = stub.Quote(stub.pb.QuoteRequest(symbol="NATS", note=b"n"), timeout=5, metadata=(("x-echo", "back"),))
    assert await call == stub.pb.QuoteReply(price=4222, note=b"n")
    assert dict(await call.trailing_metadata()) == {"x-echo": "back"}


async def test_an_error(stub: Any) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Quote(stub.pb.QuoteRequest(symbol="äöü % 日本"), timeout=5)
    assert (caught.value.code(), caught.value.details()) == (StatusCode.NOT_FOUND, "no such symbol: äöü % 日本")


async def test_a_deadline(stub: Any) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Quote(stub.pb.QuoteRequest(symbol="SLEEP"), timeout=0.2)
    assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED


async def test_a_method_that_is_not_there(stub: Any) -> None:
    async with rpc.Channel(stub.url) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await channel.unary_unary("/ticker.v1.Ticker/Nope")(b"", timeout=5)
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


async def test_a_compressed_request(stub: Any) -> None:
    import grpc

    answer = await stub.Quote(
        stub.pb.QuoteRequest(symbol="NATS", note=bytes(10_000)), timeout=5, compression=grpc.Compression.Gzip
    )
    assert answer.note == bytes(10_000)


@pytest.mark.parametrize("size", [0, 1_000_000, 3_000_000])
async def test_large_messages(stub: Any, size: int) -> None:
    """Above the broker's limit of 1 MiB they go in packets, each way."""
    note = os.urandom(size)
    assert (await stub.Quote(stub.pb.QuoteRequest(symbol="NATS", note=note), timeout=10)).note == note


async def test_a_stream(stub: Any) -> None:
    call = stub.Watch(stub.pb.WatchRequest(symbol="NATS", count=2000, padding=3), timeout=20)
    ticks = [tick async for tick in call]
    assert [tick.number for tick in ticks] == list(range(2000))
    assert {tick.padding for tick in ticks} == {bytes(3)}
    assert await call.code() is StatusCode.OK


async def test_a_stream_beyond_the_window(stub: Any) -> None:
    call = stub.Watch(stub.pb.WatchRequest(symbol="NATS", count=20, padding=700_000), timeout=20)
    assert [len(tick.padding) async for tick in call] == [700_000] * 20


async def test_a_stream_that_ends_with_an_error(stub: Any) -> None:
    call = stub.Watch(stub.pb.WatchRequest(symbol="GRPC"), timeout=5)
    assert (await call.read()).number == 0
    with pytest.raises(aio.AioRpcError) as caught:
        await call.read()
    assert (caught.value.code(), caught.value.details()) == (StatusCode.NOT_FOUND, "no such symbol: GRPC")


async def test_a_slow_reader_slows_the_writer(stub: Any) -> None:
    call = stub.Watch(stub.pb.WatchRequest(symbol="NATS", padding=100_000), timeout=20)
    assert (await call.read()).number == 0
    # The writer stops at the credit: what comes after a pause is what was due, not what has piled up since.
    await running(stub, 1)
    numbers = [(await call.read()).number for _ in range(50)]
    assert numbers == list(range(1, 51))
    call.cancel()
    await running(stub, 0)


async def test_cancel_reaches_the_handler(stub: Any) -> None:
    call = stub.Watch(stub.pb.WatchRequest(symbol="NATS", pause_ms=5), timeout=20)
    assert (await call.read()).number == 0
    await running(stub, 1)
    call.cancel()
    await running(stub, 0)


async def test_a_caller_that_is_gone_ends_the_handler(stub: Any) -> None:
    script = (
        "import asyncio, sys, rpc\n"
        "async def main():\n"
        "    channel = rpc.Channel(sys.argv[1])\n"
        "    call = channel.unary_stream('/ticker.v1.Ticker/Watch')(bytes.fromhex(sys.argv[2]))\n"
        "    async for _ in call: print('tick', flush=True)\n"
        "asyncio.run(main())\n"
    )
    request = stub.pb.WatchRequest(symbol="NATS", pause_ms=100).SerializeToString().hex()
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stub.url, request, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert caller.stdout is not None
    await asyncio.wait_for(caller.stdout.readline(), 20)
    await running(stub, 1)
    caller.kill()
    await caller.wait()
    await running(stub, 0)


async def test_a_backend_that_is_killed_ends_the_call(stub: Any) -> None:
    call = stub.Watch(stub.pb.WatchRequest(symbol="NATS", pause_ms=50))
    assert (await call.read()).number == 0
    stub.process.kill()

    async def read_on() -> None:
        while (await call.read()) is not aio.EOF:
            pass

    with pytest.raises(aio.AioRpcError) as caught:
        await asyncio.wait_for(read_on(), 5)
    assert caught.value.code() is StatusCode.UNAVAILABLE


async def test_it_drains(stub: Any) -> None:
    calls = [stub.Quote(stub.pb.QuoteRequest(symbol="SLEEP"), timeout=5) for _ in range(20)]
    await asyncio.sleep(0)
    await stub.Running(stub.pb.RunningRequest(), timeout=5)
    stub.process.send_signal(signal.SIGTERM)
    assert {(await call).price for call in calls} == {4222}
    assert await asyncio.wait_for(stub.process.wait(), 10) == 0


async def test_discovery(stub: Any) -> None:
    connection = await rpc.connect(stub.url)
    try:
        (info,) = await rpc.discover(connection, "info", "ticker.v1.Ticker")
        assert info["metadata"]["mesh-service"] == "ticker.v1.Ticker"
        assert {endpoint["name"] for endpoint in info["endpoints"]} == {"Quote", "Watch", "Running"}
        schema = await rpc.fetch_schema(connection, info["metadata"]["mesh-schema"])
        assert b"ticker/v1/ticker.proto" in schema
        (stats,) = await rpc.discover(connection, "stats", "ticker.v1.Ticker")
        assert json.dumps(stats)
    finally:
        await connection.close()
