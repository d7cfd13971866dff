"""``rpc.LogHandler`` in real processes and threads, over a real broker that comes and goes."""

import asyncio
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import rpc
from mesh.v1 import log_pb2
from rpc.embedded import Broker
from rpc.jetstream.api import JetStream
from rpc.subjects import Subjects
from tests.cli.commands import free_port

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def prefix() -> str:
    """A mesh of its own for each test: they share a broker."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("shop")  # noqa: LOG001 - of no hierarchy
    yield logger
    for handler in logger.handlers:
        handler.close()


def ship(logger: logging.Logger, url: str, **options: float | str) -> rpc.LogHandler:
    handler = rpc.LogHandler("shop", target=url, **options)  # type: ignore[arg-type]  # each has its type
    logger.addHandler(handler)
    return handler


async def stored(url: str, prefix: str = "") -> list[log_pb2.LogRecord]:
    """What the broker has, in its order."""
    connection = await rpc.connect(url)
    js = JetStream(connection)
    await js.start()
    subjects = Subjects(prefix)
    stream, subject = subjects.jetstream("EVENTS", "mesh.v1.LogRecord"), subjects.event("mesh.v1.LogRecord")
    found = []
    start = 1
    while messages := await js.read(stream, subject, start=start, limit=1000):
        found += [log_pb2.LogRecord.FromString(message.data) for message in messages]
        start = messages[-1].sequence + 1
    await js.close()
    await connection.close()
    return found


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with Broker(port=0, store_dir=tmp_path / "jetstream") as broker:
        yield broker


async def test_the_application_is_never_blocked(logger: logging.Logger) -> None:
    handler = ship(logger, f"nats://127.0.0.1:{free_port()}", capacity=5000, flush_timeout=0.2)
    begun = time.perf_counter()
    for number in range(10_000):
        logger.info("order %d", number)
    assert time.perf_counter() - begun < 2
    assert handler.dropped == 5000
    begun = time.perf_counter()
    handler.close()
    assert time.perf_counter() - begun < 5
    logger.info("after the end")


async def test_nothing_that_was_accepted_is_lost_while_the_broker_restarts(
    logger: logging.Logger, broker: Broker
) -> None:
    handler = ship(logger, broker.url)
    accepted: list[str] = []
    longest = 0.0
    done = threading.Event()

    def work(name: str) -> None:
        nonlocal longest
        number = 0
        while not done.is_set():
            before, begun = handler.dropped, time.perf_counter()
            logger.info("%s-%d", name, number)
            longest = max(longest, time.perf_counter() - begun)
            if handler.dropped == before:
                accepted.append(f"{name}-{number}")
            number += 1
            time.sleep(0.001)

    threads = [threading.Thread(target=work, args=(f"thread{place}",)) for place in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        while len(await stored(broker.url)) < 200:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(broker.start)
    done.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await asyncio.to_thread(handler.flush, 20)
    bodies = [record.body for record in await stored(broker.url)]
    assert len(accepted) > 1000
    assert set(accepted) <= set(bodies)
    assert len(bodies) == len(set(bodies)), "and none twice"
    assert longest < 2, "a thread of a busy machine may have to wait for its turn"


async def test_what_was_dropped_is_told(logger: logging.Logger, broker: Broker) -> None:
    await asyncio.to_thread(broker.kill)
    handler = ship(logger, broker.url, capacity=100)
    for number in range(250):
        logger.info("order %d", number)
    await asyncio.to_thread(broker.start)
    await asyncio.to_thread(handler.flush, 20)
    records = await stored(broker.url)
    assert min(record.body for record in records).startswith("150 log records were dropped")
    assert len(records) == 101
    told = next(record for record in records if "dropped" in record.attributes)
    assert told.attributes["dropped"] == "150"
    assert (told.service, told.severity) == ("shop", log_pb2.SEVERITY_WARN)


async def test_what_the_shipping_itself_logs_is_not_shipped(nats_url: str, prefix: str) -> None:
    root = logging.getLogger()
    level = root.level
    handler = rpc.LogHandler("shop", target=nats_url, prefix=prefix)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        for number in range(20):
            logging.getLogger("shop").debug("order %d", number)
        await asyncio.to_thread(handler.flush, 20)
        await asyncio.to_thread(handler.flush, 20)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        await asyncio.to_thread(handler.close)
    ours = [record.body for record in await stored(nats_url, prefix) if record.logger == "shop"]
    others = [record for record in await stored(nats_url, prefix) if record.logger.startswith("rpc.")]
    assert ours == [f"order {number}" for number in range(20)]
    assert others == []


PROGRAM = """
import logging, os, sys, time
import rpc
logging.getLogger().addHandler(rpc.LogHandler("shop", flush_timeout=float(sys.argv[2])))
log = logging.getLogger("program")
log.setLevel(logging.INFO)
match sys.argv[1]:
    case "end":
        for number in range(2000):
            log.info("order %d", number)
    case "fork":
        log.info("parent before")
        if os.fork() == 0:
            log.info("child")
        else:
            log.info("parent after")
            os.wait()
    case "signal":
        import signal
        signal.signal(signal.SIGALRM, lambda *_: log.info("alarm"))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for number in range(3000):
            log.info("order %d", number)
        signal.setitimer(signal.ITIMER_REAL, 0)
    case "crash":
        log.info("before")
        raise SystemExit(3)
"""


async def run(url: str, prefix: str, *arguments: str) -> int:
    variables = {**os.environ, "NATS_URL": url, "NATSMESH_PREFIX": prefix, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *arguments), env=variables, cwd=ROOT, stderr=subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert not errors, errors.decode()
    return process.returncode or 0


async def test_the_end_of_a_process_waits_for_its_logs(nats_url: str, prefix: str) -> None:
    assert await run(nats_url, prefix, "end", "20") == 0
    records = await stored(nats_url, prefix)
    assert sorted(record.body for record in records) == sorted(f"order {number}" for number in range(2000))
    assert len({record.process_id for record in records}) == 1
    by_name = nats_url.replace("127.0.0.1", "localhost")
    assert await run(by_name, f"{prefix}x", "crash", "20") == 3
    assert [record.body for record in await stored(nats_url, f"{prefix}x")] == ["before"]


async def test_the_end_of_a_process_does_not_wait_for_ever() -> None:
    begun = time.perf_counter()
    assert await run(f"nats://127.0.0.1:{free_port()}", "", "end", "0.5") == 0
    assert time.perf_counter() - begun < 15


async def test_a_forked_process_ships_its_own(nats_url: str, prefix: str) -> None:
    assert await run(nats_url, prefix, "fork", "20") == 0
    records = await stored(nats_url, prefix)
    assert sorted(record.body for record in records) == ["child", "parent after", "parent before"]
    assert len({record.process_id for record in records}) == 2


async def test_signal_handlers_may_log(nats_url: str, prefix: str) -> None:
    assert await run(nats_url, prefix, "signal", "20") == 0
    bodies = [record.body for record in await stored(nats_url, prefix)]
    assert len([body for body in bodies if body != "alarm"]) == 3000
    assert "alarm" in bodies
