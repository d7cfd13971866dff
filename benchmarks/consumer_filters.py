"""What it costs that a group's consumer takes two subjects: the events, and those that it gets again.

    python -m benchmarks.consumer_filters --messages 100000

prints, for consumers of one stream with one filter and with two, messages per second and the broker's CPU per message.
"""

from __future__ import annotations

import argparse
import asyncio

import psutil
import uvloop

import rpc
from rpc.embedded import Broker
from rpc.jetstream.api import JetStream
from rpc.jetstream.consumers import ensure_consumer
from rpc.jetstream.pull import PullConsumer, PulledMessage, settle
from rpc.jetstream.specs import ConsumerSpec, StreamSpec
from rpc.jetstream.streams import ensure_stream

AHEAD = 4000


async def take(js: JetStream, spec: ConsumerSpec, messages: int, broker: psutil.Process) -> tuple[float, float]:
    """Take all messages; return how many a second, and the broker's CPU in microseconds a message."""
    await ensure_consumer(js, "S", spec, migrate=True)
    done = asyncio.Event()
    taken = 0
    settling: set[asyncio.Task[None]] = set()

    def receive(message: PulledMessage) -> None:
        nonlocal taken
        taken += 1
        task = asyncio.get_running_loop().create_task(settle(js.connection, message))
        settling.add(task)
        task.add_done_callback(settling.discard)
        consumer.want(AHEAD, AHEAD // 2)
        if taken == messages:
            done.set()

    async def repair() -> None:
        raise AssertionError

    consumer = PullConsumer(js.connection, "S", spec.name, receive, repair=repair)
    await consumer.start()
    loop = asyncio.get_running_loop()
    began, cpu = loop.time(), sum(broker.cpu_times()[:2])
    consumer.want(AHEAD, AHEAD // 2)
    await done.wait()
    seconds, used = loop.time() - began, sum(broker.cpu_times()[:2]) - cpu
    await consumer.stop()
    return messages / seconds, used / messages * 1e6


async def main(messages: int, rounds: int) -> None:
    with Broker(port=0) as broker:
        assert broker.pid is not None
        process = psutil.Process(broker.pid)
        connection = await rpc.connect(broker.url)
        js = JetStream(connection)
        await js.start()
        await ensure_stream(js, StreamSpec(name="S", subjects=("events.x", "retry.x.>")), migrate=True)
        for start in range(0, messages, 1000):
            await asyncio.gather(
                *(js.publish("events.x", bytes(100), {"Nats-Msg-Id": str(start + i)}) for i in range(1000))
            )
        print("| filters | messages/s | broker's CPU, us a message |\n|---:|---:|---:|")
        for number in range(rounds):
            one = ConsumerSpec(name=f"one-{number}", filter_subject="events.x", max_ack_pending=-1)
            two = ConsumerSpec(
                name=f"two-{number}", filter_subject="events.x", more_subjects=("retry.x.*",), max_ack_pending=-1
            )
            for filters, spec in ((1, one), (2, two)):
                rate, cpu = await take(js, spec, messages, process)
                print(f"| {filters} | {rate:,.0f} | {cpu:.1f} |")
        await js.close()
        await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    uvloop.run(main(arguments.messages, arguments.rounds))
