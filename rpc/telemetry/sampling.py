"""The sampling decision, taken before anything is built for a span.

For the samplers that ``OTEL_TRACES_SAMPLER`` names, the decision is a flag of the parent or one comparison with a
random trace id. ``HeadSampler`` takes it with the arithmetic of the SDK's samplers; when it says yes, the SDK's own
sampler is asked again with the same trace id, and so agrees.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

_ALL: Final = 1 << 64

NAMES: Final = frozenset(
    f"{prefix}{root}" for prefix in ("", "parentbased_") for root in ("always_on", "always_off", "traceidratio")
)
"""The samplers of the specification that can be decided here."""


class HeadSampler:
    """One of the specification: ``always_on``, ``always_off``, ``traceidratio``, or one of them ``parentbased_``."""

    __slots__ = ("bound", "parent_based")

    def __init__(self, name: str, rate: float = 1.0) -> None:
        """Raises ``ValueError`` for another name, or a rate outside of 0 to 1."""
        if name not in NAMES:
            raise ValueError(f"unknown sampler {name!r}: expected one of {', '.join(sorted(NAMES))}")
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"sampling rate {rate} is not within 0 and 1")
        self.parent_based = name.startswith("parentbased_")
        """True when a parent's decision is kept."""
        root = name.removeprefix("parentbased_")
        bound = {"always_on": _ALL, "always_off": 0}.get(root, TraceIdRatioBased.get_bound_for_rate(rate))
        # Sixteen hexadecimal digits compare as the numbers that they are, without being made into numbers: a trace is
        # wanted when the last sixteen of its id are below the bound. "g" is above them all.
        self.bound = f"{bound:016x}" if bound < _ALL else "g"

    @property
    def always(self) -> bool:
        """True when every trace that starts here is wanted."""
        return self.bound == "g"

    def wants(self, digits: str) -> bool:
        """Return the decision on a trace, by the last 16 of the hexadecimal digits of its id."""
        return digits < self.bound


class LinkedSampler(Sampler):
    """Records the CONSUMER span that begins a trace if one of its producers is recorded; leaves all else to ``inner``.

    For ``parentbased_`` samplers: what is linked is to be seen, as what has a parent is.
    """

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """See ``Sampler``."""
        if (
            kind is SpanKind.CONSUMER
            and links
            and not get_current_span(parent_context).get_span_context().is_valid
            and any(link.context.trace_flags.sampled for link in links)
        ):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        return self._inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """See ``Sampler``."""
        return f"LinkedSampler({self._inner.get_description()})"


class PresetIdGenerator(RandomIdGenerator):
    """Random ids, except that the trace id of the next root span can be set: the one that the decision was taken on."""

    def __init__(self) -> None:
        self._next = threading.local()

    def preset(self, trace_id: int) -> None:
        """Use ``trace_id`` for the next root span that this thread starts."""
        self._next.trace_id = trace_id

    def generate_trace_id(self) -> int:
        """Return the preset trace id, once; a random one otherwise."""
        trace_id: int | None = self._next.__dict__.pop("trace_id", None)
        return trace_id if trace_id is not None else super().generate_trace_id()
