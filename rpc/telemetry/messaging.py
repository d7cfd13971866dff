"""Spans of messages that wait in JetStream: PRODUCER where a job or event is published, CONSUMER where it is handled.

A message may be handled hours after its request, several times, by several groups, and many of them at once. So a
CONSUMER span is no child of its producer: it begins a trace of its own, with a link to each producer. Whether it is
recorded was decided where the producer's trace began: with 1 % of all requests sampled, their jobs are seen too, and no
others. Source: OpenTelemetry semantic conventions for messaging spans, "Trace structure".
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, cast

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, get_current_span, set_span_in_context
from opentelemetry.trace import StatusCode as SpanStatus

from rpc.call import Call, Handler, Interceptor
from rpc.durable.destinations import consumed_by, event_destination, job_destination
from rpc.metadata import Metadata
from rpc.method import MethodInfo
from rpc.status import StatusError
from rpc.telemetry import semconv
from rpc.telemetry.propagation import (
    TRACEPARENT,
    TRACESTATE,
    Unsampled,
    is_sampled,
    span_context,
    unsampled,
    valid_traceparent,
)
from rpc.telemetry.tracing import MAX_DESCRIPTION, Tracing, outcome, run_in_span

if TYPE_CHECKING:
    from rpc.durable.context import DeliveredCall
    from rpc.jetstream.pull import PulledMessage

MAX_LINKS: Final = 128
"""Links of one span: the SDK's own limit, and more than anybody looks at."""


class Producer:
    """Makes the spans of what is published. One for each caller of jobs, and for each publisher."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._attributes: dict[str, Mapping[str, str]] = {}

    def job(self, info: MethodInfo, job_id: str, metadata: Metadata) -> Sending:
        """Return the span of a job that is enqueued in the current context, for ``with``.

        It is there only if the call is recorded, and then ``Sending.metadata`` names it; the metadata of a call that is
        not recorded says so already.
        """
        if not get_current_span().is_recording():
            return Sending(None, metadata)
        destination = job_destination(info)
        known = self._attributes.get(destination)
        if known is None:
            known = self._attributes[destination] = _sent(destination) | {semconv.RPC_METHOD: info.full_name}
        context = get_current()
        span = self._tracing.tracer.start_span(
            f"{semconv.SEND} {destination}", context, SpanKind.PRODUCER, {**known, semconv.MESSAGING_MESSAGE_ID: job_id}
        )
        return Sending(span, self._tracing.propagator.inject(metadata, set_span_in_context(span, context)))

    def event(self, event: str, message_id: str, context: Context | None) -> Sending:
        """Return the span of an event that is published in ``context`` (None: the current one), for ``with``.

        ``Sending.metadata`` is the trace context that belongs on the message.
        """
        if context is None:
            context = get_current()
        tracing = self._tracing
        declined = tracing.depart(context)
        if declined is not None and tracing.w3c is not None:
            return Sending(None, tracing.w3c.replace((), declined.pairs, context))
        destination = event_destination(event)
        known = self._attributes.get(destination)
        if known is None:
            known = self._attributes[destination] = _sent(destination)
        attributes = {**known, semconv.MESSAGING_MESSAGE_ID: message_id}
        span = tracing.tracer.start_span(f"{semconv.SEND} {destination}", context, SpanKind.PRODUCER, attributes)
        return Sending(span, tracing.propagator.inject((), set_span_in_context(span, context)))

    @staticmethod
    def position() -> Context:
        """Return where in which trace we are, for an event that is published later."""
        return get_current()


class Sending:
    """What is being published: its span, if it has one, ends with the block."""

    __slots__ = ("_span", "metadata")

    def __init__(self, span: Span | None, metadata: Metadata) -> None:
        self._span = span
        self.metadata = metadata

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        span = self._span
        if span is None:
            return
        if error is not None:
            if isinstance(error, StatusError):
                what, details = error.code.name, error.details
            else:
                what, details = type(error).__qualname__, str(error)
            span.set_attribute(semconv.ERROR_TYPE, what)
            span.set_status(Status(SpanStatus.ERROR, details[:MAX_DESCRIPTION] or what))
        span.end()


def _sent(destination: str) -> dict[str, str]:
    return {
        semconv.MESSAGING_SYSTEM: semconv.NATS,
        semconv.MESSAGING_DESTINATION_NAME: destination,
        semconv.MESSAGING_OPERATION_NAME: semconv.SEND,
        semconv.MESSAGING_OPERATION_TYPE: semconv.SEND,
    }


def consumer_interceptor(tracing: Tracing, info: MethodInfo) -> Interceptor:
    """Return the interceptor that makes the CONSUMER span of each delivery to a method, current in the handler."""
    destination, group = consumed_by(info)
    name = f"{semconv.PROCESS} {destination}"
    attributes: Mapping[str, str] = {
        semconv.MESSAGING_SYSTEM: semconv.NATS,
        semconv.MESSAGING_DESTINATION_NAME: destination,
        semconv.MESSAGING_OPERATION_NAME: semconv.PROCESS,
        semconv.MESSAGING_OPERATION_TYPE: semconv.PROCESS,
        semconv.MESSAGING_CONSUMER_GROUP_NAME: group,
        semconv.RPC_METHOD: info.full_name,
    }
    is_batched = info.client_streaming

    def of_delivery(call: DeliveredCall) -> dict[str, str | int | float]:
        messages = call.messages
        published = min(message.published for message in messages)
        found: dict[str, str | int | float] = {
            **attributes,
            semconv.ATTEMPT: call.attempt_number,
            semconv.QUEUE_DURATION: max(0.0, time.time() - published),
        }
        if is_batched:
            found[semconv.MESSAGING_BATCH_MESSAGE_COUNT] = len(messages)
        else:
            found[semconv.MESSAGING_MESSAGE_ID] = call.job_id or call.deliveries[0].id
        return found

    async def process(call: Call, handler: Handler) -> None:
        delivered = cast("DeliveredCall", call)  # nothing else comes out of a queue
        declined, context, links = _arrive(tracing, delivered.messages)
        if declined is not None:
            token = attach(set_span_in_context(declined, context))
            try:
                await handler(call)
            finally:
                detach(token)
            return
        span = tracing.tracer.start_span(name, context, SpanKind.CONSUMER, of_delivery(delivered), links)
        await run_in_span(span, context, call, handler, _end)

    return process


def _end(span: Span, call: Call, error: BaseException) -> None:
    # Nobody but the handler could be to blame, and nobody else is told: every code but OK is an error here.
    code, details, unexpected = outcome(call, error)
    span.set_attribute(semconv.RPC_RESPONSE_STATUS_CODE, code.name)
    span.set_attribute(semconv.ERROR_TYPE, code.name)
    span.set_status(Status(SpanStatus.ERROR, details))
    if unexpected is not None:
        span.record_exception(unexpected)


def _arrive(tracing: Tracing, messages: Sequence[PulledMessage]) -> tuple[Unsampled | None, Context, list[Link]]:
    """Decide on what was delivered together.

    Returns what to make current in place of a span, if there is to be none; the context to work in, without a parent;
    and the links to the producers that are recorded.
    """
    if tracing.head is None or tracing.w3c is None:
        return _arrive_at_sdk(tracing, messages)
    links: list[Link] = []
    quiet, last = 0, ""
    for message in messages:
        traceparent = valid_traceparent(message.headers.get(TRACEPARENT))
        if not traceparent:
            continue
        if is_sampled(traceparent):
            links.append(Link(span_context(traceparent, message.headers.get(TRACESTATE, ""))))
            if len(links) == MAX_LINKS:
                break
        else:
            quiet, last = quiet + 1, traceparent
    is_alone = len(messages) == 1
    context = tracing.w3c.base(messages[0].headers.get("baggage", "")) if is_alone else Context()
    if links and tracing.head.parent_based:
        return None, context, links  # The SDK's sampler agrees: ``sampling.LinkedSampler``.
    if quiet == len(messages) and tracing.head.parent_based:
        # Of one message the trace of its producer goes on, unrecorded: its id is in the logs.
        declined = unsampled(last, messages[0].headers.get(TRACESTATE, "")) if is_alone else _nowhere()
        return declined, context, []
    return tracing.decline_root(), context, links


def _nowhere() -> Unsampled:
    digits = random.randbytes(24).hex()
    return Unsampled(((TRACEPARENT, f"00-{digits[:32]}-{digits[32:]}-02"),))


def _arrive_at_sdk(tracing: Tracing, messages: Sequence[PulledMessage]) -> tuple[None, Context, list[Link]]:
    """Leave the decision to a TracerProvider, or the reading to propagators, that are not ours."""
    links: list[Link] = []
    context = Context()
    for message in messages[:MAX_LINKS]:
        found = tracing.propagator.extract(tuple(message.headers.items()))
        where = get_current_span(found).get_span_context()
        if where.is_valid:
            links.append(Link(where))
        if len(messages) == 1:
            context = set_span_in_context(INVALID_SPAN, found)
    return None, context, links
