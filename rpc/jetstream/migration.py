"""What speaks against using a stream as it is, or changing it: each reason is a sentence that says what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from rpc.jetstream.patience import Requests
from rpc.jetstream.specs import StreamInfo, StreamSpec, any_covers, nanoseconds

_NEVER = "0001-01-01T00:00:00Z"

_PAGES = 100
"""Pages of 100,000 subjects each that are looked at; who has more is taken for somebody with something to lose."""


def unfit(info: StreamInfo, spec: StreamSpec) -> list[str]:
    """Return why a stream can never be what the mesh needs; whatever else differs can be changed."""
    config, name = info.config, spec.name
    reasons = []
    remake = f"when its messages are handled or copied, remove it (`nats stream rm {name}`), and it is made anew"
    if mirror := config.get("mirror"):
        reasons.append(f"it mirrors stream {mirror.get('name')!r} and takes no messages of its own: {remake}")
    if config.get("sealed"):
        reasons.append(f"it is sealed and takes no messages: {remake}")
    if config.get("no_ack"):
        reasons.append(f"it does not confirm what it stores: `nats stream edit {name} --ack`")
    retention = config.get("retention", "limits")
    if retention != spec.retention:
        reasons.append(
            f"its retention is {retention!r} and has to be {spec.retention!r} (what is deleted, and when): {remake}"
        )
    if config.get("storage", "file") == "memory" and spec.storage == "file":
        reasons.append(f"it is kept in memory and would be lost with the broker: {remake}, on disk")
    return reasons


def cannot_serve(info: StreamInfo, spec: StreamSpec) -> list[str]:
    """Return why a stream cannot serve callers and publishers without being changed."""
    reasons = []
    known = info.config.get("subjects") or []
    missing = [subject for subject in spec.subjects if not any_covers(known, subject)]
    # Of partitions, the stream's own number counts: publishers spread keys as it says.
    if missing and not (spec.partitions and info.partitions and len(missing) < len(spec.subjects)):
        reasons.append(f"it does not take {_list(missing)}")
    if spec.allow_msg_ttl and not info.config.get("allow_msg_ttl"):
        reasons.append("its messages cannot end with a time of their own")
    if spec.allow_msg_schedules and not info.config.get("allow_msg_schedules"):
        reasons.append("its messages cannot wait for their time")
    return [f"{reason}: start a server of this .proto, which brings the stream up to date" for reason in reasons]


async def data_at_stake(js: Requests, info: StreamInfo, spec: StreamSpec) -> list[str]:
    """Return what would be lost if the stream became what the mesh wants; an empty one has nothing to lose."""
    if not info.messages:
        return []
    reasons = [
        _too_old(info, spec),
        _too_large(info, spec),
        _would_be_pushed_out(info, spec),
        await _too_many_of_a_subject(js, info, spec),
        await _without_a_subject(js, info, spec),
        await _without_a_partition(js, info, spec),
    ]
    return [reason for reason in reasons if reason]


def _too_old(info: StreamInfo, spec: StreamSpec) -> str:
    before = info.config.get("max_age", 0)
    first = info.state.get("first_ts", _NEVER)
    if not spec.max_age or 0 < before <= nanoseconds(spec.max_age) or first == _NEVER:
        return ""
    age = (info.time - parse_time(first)).total_seconds()
    if age <= spec.max_age:
        return ""
    return (
        f"max_age would become {_duration(spec.max_age)}, and its oldest message is {_duration(age)} old: keep the "
        f"longer max_age until that is handled, or delete what is older (`nats stream purge {spec.name}`)"
    )


def _too_large(info: StreamInfo, spec: StreamSpec) -> str:
    size = int(info.state.get("bytes", 0))
    if spec.max_bytes is None or spec.max_bytes <= 0 or size <= spec.max_bytes:
        return ""
    return (
        f"max_bytes would become {spec.max_bytes}, and its messages take {size} bytes: choose a larger one, "
        f"or delete some (`nats stream purge {spec.name} --keep=N`)"
    )


def _would_be_pushed_out(info: StreamInfo, spec: StreamSpec) -> str:
    if info.config.get("discard", "old") != "new" or spec.discard != "old":
        return ""
    limits = {**info.config, **spec.managed()}
    if all(limits.get(name, -1) <= 0 for name in ("max_msgs", "max_bytes", "max_msgs_per_subject")):
        return ""  # nothing is ever full
    return (
        "a full stream would push out its oldest messages (discard 'old') instead of refusing new ones: "
        f"empty it first, or lift its limits (`nats stream edit {spec.name} --max-bytes=-1 --max-msgs=-1`)"
    )


async def _too_many_of_a_subject(js: Requests, info: StreamInfo, spec: StreamSpec) -> str:
    wanted, before = spec.max_msgs_per_subject, info.config.get("max_msgs_per_subject", -1)
    if wanted is None or wanted <= 0 or 0 < before <= wanted:
        return ""
    async for subject, count in stored_subjects(js, spec.name, ">"):
        if count > wanted:
            return (
                f"only {wanted} messages of each subject would be kept, and there are {count} of {subject!r}: "
                f"delete the others first (`nats stream purge {spec.name} --subject={subject} --keep={wanted}`)"
            )
    return ""


async def _without_a_subject(js: Requests, info: StreamInfo, spec: StreamSpec) -> str:
    """Nobody would be given messages of a subject any more that the stream does not have."""
    lost: list[str] = []
    for pattern in info.config.get("subjects") or []:
        if any_covers(spec.subjects, pattern):
            continue
        async for subject, _ in stored_subjects(js, spec.name, pattern):
            if not any_covers(spec.subjects, subject):
                lost.append(pattern)
                break  # one is enough to refuse
    if not lost:
        return ""
    return (
        f"it would not take {_list(lost)} any more, and has messages of that, which nobody would handle: keep "
        f"what handles them until they are gone, or delete them (`nats stream purge {spec.name} --subject=SUBJECT`)"
    )


async def _without_a_partition(js: Requests, info: StreamInfo, spec: StreamSpec) -> str:
    if info.partitions <= spec.partitions:
        return ""
    for pattern in info.config.get("subjects") or []:
        async for subject, _ in stored_subjects(js, spec.name, pattern):
            number = subject.rpartition(".")[2]
            if number.isascii() and number.isdigit() and int(number) >= spec.partitions:
                return (
                    f"it has {info.partitions} partitions and would have {spec.partitions}, and there are events in "
                    f"number {number}, which nobody would handle: keep the partitions until max_age has passed since "
                    f"the last of them, or delete them (`nats stream purge {spec.name} --subject={subject}`)"
                )
    return ""


async def stored_subjects(js: Requests, stream: str, pattern: str) -> AsyncIterator[tuple[str, int]]:
    """Yield each subject under a pattern that has messages, and how many."""
    offset = 0
    for _ in range(_PAGES):
        reply = await js.request(f"STREAM.INFO.{stream}", {"subjects_filter": pattern, "offset": offset})
        subjects: dict[str, int] = reply.get("state", {}).get("subjects") or {}
        for subject, count in subjects.items():
            yield subject, count
        offset += len(subjects)
        if not subjects or offset >= int(reply.get("total", 0)):
            return


def parse_time(text: str) -> datetime:
    """Read a time of JetStream's: RFC 3339 with nanoseconds, of which microseconds are kept."""
    return datetime.fromisoformat(text)


def _duration(seconds: float) -> str:
    """Return a time for people: ``7 days, 0:00:00``."""
    return str(timedelta(seconds=round(seconds, 1))) if seconds >= 1 else f"{seconds:g} s"


def _list(items: Sequence[Any]) -> str:
    shown = ", ".join(repr(item) for item in items[:5])
    return shown if len(items) <= 5 else f"{shown} and {len(items) - 5} more"
