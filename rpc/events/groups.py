"""Types of events and the groups that handle them, as the broker knows them; and how a group begins anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rpc.jetstream.api import JetStream, JetStreamUnavailableError
from rpc.jetstream.migration import parse_time
from rpc.jetstream.specs import StreamError
from rpc.jobs.numbers import consumer_infos, stream_infos
from rpc.subjects import Subjects

_NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Group:
    """A method that handles events: one consumer of the stream, or one for each partition."""

    service: str
    method: str
    consumers: tuple[str, ...]
    lag: int
    """Events that it has not been given yet."""
    in_flight: int
    """Events that it has been given, and has not settled: they are handled, or wait for their next attempt."""
    has_subscribers: bool
    """Whether a process of it asks for events just now."""


@dataclass(frozen=True, slots=True)
class EventType:
    """A type of events, and where it is kept."""

    event: str
    """Full name of the message; what the stream is called if that is not known."""
    stream: str
    messages: int
    bytes: int
    oldest: float | None
    """When the oldest event came that is kept, in Unix seconds."""
    groups: Sequence[Group]


async def event_types(js: JetStream, subjects: Subjects) -> list[EventType]:
    """Return all types of events of a mesh, with their groups. Raises ``ConnectionError``, ``JetStreamError``."""
    found = []
    start = f"{subjects.prefix}events."
    async for info in stream_infos(js, f"{start}>"):
        config, state = info.get("config", {}), info.get("state", {})
        names = [each.removeprefix(start) for each in config.get("subjects") or [] if each.startswith(start)]
        stream, first = str(config.get("name", "")), state.get("first_ts", _NEVER)
        found.append(
            EventType(
                event=_without_partition(names[0]) if names else stream,
                stream=stream,
                messages=int(state.get("messages", 0)),
                bytes=int(state.get("bytes", 0)),
                oldest=None if first == _NEVER else parse_time(first).timestamp(),
                groups=_groups(await consumer_infos(js, stream)),
            )
        )
    return sorted(found, key=lambda each: each.event)


def _without_partition(subject: str) -> str:
    name, _, last = subject.rpartition(".")
    return name if last.isdigit() or last == "*" else subject


def _groups(infos: Sequence[dict[str, Any]]) -> list[Group]:
    """Put together what are the partitions of one group: each says in its description whose it is."""
    by_method: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for info in infos:
        service, _, method = str(info.get("config", {}).get("description", "")).partition("/")
        if not method:
            service, method = str(info.get("name", "")), ""  # somebody else's
        by_method.setdefault((service, method), []).append(info)
    return [
        Group(
            service=service,
            method=method,
            consumers=tuple(str(each.get("name", "")) for each in each_info),
            lag=sum(int(each.get("num_pending", 0)) for each in each_info),
            in_flight=sum(int(each.get("num_ack_pending", 0)) for each in each_info),
            has_subscribers=any(int(each.get("num_waiting", 0)) > 0 for each in each_info),
        )
        for (service, method), each_info in sorted(by_method.items())
    ]


async def replay(js: JetStream, kind: EventType, group: Group, since: datetime) -> int:
    """Have a group handle again all events from a time on; return how many there are.

    Its subscribers may go on meanwhile. What they handle at this moment may be handled twice. Raises ``StreamError``
    when the broker cannot do that, ``ConnectionError``, ``JetStreamError``.
    """
    first = await js.first_since(kind.stream, since)
    if first is None:
        return 0
    count = 0
    for consumer in group.consumers:
        try:
            info = await js.request(f"CONSUMER.RESET.{kind.stream}.{consumer}", {"seq": first.sequence})
        except JetStreamUnavailableError as error:
            raise StreamError(
                "the broker cannot set a consumer back: it is older than `natsmesh broker`, update it"
            ) from error
        count += int(info.get("num_pending", 0))
    return count
