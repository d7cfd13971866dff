import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rpc.telemetry.propagation import (
    TextMapPropagator,
    W3CPropagator,
    is_sampled,
    span_context,
    traceparent_of,
    unsampled,
    valid_traceparent,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
NOT_SAMPLED = f"00-{TRACE}-{SPAN}-00"

hexadecimal = st.text("0123456789abcdef", min_size=1, max_size=34)


@pytest.mark.parametrize("text", [SAMPLED, NOT_SAMPLED, f"00-{TRACE}-{SPAN}-03", f"00-{TRACE}-{SPAN}-ff"])
def test_well_formed(text: str) -> None:
    assert valid_traceparent(text) == text
    context = span_context(text)
    assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == (TRACE, SPAN)
    assert context.is_remote
    assert context.trace_flags.sampled == is_sampled(text)


def test_later_versions_are_read_as_version_00() -> None:
    assert valid_traceparent(f"cc-{TRACE}-{SPAN}-01-what-the-future-will-bring") == SAMPLED
    assert valid_traceparent(f"cc-{TRACE}-{SPAN}-01") == SAMPLED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE}-{SPAN}-1",
        f" 00-{TRACE}-{SPAN}-01",
        SAMPLED.encode(),
        None,
        "\u0660" * 55,
    ],
)
def test_malformed(text: str) -> None:
    assert valid_traceparent(text) == ""


@given(
    st.one_of(
        st.text(max_size=60),
        st.builds("-".join, st.lists(hexadecimal, min_size=3, max_size=5)),
        st.builds(
            lambda version, trace, span, flags: f"{version:02x}-{trace:032x}-{span:016x}-{flags:02x}",
            st.integers(0, 255),
            st.integers(0, 2**128 - 1),
            st.integers(0, 2**64 - 1),
            st.integers(0, 255),
        ),
    )
)
def test_reads_what_opentelemetry_reads(text: str) -> None:
    theirs = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": text}, Context()))
    ours = get_current_span(W3CPropagator().extract((("traceparent", text),)))
    if theirs.get_span_context().is_valid and valid_traceparent(text):
        expected, found = theirs.get_span_context(), ours.get_span_context()
        assert (found.trace_id, found.span_id) == (expected.trace_id, expected.span_id)
        assert found.trace_flags.sampled == expected.trace_flags.sampled
    else:
        # OpenTelemetry is laxer about spaces around the value; never the other way round.
        assert not ours.get_span_context().is_valid


def test_an_unsampled_position_is_handed_on_as_it_came() -> None:
    span = unsampled(NOT_SAMPLED, "vendor=1")
    assert not span.is_recording()
    assert span.pairs == (("traceparent", NOT_SAMPLED), ("tracestate", "vendor=1"))
    context = span.get_span_context()
    assert traceparent_of(context) == NOT_SAMPLED
    assert context.trace_state["vendor"] == "1"
    span.set_attribute("a", 1)
    span.end()


def test_inject_replaces_what_was_there() -> None:
    propagator = W3CPropagator()
    context = set_span_in_context(NonRecordingSpan(span_context(SAMPLED, "vendor=1")), Context())
    metadata = (("traceparent", "forged"), ("x", "y"), ("baggage", "token=secret"))
    assert propagator.inject(metadata, context) == (
        ("x", "y"),
        ("traceparent", SAMPLED),
        ("tracestate", "vendor=1"),
    )
    assert propagator.inject((("x", "y"),), Context()) == (("x", "y"),)


def test_a_malformed_tracestate_does_not_cost_the_trace() -> None:
    context = W3CPropagator().extract((("traceparent", SAMPLED), ("tracestate", "=;;=")))
    assert get_current_span(context).get_span_context().is_valid


def test_baggage_passes_by_the_allow_list_only() -> None:
    metadata = (("traceparent", SAMPLED), ("baggage", "tenant=a%20b;prop=1, token=secret,broken, experiment=7"))
    assert baggage.get_all(W3CPropagator().extract(metadata)) == {}
    propagator = W3CPropagator(baggage_keys=("tenant", "experiment"))
    context = propagator.extract(metadata)
    assert baggage.get_all(context) == {"tenant": "a b", "experiment": "7"}
    context = baggage.set_baggage("password", "x", context)
    sent = dict(propagator.inject((), context))
    assert sent["baggage"] == "tenant=a%20b,experiment=7"
    assert "baggage" not in dict(W3CPropagator().inject((), context))


def test_propagators_can_be_switched_off_one_by_one() -> None:
    metadata = (("traceparent", SAMPLED), ("baggage", "tenant=a"))
    only_baggage = W3CPropagator(trace_context=False, baggage_keys=("tenant",))
    context = only_baggage.extract(metadata)
    assert not get_current_span(context).get_span_context().is_valid
    assert baggage.get_all(context) == {"tenant": "a"}
    sent = only_baggage.inject((), set_span_in_context(NonRecordingSpan(span_context(SAMPLED)), context))
    assert sent == (("baggage", "tenant=a"),)


def test_opentelemetrys_own_propagators_keep_the_allow_list() -> None:
    propagator = TextMapPropagator(baggage_keys=("tenant",))
    context = propagator.extract((("traceparent", SAMPLED), ("baggage", "tenant=a,token=secret"), ("x-bin", b"\0")))
    assert get_current_span(context).get_span_context().is_valid
    assert baggage.get_all(context) == {"tenant": "a"}
    sent = dict(propagator.inject((("x", "y"), ("traceparent", "old")), baggage.set_baggage("token", "s", context)))
    assert sent == {"x": "y", "traceparent": SAMPLED, "baggage": "tenant=a"}
