"""Queues of jobs, and groups that handle events, as Prometheus sees them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Final

from rpc.durable.dead_letters import dead_letters
from rpc.events.groups import EventType, Group, event_types
from rpc.jetstream.api import JetStream
from rpc.jetstream.statuses import FAILURES
from rpc.jobs.numbers import QueueNumbers, queue_numbers, queues
from rpc.subjects import Subjects
from rpc.transport.base import Connection

logger = logging.getLogger(__name__)

MAX_AGE: Final = 1.0
"""Seconds for which an answer is given again: whoever asks more often does not burden the broker."""

TIMEOUT: Final = 3.0
PAUSE: Final = 60.0
"""Seconds for which it is not asked again when there was no answer in time: it may not be allowed to ask."""

MAX_QUEUES: Final = 1000
"""Queues, and groups, that are looked at."""

_AT_ONCE: Final = 32
_JOBS: Final = "natsmesh_job_queue_jobs"
_OLDEST: Final = "natsmesh_job_queue_oldest_seconds"
_EVENTS: Final = "natsmesh_event_group_events"
_HELP: Final = {
    _JOBS: "Jobs that wait for a worker, that workers have or that wait for another attempt, that wait for their time, "
    "that nobody could handle.",
    _OLDEST: "Age of the oldest job that is not done.",
    _EVENTS: "Events that a group has not been given, has not settled, or could not handle.",
}


class QueueMetrics:
    """Asks JetStream when it is asked. It belongs to one event loop."""

    def __init__(self, connection: Connection, *, prefix: str | None = None) -> None:
        """``connection`` is connected by then; ``prefix`` separates meshes, None is ``$NATSMESH_PREFIX``, or none."""
        self._connection = connection
        self._subjects = Subjects(prefix)
        self._asking = asyncio.Lock()
        self._text = b""
        self._until = 0.0

    async def text(self) -> bytes:
        """Return the numbers in the text exposition format 0.0.4; nothing while JetStream does not answer."""
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() >= self._until:
                pause = MAX_AGE
                try:
                    async with asyncio.timeout(TIMEOUT):
                        self._text = await self._ask()
                except FAILURES as error:
                    logger.debug("the queues are not known now: %s", error)
                    self._text = b""
                except TimeoutError:
                    logger.warning(
                        "JetStream does not tell of queues within %g s: there are no numbers of them for the next %g s "
                        "(docs/durability.md says what the account must allow)",
                        TIMEOUT,
                        PAUSE,
                    )
                    self._text, pause = b"", PAUSE
                self._until = loop.time() + pause
            return self._text

    async def _ask(self) -> bytes:
        js = JetStream(self._connection)
        await js.start()
        try:
            slots = asyncio.Semaphore(_AT_ONCE)

            async def numbers(service: str, method: str) -> QueueNumbers:
                async with slots:
                    return await queue_numbers(js, self._subjects, service, method)

            async def dead(group: Group) -> int:
                async with slots:
                    pattern = self._subjects.dead_letters_of(group.service, group.method, "events")
                    return (await js.oldest(dead_letters(self._subjects).name, pattern))[1]

            names = (await queues(js, self._subjects))[:MAX_QUEUES]
            known = await asyncio.gather(*(numbers(*name) for name in names))
            kinds = await event_types(js, self._subjects)
            groups = [(kind, group) for kind in kinds for group in kind.groups if group.method][:MAX_QUEUES]
            buried = await asyncio.gather(*(dead(group) for _, group in groups))
        finally:
            await js.close()
        lines = [*_of_jobs(known), *_of_groups([(*each, count) for each, count in zip(groups, buried, strict=True)])]
        return "".join(f"{line}\n" for line in lines).encode()


def _of_jobs(known: list[QueueNumbers]) -> Iterator[str]:
    if not known:
        return
    yield from _head(_JOBS)
    for each in known:
        for state in ("waiting", "in_flight", "scheduled", "dead"):
            yield _line(_JOBS, *_labels_of(each), getattr(each, state), state)
    yield from _head(_OLDEST)
    now = time.time()
    for each in known:
        age = 0.0 if each.oldest is None else max(0.0, now - each.oldest)
        yield _line(_OLDEST, *_labels_of(each), round(age, 3))


def _labels_of(numbers: QueueNumbers) -> tuple[str, str]:
    return f"jobs.{numbers.service}.{numbers.method}", numbers.method


def _of_groups(known: list[tuple[EventType, Group, int]]) -> Iterator[str]:
    if not known:
        return
    yield from _head(_EVENTS)
    for kind, group, dead in known:
        labels = f"events.{kind.event}", f"{group.service.replace('.', '_')}-{group.method}"
        for state, count in (("behind", group.lag), ("in_flight", group.in_flight), ("dead", dead)):
            yield _line(_EVENTS, *labels, count, state)


def _head(name: str) -> Iterator[str]:
    yield f"# HELP {name} {_HELP[name]}"
    yield f"# TYPE {name} gauge"


def _line(name: str, destination: str, group: str, value: float, state: str = "") -> str:
    labels = f'messaging_destination_name="{_escaped(destination)}",messaging_consumer_group_name="{_escaped(group)}"'
    if state:
        labels += f',state="{state}"'
    return f"{name}{{{labels}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
