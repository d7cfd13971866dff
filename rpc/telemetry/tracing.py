"""Spans of calls: the client's and the server's interceptor.

One CLIENT span covers a call with all its attempts, as the conventions ask; they know no span of an attempt, so
sending a call again is an event on it. The back-ends' SERVER spans are its children. A call that is not sampled gets
no span: its context is handed on as it came (``propagation.Unsampled``), which costs about a microsecond a hop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.trace import (
    INVALID_SPAN,
    Span,
    SpanKind,
    Status,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace import StatusCode as SpanStatus

from rpc.call import Call, Handler, Interceptor
from rpc.metadata import Metadata
from rpc.method import MethodInfo
from rpc.status import Refusal, StatusCode, StatusError
from rpc.telemetry import semconv
from rpc.telemetry.propagation import (
    SPAN_KEY,
    Propagator,
    Unsampled,
    W3CPropagator,
    is_sampled,
    quiet_context,
    remote_context,
    traceparent_of,
    unsampled,
    without_trace,
)
from rpc.telemetry.sampling import HeadSampler, PresetIdGenerator

MAX_DESCRIPTION: Final = 512
_MAX_CACHED: Final = 2000


class Tracing:
    """Where spans go, and how that is decided: shared by all interceptors of a process.

    ``head`` is None when the decision belongs to the SDK alone: with an application's own TracerProvider, or with
    propagators other than W3C's.
    """

    def __init__(
        self, provider: TracerProvider, propagator: Propagator, head: HeadSampler | None, version: str
    ) -> None:
        self.tracer = provider.get_tracer(semconv.SCOPE, version, schema_url=semconv.SCHEMA_URL)
        self.propagator = propagator
        self.w3c = propagator if isinstance(propagator, W3CPropagator) and propagator.trace_context else None
        self.head = head if self.w3c is not None else None
        self.quiet = (
            self.w3c is not None and self.head is not None and self.head.parent_based and not self.w3c.baggage_keys
        )
        """True when an unsampled parent settles everything: the short way is open."""
        ids = provider.id_generator if isinstance(provider, SdkTracerProvider) else None
        self._ids = ids if isinstance(ids, PresetIdGenerator) else None
        self._attributes: dict[str, Mapping[str, str]] = {}

    def decline_root(self) -> Unsampled | None:
        """Decide on a new trace. None means: start its first span now."""
        head = self.head
        if head is None or head.always:
            return None
        digits = random.randbytes(24).hex()  # 16 bytes for the trace, 8 for the span
        if digits[16:32] >= head.bound:
            # It has a context nevertheless, so that nobody later in this trace decides otherwise.
            return Unsampled((("traceparent", f"00-{digits[:32]}-{digits[32:]}-02"),))
        if self._ids is not None:
            self._ids.preset(int(digits[:32], 16))
        return None

    def decline_child(self, traceparent: str, tracestate: str) -> Unsampled | None:
        """Decide on a span whose parent is named by a valid ``traceparent``. None means: start it."""
        head = self.head
        if head is None:
            return None
        if head.parent_based:
            return None if is_sampled(traceparent) else unsampled(traceparent, tracestate)
        if head.wants(traceparent[19:35]):
            return None
        # Who changes the sampled flag must change the parent id as well (W3C Trace Context, 4.2).
        return unsampled(f"00-{traceparent[3:35]}-{random.getrandbits(64) or 1:016x}-00", tracestate)

    def arrive(self, metadata: Metadata) -> tuple[Unsampled | None, Context]:
        """Read the trace context of what arrives and decide on it.

        Returns the context to work in, with the parent if there is one; and, when no span is to be started, what to
        make current in its place.
        """
        if self.head is None or self.w3c is None:
            return None, self.propagator.extract(metadata)
        traceparent, tracestate, baggage = self.w3c.read(metadata)
        context = self.w3c.base(baggage)
        if not traceparent:
            return self.decline_root(), context
        declined = self.decline_child(traceparent, tracestate)
        return declined, context if declined is not None else remote_context(traceparent, tracestate, context)

    def depart(self, context: Context) -> Unsampled | None:
        """Decide on a call that is made in ``context``. None means: start its span."""
        head = self.head
        if head is None:
            return None
        parent = get_current_span(context)
        if parent is INVALID_SPAN:
            return self.decline_root()
        if isinstance(parent, Unsampled) and head.parent_based:
            return parent
        where = parent.get_span_context()
        if not where.is_valid:
            return self.decline_root()
        if head.parent_based and where.trace_flags.sampled:
            return None
        return self.decline_child(traceparent_of(where), where.trace_state.to_header() if where.trace_state else "")

    def attributes(self, info: MethodInfo) -> Mapping[str, str]:
        """Return what is known of a call when it starts."""
        attributes = self._attributes.get(info.full_name)
        if attributes is None:
            attributes = {
                semconv.RPC_SYSTEM_NAME: semconv.GRPC,
                semconv.RPC_METHOD: info.full_name,
                # Services have no addresses here: what names "a group of RPC server instances" (the convention's words)
                # is the service that they form a queue group for.
                semconv.SERVER_ADDRESS: info.service,
            }
            if len(self._attributes) < _MAX_CACHED:
                self._attributes[info.full_name] = attributes
        return attributes


def server_interceptor(tracing: Tracing, is_known: Callable[[MethodInfo], bool] | None = None) -> Interceptor:
    """Return the interceptor that makes the SERVER span, current while the handler runs.

    ``is_known`` tells the methods of this server from names that callers made up; None trusts all names.
    """
    is_quiet = tracing.quiet

    async def serve(call: Call, handler: Handler) -> None:
        quiet = quiet_context(call.metadata) if is_quiet else None
        if quiet is None:
            declined, context = tracing.arrive(call.metadata)
            if declined is None:
                known = is_known is None or is_known(call.info)
                await _serve_recorded(tracing, context, call, handler, known=known)
                return
            quiet = set_span_in_context(declined, context)
        attach(quiet)  # never detached: a call that is served has a task of its own, which ends with it
        await handler(call)

    return serve


async def _serve_recorded(tracing: Tracing, context: Context, call: Call, handler: Handler, *, known: bool) -> None:
    info = call.info
    if known:
        span = tracing.tracer.start_span(info.full_name, context, SpanKind.SERVER, tracing.attributes(info))
    else:
        attributes = {
            semconv.RPC_SYSTEM_NAME: semconv.GRPC,
            semconv.RPC_METHOD: semconv.OTHER,
            semconv.RPC_METHOD_ORIGINAL: info.full_name[:MAX_DESCRIPTION],
        }
        span = tracing.tracer.start_span(semconv.GRPC, context, SpanKind.SERVER, attributes)
    await run_in_span(span, context, call, handler, _end_server)


async def run_in_span(
    span: Span, context: Context, call: Call, handler: Handler, fail: Callable[[Span, Call, BaseException], None]
) -> None:
    """Run a handler with a span that is current meanwhile, and end that; ``fail`` writes down what was raised."""
    token = attach(set_span_in_context(span, context))
    try:
        await handler(call)
    except BaseException as error:
        if span.is_recording():
            fail(span, call, error)
        raise
    else:
        span.set_attribute(semconv.RPC_RESPONSE_STATUS_CODE, "OK")
    finally:
        detach(token)
        span.end()


def _end_server(span: Span, call: Call, error: BaseException) -> None:
    code, details, unexpected = outcome(call, error)
    span.set_attribute(semconv.RPC_RESPONSE_STATUS_CODE, code.name)
    if unexpected is not None:
        span.record_exception(unexpected)
    if code.name in semconv.SERVER_ERRORS:
        span.set_attribute(semconv.ERROR_TYPE, code.name)
        span.set_status(Status(SpanStatus.ERROR, details))


def client_interceptor(tracing: Tracing) -> Interceptor:
    """Return the interceptor that makes the CLIENT span and sends its context along.

    It belongs outside of all policies that may send a call more than once.
    """
    is_quiet = tracing.quiet

    def send(call: Call, handler: Handler) -> Awaitable[None]:
        context = get_current()
        if is_quiet:
            position = context.get(SPAN_KEY)
            if position.__class__ is Unsampled:  # the short way for most calls
                call.metadata = without_trace(call.metadata) + position.pairs if call.metadata else position.pairs
                return handler(call)
        declined = tracing.depart(context)
        if declined is None or tracing.w3c is None:
            return _send_recorded(tracing, context, call, handler)
        call.metadata = tracing.w3c.replace(call.metadata, declined.pairs, context)
        return handler(call)

    return send


async def _send_recorded(tracing: Tracing, context: Context, call: Call, handler: Handler) -> None:
    info = call.info
    span = tracing.tracer.start_span(info.full_name, context, SpanKind.CLIENT, tracing.attributes(info))
    context = set_span_in_context(span, context)
    call.metadata = tracing.propagator.inject(call.metadata, context)
    token = attach(context)
    try:
        await handler(call)
    except BaseException as error:
        if span.is_recording():
            _end_client(span, call, error)
        raise
    else:
        span.set_attribute(semconv.RPC_RESPONSE_STATUS_CODE, "OK")
    finally:
        if call.attempt > 1:
            span.set_attribute(semconv.ATTEMPTS, call.attempt)
        detach(token)
        span.end()


def _end_client(span: Span, call: Call, error: BaseException) -> None:
    code, details, unexpected = outcome(call, error)
    span.set_attribute(semconv.RPC_RESPONSE_STATUS_CODE, code.name)
    span.set_attribute(semconv.ERROR_TYPE, code.name if unexpected is None else type(unexpected).__qualname__)
    span.set_status(Status(SpanStatus.ERROR, details))
    if isinstance(error, Refusal):
        span.set_attribute(semconv.REFUSAL_REASON, error.reason)
    if unexpected is not None:
        span.record_exception(unexpected)


def outcome(call: Call, error: BaseException) -> tuple[StatusCode, str, BaseException | None]:
    """Return status code, description, and the exception that nobody meant to raise, if it was one."""
    if isinstance(error, asyncio.CancelledError):
        error = call.cancelled or StatusError(StatusCode.CANCELLED, "cancelled")
    if isinstance(error, StatusError):
        return error.code, error.details[:MAX_DESCRIPTION], error.__cause__
    return StatusCode.UNKNOWN, type(error).__qualname__, error


def attempt_failed(error: StatusError, attempt: int, delay: float) -> None:
    """See ``rpc.telemetry.attempt_failed``."""
    span = get_current_span()
    if span.is_recording():
        attributes: dict[str, str | int | float] = {
            semconv.ATTEMPT: attempt,
            semconv.RPC_RESPONSE_STATUS_CODE: error.code.name,
            semconv.RETRY_DELAY: delay,
        }
        if isinstance(error, Refusal):
            attributes[semconv.REFUSAL_REASON] = error.reason
        span.add_event(semconv.ATTEMPT_FAILED, attributes)
