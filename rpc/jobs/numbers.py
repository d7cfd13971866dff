"""How much waits, how old it is, and how fast it becomes less: of queues of jobs, and of groups that handle events.

All of it is what the broker says; nothing is counted here but what a ``Meter`` has seen of two such answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from rpc.durable.dead_letters import dead_letters
from rpc.jetstream.api import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, JetStream, JetStreamError
from rpc.jetstream.migration import parse_time
from rpc.jobs.layout import queue_name
from rpc.jobs.names import CRON
from rpc.subjects import Subjects

_WEIGHT: Final = 0.3
"""Of the latest second in a rate; what was before counts with the rest."""

_PEEK: Final = 256


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """One method's jobs, at one moment."""

    service: str
    method: str
    waiting: int
    """Jobs that no worker has taken yet."""
    in_flight: int
    """Jobs that workers have, or that wait for their next attempt (JetStream's ``num_ack_pending``)."""
    scheduled: int
    """Jobs that wait for their time, without those that a schedule will make."""
    dead: int
    """Dead letters."""
    oldest: float | None
    """When the oldest job came that is not done, in Unix seconds; None when there is none."""
    settled: int
    """Attempts that have ended since the method's consumer was made: what ``Meter`` counts."""
    has_workers: bool
    """Whether a worker asks for jobs just now."""

    @property
    def length(self) -> int:
        """Jobs that are not done, without those that wait for their time."""
        return self.waiting + self.in_flight


@dataclass(frozen=True, slots=True)
class Rates:
    """How a queue changes, in jobs per second."""

    incoming: float
    outgoing: float

    def eta(self, length: int) -> float | None:
        """Return the seconds until so many jobs are done, None when they do not become fewer."""
        if not length:
            return 0.0
        left = self.outgoing - self.incoming
        return length / left if left > 0 else None


class Meter:
    """Makes rates of the numbers of one queue, taken again and again."""

    def __init__(self) -> None:
        self._last: tuple[float, int, int] | None = None
        self._rates: Rates | None = None

    def add(self, time: float, numbers: QueueNumbers) -> Rates | None:
        """Take the numbers of a moment (seconds on any clock), and return the rates; None after the first."""
        last, self._last = self._last, (time, numbers.length, numbers.settled)
        if last is None or time <= last[0]:
            return self._rates
        seconds = time - last[0]
        gone = max(0, numbers.settled - last[2])
        outgoing, incoming = gone / seconds, max(0.0, (numbers.length - last[1] + gone) / seconds)
        if self._rates is None:
            self._rates = Rates(incoming, outgoing)
        else:
            # Those of the last seconds count, whatever the pause between two looks is.
            part = 1 - (1 - _WEIGHT) ** seconds
            self._rates = Rates(
                self._rates.incoming + part * (incoming - self._rates.incoming),
                self._rates.outgoing + part * (outgoing - self._rates.outgoing),
            )
        return self._rates


async def queues(js: JetStream, subjects: Subjects, service: str = "") -> list[tuple[str, str]]:
    """Return (service, method) of all jobs of which the broker knows: by their workers, or by what waits first.

    Raises ``ConnectionError``, ``JetStreamError``.
    """
    found: set[tuple[str, str]] = set()
    async for info in stream_infos(js, subjects.jobs_of(service) if service else f"{subjects.prefix}jobs.>"):
        config = info.get("config", {})
        name = str(config.get("name", ""))
        of_service = _service_of(subjects, config.get("subjects") or [])
        if not of_service or (service and of_service != service):
            continue
        for consumer in await consumer_infos(js, name):
            found.add((of_service, str(consumer.get("name", ""))))
        for stored in await js.read(name, ">", limit=_PEEK):
            found.add((of_service, stored.subject.split(".")[-2]))
    return sorted(found)


async def queue_numbers(js: JetStream, subjects: Subjects, service: str, method: str) -> QueueNumbers:
    """Return the numbers of one method's jobs. Raises ``ConnectionError``, ``JetStreamError``."""
    stream = queue_name(subjects, service)
    (oldest, length), (_, later), (cron, _), (_, dead), info = await asyncio.gather(
        js.oldest(stream, subjects.jobs_of(service, method)),
        js.oldest(stream, subjects.jobs_later_of(service, method)),
        js.oldest(stream, subjects.job_later(service, method, CRON)),
        js.oldest(dead_letters(subjects).name, subjects.dead_letters_of(service, method, "jobs")),
        _consumer(js, stream, method),
    )
    in_flight = min(length, int(info.get("num_ack_pending", 0)))
    delivered = int((info.get("delivered") or {}).get("consumer_seq", 0))
    return QueueNumbers(
        service=service,
        method=method,
        waiting=length - in_flight,
        in_flight=in_flight,
        scheduled=later - (cron is not None),
        dead=dead,
        oldest=None if oldest is None else parse_time(oldest.time).timestamp(),
        settled=delivered - int(info.get("num_ack_pending", 0)),
        has_workers=int(info.get("num_waiting", 0)) > 0 or in_flight > 0,
    )


async def consumer_infos(js: JetStream, stream: str) -> list[dict[str, Any]]:
    """Return what JetStream says of all consumers of a stream; none when there is no such stream."""
    infos: list[dict[str, Any]] = []
    while True:
        try:
            answer = await js.request(f"CONSUMER.LIST.{stream}", {"offset": len(infos)})
        except JetStreamError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return []
            raise
        page = answer.get("consumers") or []
        infos += page
        if not page or len(infos) >= int(answer.get("total", 0)):
            return infos


async def stream_infos(js: JetStream, subject: str) -> AsyncIterator[dict[str, Any]]:
    """Yield what JetStream says of all streams that take a subject (with wildcards)."""
    offset = 0
    while True:
        answer = await js.request("STREAM.LIST", {"subject": subject, "offset": offset})
        page = answer.get("streams") or []
        for info in page:
            yield info
        offset += len(page)
        if not page or offset >= int(answer.get("total", 0)):
            return


def _service_of(subjects: Subjects, patterns: list[str]) -> str:
    """Return whose queue a stream is, by its subject ``jobs.<package.Service>.*.*``."""
    for pattern in patterns:
        kind, _, rest = pattern.removeprefix(subjects.prefix).partition(".")
        if kind == "jobs" and rest.endswith(".*.*"):
            return rest.removesuffix(".*.*")
    return ""


async def _consumer(js: JetStream, stream: str, name: str) -> dict[str, Any]:
    try:
        return await js.request(f"CONSUMER.INFO.{stream}.{name}")
    except JetStreamError as error:
        if error.err_code in {STREAM_NOT_FOUND, CONSUMER_NOT_FOUND}:
            return {}  # No worker has ever been here.
        raise
