"""Where events are kept, and who reads them: streams, subjects, consumers."""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any, Final

from rpc.durable.options import EventOptions, Start, SubscriptionOptions
from rpc.jetstream.specs import ConsumerSpec, StreamSpec
from rpc.subjects import Subjects, srv_name

UNLIMITED_PENDING: Final = -1
"""Events that wait for their next attempt count as pending: a limit would let them block the others."""


def stream_name(subjects: Subjects, event: str) -> str:
    """Return the name of the stream of an event type."""
    return subjects.jetstream("EVENTS", event)


def stream(subjects: Subjects, event: EventOptions) -> StreamSpec:
    """Return the stream of an event type."""
    # Each partition by its name: what a publisher sends to one that there is not (any more) must not be stored unseen.
    numbers = range(event.partitions) if event.key else [None]
    return StreamSpec(
        name=stream_name(subjects, event.message),
        subjects=(
            *(subjects.event(event.message, number) for number in numbers),
            subjects.events_again(event.message),
        ),
        description=f"Events of type {event.message}",
        max_age=event.max_age,
        max_bytes=event.max_bytes,
        partitions=event.partitions if event.key else 0,
    )


def partition_of(key: Any, partitions: int) -> int:
    """Return the partition of a key: the CRC-32 of its text in UTF-8, modulo their number.

    A number's text, and an enum's, is decimal; that of a bool is ``true`` or ``false``. Bytes are taken as they are.
    """
    if isinstance(key, bool):
        key = "true" if key else "false"
    data = key if isinstance(key, bytes) else str(key).encode()
    return zlib.crc32(data) % partitions


def consumers(subjects: Subjects, subscription: SubscriptionOptions, partitions: int) -> list[ConsumerSpec]:
    """Return the consumers of a subscribed method: one, or one for each of the stream's ``partitions`` if ordered."""
    event = subscription.event_options
    subject = subjects.event(event.message)
    name = f"{srv_name(subscription.service)}-{subscription.method}"
    again = partial(subjects.event_again, event.message, subscription.service, subscription.method)
    filters = {name: (f"{subject}.*" if event.key else subject, again("*"))}
    if subscription.ordered:
        filters = {f"{name}-{number}": (f"{subject}.{number}", again(number)) for number in range(partitions)}
    return [
        ConsumerSpec(
            name=each,
            filter_subject=filter_subject,
            more_subjects=(retried,),
            description=f"{subscription.service}/{subscription.method}",
            ack_wait=subscription.ack_wait,
            max_ack_pending=1 if subscription.ordered else UNLIMITED_PENDING,
            deliver_policy="new" if subscription.start is Start.LATEST else "all",
        )
        for each, (filter_subject, retried) in filters.items()
    ]
