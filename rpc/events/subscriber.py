"""A method that handles events: takes them from its group's consumer, one by one or in batches.

An event is settled last: who dies before leaves it to another process of the group, so a handler may see an event more
than once, and never not at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rpc.call import Handler
from rpc.durable.backoff import delay
from rpc.durable.context import DeliveredCall, Delivery, retry_delay
from rpc.durable.dead_letters import EVENT_ID, bury, ensure_dead_letters
from rpc.durable.feed import Feed, Messages, give_back
from rpc.durable.options import SubscriptionOptions
from rpc.durable.running import StoppedError, run
from rpc.events.batch import BatchOfEvents
from rpc.events.layout import consumers, stream, stream_name
from rpc.jetstream.api import MESSAGE_ID, JetStream, JetStreamError
from rpc.jetstream.pull import PulledMessage, settle
from rpc.jetstream.specs import ConsumerSpec
from rpc.jetstream.streams import ensure_consumer, ensure_stream
from rpc.metadata import read_headers
from rpc.method import MethodInfo
from rpc.status import StatusCode, StatusError
from rpc.subjects import Subjects

logger = logging.getLogger(__name__)

BURY_TIMEOUT: Final = 60.0
"""Seconds for which a dead letter is tried to be stored, over restarts of the broker."""


SPARE_DELIVERIES: Final = 10
"""How often an event may be delivered beyond its attempts. A delivery is no attempt if its process stopped in between,
which nobody has written down; but what kills all who have it must come to an end."""


class EventSubscriber:
    """Serves one subscribed method in one process."""

    def __init__(self, js: JetStream, subjects: Subjects, info: MethodInfo, handler: Handler) -> None:
        assert info.subscription is not None  # noqa: S101 - who calls has looked
        self._js = js
        self._subjects = subjects
        self._info = info
        self._subscription: SubscriptionOptions = info.subscription
        self._handler = handler
        self._stream = stream_name(subjects, self._subscription.event)
        self._feeds: list[Feed] = []

    async def start(self) -> None:
        """Make what is needed in JetStream, and begin. Raises ``StreamError``, ``ConnectionError``."""
        specs = await self._ensure()
        await ensure_dead_letters(self._js, self._subjects, migrate=True)
        self._feeds = [self._feed(spec) for spec in specs]
        for feed in self._feeds:
            await feed.start()

    async def _ensure(self) -> list[ConsumerSpec]:
        found = await ensure_stream(self._js, stream(self._subjects, self._subscription.event_options), migrate=True)
        specs = consumers(self._subjects, self._subscription, found.partitions)
        known = False
        for spec in specs:
            # A partition that is new to a group which is not: all that is in it came after the group.
            began = replace(spec, deliver_policy="all") if known else spec
            known |= not (await ensure_consumer(self._js, self._stream, began, migrate=True)).created
        return specs

    async def _repair(self) -> None:
        await self._ensure()

    def _feed(self, spec: ConsumerSpec) -> Feed:
        options = self._subscription
        return Feed(
            self._js.connection,
            self._stream,
            spec.name,
            handle=self._handle,
            release=self._release,
            repair=self._repair,
            ack_wait=options.ack_wait,
            concurrency=1 if options.ordered else options.max_concurrency,
            batch=options.max_batch_size,
            batch_wait=options.max_batch_wait,
            prefetches=not options.ordered,
        )

    @property
    def running(self) -> int:
        """How many handlers run."""
        return sum(feed.running for feed in self._feeds)

    async def stop_pulling(self) -> None:
        """Take no further events."""
        await asyncio.gather(*(feed.stop_pulling() for feed in self._feeds))

    async def wait_idle(self, timeout: float) -> None:
        """Wait until no handler runs, ``timeout`` seconds at most."""
        await asyncio.gather(*(feed.wait_idle(timeout) for feed in self._feeds))

    async def close(self) -> None:
        """Cancel what still runs; its events go back."""
        await asyncio.gather(*(feed.close() for feed in self._feeds))

    async def _release(self, message: PulledMessage) -> None:
        await give_back(self._js.connection, message)

    # -------------------------------------------------------------------------------------------------- handling

    async def _handle(self, messages: Messages) -> None:
        unsettled = {message.sequence: message for message in messages}
        try:
            await self._work_off(unsettled)
        except (asyncio.CancelledError, StoppedError):
            for message in unsettled.values():
                await give_back(self._js.connection, message)
            raise asyncio.CancelledError from None

    async def _work_off(self, unsettled: dict[int, PulledMessage]) -> None:
        most = self._subscription.retry.max_attempts + SPARE_DELIVERIES
        fresh = [message for message in unsettled.values() if message.deliveries <= most]
        for message in list(unsettled.values()):
            if message.deliveries > most:
                died = StatusError(StatusCode.UNAVAILABLE, "the processes that had it died or fell silent")
                await self._bury(message, died)
                del unsettled[message.sequence]
        if fresh and not await self._attempt(fresh, unsettled):
            # One of them may be to blame for all: each gets a call of its own, and its own verdict.
            for message in fresh:
                await self._attempt([message], unsettled)

    async def _attempt(self, messages: Sequence[PulledMessage], unsettled: dict[int, PulledMessage]) -> bool:
        """Run the handler and settle the events; False when a batch failed and its events must be tried alone."""
        call = self._call(messages)
        error = await run(call, self._handler)
        if error is None:
            for message in messages:
                await settle(self._js.connection, message)
                del unsettled[message.sequence]
            return True
        retry = self._subscription.retry
        is_retryable = error.code in retry.retryable_codes
        if len(messages) > 1 and not (is_retryable and error.code is StatusCode.UNAVAILABLE):
            return False
        asked = retry_delay(call.trailing_metadata)
        for message in messages:
            if is_retryable and message.deliveries < retry.max_attempts:
                wait = delay(retry, message.deliveries) if asked is None else asked
                await give_back(self._js.connection, message, wait)
            else:
                await self._bury(message, error)
            del unsettled[message.sequence]
        return True

    def _call(self, messages: Sequence[PulledMessage]) -> DeliveredCall:
        deadline = None
        if self._subscription.timeout is not None:
            deadline = asyncio.get_running_loop().time() + self._subscription.timeout
        first = messages[0]
        metadata = () if len(messages) > 1 else read_headers(first.headers)[0]
        call = DeliveredCall(self._info, first.data, metadata=metadata, deadline=deadline, peer=first.reply)
        call.attempt_number = max(message.deliveries for message in messages)
        call.messages = messages
        call.deliveries = [
            Delivery(_id_of(message), message.sequence, message.published, message.deliveries) for message in messages
        ]
        if self._info.client_streaming:
            call.stream = BatchOfEvents([message.data for message in messages])
        return call

    async def _bury(self, message: PulledMessage, error: StatusError) -> None:
        """Lay an event to the dead letters of its group, and settle it."""
        options = self._subscription
        logger.warning(
            "%s: event %d failed for good at attempt %d: %s",
            self._info.full_name,
            message.sequence,
            message.deliveries,
            error,
        )
        try:
            await bury(
                self._js,
                self._subjects,
                self._subjects.dead_letter("events", options.service, options.method, str(message.sequence)),
                origin=message.subject,
                data=message.data,
                headers=message.headers,
                error=error,
                attempts=message.deliveries,
                sequence=message.sequence,
                timeout=BURY_TIMEOUT,
            )
        except (ConnectionError, JetStreamError) as problem:
            # Not settled: it is delivered again, and buried then.
            logger.warning("%s: event %d could not be buried: %s", self._info.full_name, message.sequence, problem)
            return
        await settle(self._js.connection, message)


def _id_of(message: PulledMessage) -> str:
    """Return the id that its publisher gave an event; one out of the dead letters has another message id."""
    return message.headers.get(EVENT_ID) or message.headers.get(MESSAGE_ID, "")
