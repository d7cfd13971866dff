"""The backlog is bounded, what is in it is published, what found no room is told."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

import rpc
from mesh.v1 import log_pb2
from rpc.logs.shipper import AT_ONCE, Backlog, Shipper
from rpc.testing import FakeClock


def record(body: str) -> log_pb2.LogRecord:
    return log_pb2.LogRecord(body=body)


class Broker:
    """Takes records, or is away."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.ids: set[str] = set()
        self.most_at_once = 0
        self.now = 0
        self.is_up = asyncio.Event()
        self.is_up.set()
        self.refuses: Callable[[str], bool] = lambda body: False

    async def publish(self, sent: log_pb2.LogRecord, message_id: str) -> None:
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            if not self.is_up.is_set():
                raise rpc.StatusError(rpc.StatusCode.UNAVAILABLE, "away")
            await asyncio.sleep(0)
            if self.refuses(sent.body):
                raise rpc.StatusError(rpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
            self.stored.append(sent.body)
            self.ids.add(message_id)
        finally:
            self.now -= 1


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def backlog() -> Backlog:
    return Backlog(capacity=2000)


@pytest.fixture
async def clock() -> AsyncIterator[FakeClock]:
    async with FakeClock() as clock:
        yield clock


@pytest.fixture
async def shipper(clock: FakeClock, broker: Broker, backlog: Backlog) -> AsyncIterator[Shipper]:
    shipper = Shipper(backlog, lambda number: record(f"{number} were dropped"))
    running = asyncio.create_task(shipper.run(broker.publish))
    yield shipper
    running.cancel()
    await asyncio.wait([running])


async def test_what_is_put_in_is_published_by_and_by(
    clock: FakeClock, broker: Broker, backlog: Backlog, shipper: Shipper
) -> None:
    await clock.advance(1)
    for number in range(1500):
        assert backlog.put(record(str(number)))
    shipper.notify()
    await clock.run(shipper.drained())
    assert sorted(broker.stored, key=int) == [str(number) for number in range(1500)]
    assert broker.most_at_once <= AT_ONCE
    backlog.put(record("one more"))
    shipper.notify()
    await clock.run(shipper.drained())
    assert broker.stored[-1] == "one more"


async def test_other_threads_put_in(clock: FakeClock, broker: Broker, backlog: Backlog, shipper: Shipper) -> None:
    def log(first: int) -> None:
        for number in range(first, first + 400):
            assert backlog.put(record(str(number)))
            shipper.notify()

    threads = [threading.Thread(target=log, args=(400 * place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await clock.run(shipper.drained())
    assert sorted(broker.stored, key=int) == [str(number) for number in range(1600)]


async def test_a_broker_that_is_away_costs_nothing_that_was_accepted(
    clock: FakeClock, broker: Broker, backlog: Backlog, shipper: Shipper
) -> None:
    broker.is_up.clear()
    accepted = []
    for number in range(5000):
        if backlog.put(record(str(number))):
            accepted.append(str(number))
        shipper.notify()
    await clock.advance(200)
    assert broker.stored == []
    broker.is_up.set()
    await clock.run(shipper.drained())
    told = f"{5000 - len(accepted)} were dropped"
    assert sorted(broker.stored) == sorted([*accepted, told])
    assert backlog.dropped == 5000 - len(accepted)


async def test_what_the_broker_refuses_is_told_and_the_rest_goes_on(
    clock: FakeClock, broker: Broker, backlog: Backlog, shipper: Shipper
) -> None:
    broker.refuses = lambda body: body == "bad"
    for body in ("good", "bad", "better"):
        backlog.put(record(body))
    shipper.notify()
    await clock.run(shipper.drained())
    assert sorted(broker.stored) == ["1 were dropped", "better", "good"]


async def test_who_may_wait_waits_for_room(
    clock: FakeClock, broker: Broker, backlog: Backlog, shipper: Shipper
) -> None:
    broker.is_up.clear()

    async def put() -> None:
        for number in range(4000):
            await shipper.put(record(str(number)))

    putting = asyncio.create_task(put())
    await clock.advance(60)
    assert len(backlog) == 2000
    assert not putting.done()
    broker.is_up.set()
    await clock.run(putting)
    await clock.run(shipper.drained())
    assert len(broker.stored) == 4000
    assert backlog.dropped == 0


def test_bytes_are_bounded_too() -> None:
    backlog = Backlog(capacity=1000, max_bytes=10_000)
    taken = sum(backlog.put(record("x" * 1000)) for _ in range(50))
    assert taken == 10
    assert backlog.dropped == 40
    backlog.take()
    assert backlog.put(record("x"))
    while backlog:
        backlog.take()
    with pytest.raises(IndexError):
        backlog.take()
