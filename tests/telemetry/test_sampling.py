"""The decision taken early is the SDK's decision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import sampling as sdk

from rpc.telemetry.sampling import NAMES, HeadSampler, PresetIdGenerator

RATES = st.one_of(st.sampled_from([0.0, 1.0, 0.01, 0.5, 1e-12]), st.floats(0, 1))
TRACE_IDS = st.integers(1, (1 << 128) - 1)


@given(RATES, TRACE_IDS)
def test_ratio_decides_as_the_sdk_does(rate: float, trace_id: int) -> None:
    theirs = sdk.TraceIdRatioBased(rate).should_sample(Context(), trace_id, "call").decision.is_sampled()
    assert HeadSampler("traceidratio", rate).wants(f"{trace_id:032x}"[16:]) is theirs


@given(TRACE_IDS)
def test_always_and_never(trace_id: int) -> None:
    digits = f"{trace_id:032x}"[16:]
    assert HeadSampler("always_on").wants(digits)
    assert HeadSampler("parentbased_always_on").always
    assert not HeadSampler("always_off").wants(digits)


def test_names() -> None:
    assert set(sdk._KNOWN_SAMPLERS) == NAMES
    assert [name for name in NAMES if HeadSampler(name).parent_based] == [n for n in NAMES if n.startswith("parent")]
    with pytest.raises(ValueError, match="unknown sampler"):
        HeadSampler("sometimes")
    with pytest.raises(ValueError, match="not within"):
        HeadSampler("traceidratio", float("nan"))


def test_a_preset_trace_id_is_used_once() -> None:
    ids = PresetIdGenerator()
    ids.preset(42)
    assert ids.generate_trace_id() == 42
    assert ids.generate_trace_id() != 42
