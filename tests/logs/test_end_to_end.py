"""From programs over the mesh into the collector, and out by ``natsmesh logs``: all of it real processes."""

import asyncio
import json
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rpc
from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from tests.cli.commands import Command, Commands, closing, free_port

ROOT = Path(__file__).parent.parent.parent
COLLECTOR, DYING = "services.logs:Logs", "tests.services.dying:DyingLogs"
SERVING = r"serving .* as instance"


@pytest.fixture
def prefix() -> str:
    """A mesh of its own for each test: they share a broker."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def commands(nats_url: str, prefix: str, tmp_path: Path) -> Iterator[Commands]:
    variables = {"NATS_URL": nats_url, "NATSMESH_PREFIX": prefix, "LOGS_DB": str(tmp_path / "logs.duckdb")}
    with closing(Commands(ROOT, **variables)) as commands:
        yield commands


def log(commands: Commands, *words: str) -> list[str]:
    """The lines that ``natsmesh logs`` prints."""
    result = commands.run("logs", *words)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def wait_for(commands: Commands, number: int, *words: str) -> list[str]:
    limit = time.monotonic() + 20
    while len(lines := log(commands, *words)) < number:
        assert time.monotonic() < limit, lines
    return lines


async def test_a_killed_collector_keeps_each_record_once(commands: Commands, nats_url: str, prefix: str) -> None:
    import logging

    logger = logging.Logger("shop.orders")  # noqa: LOG001 - of no hierarchy
    handler = rpc.LogHandler("shop", target=nats_url, prefix=prefix)
    logger.addHandler(handler)
    for number in range(5000):
        logger.info("order %d", number)
    assert handler.dropped == 0
    dying = commands.start("serve", DYING)
    assert await asyncio.to_thread(dying.ends) == -signal.SIGKILL
    process = commands.start("serve", COLLECTOR)
    await asyncio.to_thread(process.says, SERVING)
    await asyncio.to_thread(handler.close)
    lines = await asyncio.to_thread(wait_for, commands, 5000, "--service", "shop", "-n", "6000")
    assert sorted(line.split(": ")[1] for line in lines) == sorted(f"order {number}" for number in range(5000))
    assert all("INFO  shop shop.orders: order" in line for line in lines)


async def test_one_call_is_followed_by_its_trace(commands: Commands, nats_url: str, prefix: str) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    collector = commands.start("serve", COLLECTOR, NATSMESH_LOGS="mesh")
    greeter = commands.start(
        "serve", "tests.telemetry.traced_greeter:TracedGreeter", NATSMESH_LOGS="mesh", OTEL_TRACES_EXPORTER="console"
    )
    for process in (collector, greeter):
        await asyncio.to_thread(process.says, SERVING)
    follower = commands.start("logs", "--follow", "--trace", trace, "--since", "1m")
    async with rpc.Channel(nats_url, prefix=prefix) as channel:
        stub = greeter_pb2_grpc.GreeterStub(channel)
        for name, metadata in (("Ada", [("traceparent", f"00-{trace}-00f067aa0ba902b7-01")]), ("Bob", [])):
            await stub.SayHello(greeter_pb2.HelloRequest(name=name), metadata=metadata, timeout=10)
        await asyncio.to_thread(follower.says, f"greeter.v1.Greeter traced_greeter: greeting Ada .*trace_id={trace}")
        # The collector dies and comes back: who follows misses nothing, and sees nothing twice.
        collector.kill()
        metadata = [("traceparent", f"00-{trace}-00f067aa0ba902b7-01")]
        await stub.SayHello(greeter_pb2.HelloRequest(name="Cyd"), metadata=metadata, timeout=10)
        commands.start("serve", COLLECTOR)
        await asyncio.to_thread(follower.says, "greeting Cyd")
    assert follower.count("greeting Ada") == follower.count("greeting Cyd") == 1
    assert follower.count("Bob") == 0
    assert follower.stop(signal.SIGINT) == 130
    assert "Traceback" not in follower.output
    assert follower.count(r"mesh\.v1\.Logs") == 0
    (line,) = log(commands, "--text", "greeting bob", "--json")
    assert json.loads(line)["service"] == "greeter.v1.Greeter"
    assert json.loads(line)["instance"]


def test_syslog_comes_out_as_any_other_log(commands: Commands) -> None:
    port = free_port()
    commands.start("serve", COLLECTOR).says(SERVING)
    syslog = commands.start("syslog", "--listen", f"127.0.0.1:{port}")
    syslog.says("syslog over UDP and TCP is taken at 127.0.0.1")
    with socket.create_connection(("127.0.0.1", port)) as stream:
        message = b"<11>1 2020-01-02T03:04:05Z rack-7 backup 99 - - disk full"
        stream.sendall(b"%d %s<12>cron[7]: late\n" % (len(message), message))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"<14>1 - - door - - - open \x1b[2J sesame", ("127.0.0.1", port))
    lines = wait_for(commands, 2)
    assert any(line.endswith("WARN  cron: late") for line in lines)
    assert any(line.endswith("INFO  door: open \\x1b[2J sesame") for line in lines)
    assert "disk full" not in "".join(lines), "it is too old to be kept"
    second = commands.start("syslog", "--listen", f"127.0.0.1:{port}")
    assert second.ends() == 4
    assert syslog.stop() == 0


def test_without_a_collector_it_says_how_to_start_one(commands: Commands) -> None:
    for words in (["logs"], ["logs", "--follow"]):
        result = commands.run(*words)
        assert result.returncode == 5
        assert "natsmesh serve services.logs:Logs" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["logs", "--level", "loud"], "Invalid value for '--level'"),
        (["logs", "--since", "yesterday"], "expected seconds, or a time such as"),
        (["syslog", "--listen", "5514"], "expected HOST:PORT"),
    ],
)
def test_mistakes_are_explained(commands: Commands, words: list[str], message: str) -> None:
    result = commands.run(*words)
    assert result.returncode == 2
    assert message in result.stderr


def test_trace_that_is_none(commands: Commands) -> None:
    process: Command = commands.start("serve", COLLECTOR)
    process.says(SERVING)
    result = commands.run("logs", "--trace", "xyz")
    assert result.returncode == 64 + 3
    assert "expected 32 hexadecimal digits" in result.stderr
