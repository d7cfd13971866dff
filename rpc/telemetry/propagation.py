"""Trace context on its way: W3C ``traceparent``, ``tracestate`` and ``baggage`` in gRPC metadata and HTTP headers.

The library's own reader exists for one reason: a call that is not sampled must cost next to nothing. Its context
stays the text that arrived (``Unsampled``), is handed on as it came, and becomes objects only when somebody asks.
OpenTelemetry's propagators are used for everything that ``OTEL_PROPAGATORS`` may name besides ``tracecontext`` and
``baggage``. Source: W3C Trace Context level 2, W3C Baggage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Protocol
from urllib.parse import quote, unquote

from opentelemetry import baggage
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)

from rpc.metadata import Metadata, MetadataValue

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
BAGGAGE: Final = "baggage"
KEYS: Final = frozenset((TRACEPARENT, TRACESTATE, BAGGAGE))

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z").match
_LATER_VERSION = re.compile(
    r"(?!ff|00)[0-9a-f]{2}(-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?:-|\Z)"
).match
_UNSAMPLED = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]\Z").match
_SAMPLED = frozenset("13579bdf")
_MAX_TRACESTATE = 512
_MAX_BAGGAGE = 8192
_MAX_BAGGAGE_ENTRIES = 64


def valid_traceparent(text: object) -> str:
    """Return a well-formed ``traceparent`` in the form of version 00, the empty string for everything else."""
    if not isinstance(text, str):
        return ""
    if _TRACEPARENT(text):
        return text
    later = _LATER_VERSION(text)
    return f"00{later[1]}" if later else ""


def is_sampled(traceparent: str) -> bool:
    """Return the sampled flag of a valid ``traceparent``."""
    return traceparent[54] in _SAMPLED


class Unsampled(NonRecordingSpan):
    """A position in a trace that is not recorded: what its headers say, parsed only on demand."""

    __slots__ = ("_parsed", "pairs")

    def __init__(self, pairs: Metadata) -> None:
        self.pairs = pairs
        """What a call made from here carries on: a valid ``traceparent``, then ``tracestate`` if there is one."""
        self._parsed: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        """Return the same as objects of OpenTelemetry's API."""
        if self._parsed is None:
            self._parsed = span_context(*(str(value) for _, value in self.pairs))
        return self._parsed

    def __repr__(self) -> str:
        return f"Unsampled({self.pairs!r})"


def unsampled(traceparent: str, tracestate: str = "") -> Unsampled:
    """Return the position that a valid ``traceparent`` names."""
    pairs: Metadata = ((TRACEPARENT, traceparent),)
    return Unsampled((*pairs, (TRACESTATE, tracestate)) if tracestate else pairs)


SPAN_KEY: Final = next(iter(set_span_in_context(INVALID_SPAN, Context())))
"""Under which a context holds its current span; OpenTelemetry gives it no public name."""


def quiet_context(metadata: Metadata) -> Context | None:
    """Return the context of an arriving call that nobody records; None when that takes a closer look.

    The short way for what most calls carry: an unsampled ``traceparent`` alone.
    """
    found: tuple[str, MetadataValue] | None = None
    for pair in metadata:
        key = pair[0]
        if key == TRACEPARENT:
            found = pair
        elif key == TRACESTATE:
            return None
    if found is None or not isinstance(found[1], str) or not _UNSAMPLED(found[1]):
        return None
    return context_at(Unsampled((found,)))


def context_at(position: Unsampled) -> Context:
    """Return a context of nothing but this position: what ``set_span_in_context`` does, for a third of its price."""
    return Context({SPAN_KEY: position})


def without_trace(metadata: Metadata) -> Metadata:
    """Return metadata rid of trace context."""
    for key, _ in metadata:
        if key in KEYS:
            return tuple(pair for pair in metadata if pair[0] not in KEYS)
    return metadata


def span_context(traceparent: str, tracestate: str = "") -> SpanContext:
    """Return the ``SpanContext`` of a valid ``traceparent``; a malformed ``tracestate`` counts as none."""
    return SpanContext(
        int(traceparent[3:35], 16),
        int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(traceparent[53:55], 16) & 0x03),
        trace_state=TraceState.from_header([tracestate[:_MAX_TRACESTATE]]) if tracestate else None,
    )


def traceparent_of(context: SpanContext) -> str:
    """Return the ``traceparent`` of a valid ``SpanContext``."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"


def remote_context(traceparent: str, tracestate: str, base: Context) -> Context:
    """Return ``base`` with a parent in another process."""
    return set_span_in_context(NonRecordingSpan(span_context(traceparent, tracestate)), base)


class Propagator(Protocol):
    """How trace context gets from and to the metadata of a call."""

    def extract(self, metadata: Metadata) -> Context:
        """Return what the metadata of an arriving call carries; empty when it carries nothing (valid)."""

    def inject(self, metadata: Metadata, context: Context) -> Metadata:
        """Return metadata that carries ``context``, in the place of what it carried before."""


class W3CPropagator:
    """``tracecontext`` and ``baggage``. Of baggage only the keys of an allow-list pass, in and out."""

    def __init__(self, *, trace_context: bool = True, baggage_keys: Iterable[str] = ()) -> None:
        self.trace_context = trace_context
        self.baggage_keys = frozenset(baggage_keys)

    def read(self, metadata: Metadata) -> tuple[str, str, str]:
        """Return valid ``traceparent``, then ``tracestate`` and ``baggage`` as they came; empty for what is missing."""
        traceparent, tracestate, items = "", "", ""
        for key, value in metadata:
            if key == TRACEPARENT:
                traceparent = valid_traceparent(value)
            elif key == TRACESTATE:
                tracestate = value if isinstance(value, str) else ""
            elif key == BAGGAGE:
                items = value if isinstance(value, str) else ""
        return traceparent if self.trace_context else "", tracestate, items

    def base(self, items: str) -> Context:
        """Return a context with the allowed entries of a ``baggage`` value."""
        context = Context()
        if not items or not self.baggage_keys:
            return context
        for entry in items[:_MAX_BAGGAGE].split(",")[:_MAX_BAGGAGE_ENTRIES]:
            name, separator, value = entry.partition(";")[0].partition("=")
            if separator and (key := unquote(name.strip())) in self.baggage_keys:
                context = baggage.set_baggage(key, unquote(value.strip()), context)
        return context

    def extract(self, metadata: Metadata) -> Context:
        """See ``Propagator``."""
        traceparent, tracestate, items = self.read(metadata)
        context = self.base(items)
        return remote_context(traceparent, tracestate, context) if traceparent else context

    def inject(self, metadata: Metadata, context: Context) -> Metadata:
        """See ``Propagator``."""
        span = get_current_span(context)
        pairs: Metadata = ()
        if self.trace_context:
            if isinstance(span, Unsampled):
                pairs = span.pairs
            elif (where := span.get_span_context()).is_valid:
                pairs = ((TRACEPARENT, traceparent_of(where)),)
                if where.trace_state:
                    pairs += ((TRACESTATE, where.trace_state.to_header()),)
        return self.replace(metadata, pairs, context)

    def replace(self, metadata: Metadata, pairs: Metadata, context: Context) -> Metadata:
        """Return metadata with ``pairs`` and the allowed baggage of ``context``, rid of what it carried before."""
        if self.baggage_keys:
            allowed = {key: value for key, value in baggage.get_all(context).items() if key in self.baggage_keys}
            if allowed:
                items = ",".join(
                    f"{quote(key, safe='')}={quote(str(value), safe='')}" for key, value in allowed.items()
                )
                pairs += ((BAGGAGE, items[:_MAX_BAGGAGE]),)
        return without_trace(metadata) + pairs


class TextMapPropagator:
    """Whatever ``OTEL_PROPAGATORS`` names (b3, jaeger, xray, ...), by the propagators that OpenTelemetry finds."""

    def __init__(self, baggage_keys: Iterable[str] = ()) -> None:
        """Raises ``ValueError`` when a propagator of that name is not installed."""
        from opentelemetry import propagate  # noqa: PLC0415 - reads the variable at import, and raises there

        self._text_map = propagate.get_global_textmap()
        self.baggage_keys = frozenset(baggage_keys)

    def extract(self, metadata: Metadata) -> Context:
        """See ``Propagator``."""
        carrier = {key: value for key, value in metadata if isinstance(value, str)}
        return self._restrict(self._text_map.extract(carrier, Context()))

    def inject(self, metadata: Metadata, context: Context) -> Metadata:
        """See ``Propagator``."""
        carrier: dict[str, str] = {}
        self._text_map.inject(carrier, self._restrict(context))
        pairs: Mapping[str, str] = {key.lower(): value for key, value in carrier.items()}
        return tuple(pair for pair in metadata if pair[0] not in pairs and pair[0] not in KEYS) + tuple(pairs.items())

    def _restrict(self, context: Context) -> Context:
        for key in baggage.get_all(context):
            if key not in self.baggage_keys:
                context = baggage.remove_baggage(key, context)
        return context
