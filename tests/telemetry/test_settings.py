import logging

import pytest

from rpc.telemetry.settings import Settings


def test_nothing_set_exports_nothing() -> None:
    settings = Settings.read({})
    assert not settings.disabled
    assert settings.traces_exporters == ()
    assert settings.metrics_exporters == ()
    assert (settings.sampler, settings.sampler_rate) == ("parentbased_always_on", 1.0)
    assert settings.propagators == ("tracecontext", "baggage")
    assert settings.baggage_keys == ()
    assert not settings.trust_trace_context
    assert settings.metric_interval == 60.0


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ("otlp",), ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, ("otlp",), ()),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/v1/metrics"}, (), ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ("console", "otlp"), ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, (), ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": ""}, (), ()),
    ],
)
def test_an_exporter_or_an_endpoint_switches_exporting_on(
    environ: dict[str, str], traces: tuple[str, ...], metrics: tuple[str, ...]
) -> None:
    settings = Settings.read(environ)
    assert settings.traces_exporters == traces
    assert settings.metrics_exporters == metrics


@pytest.mark.parametrize(
    ("environ", "sampler", "rate"),
    [
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
            "parentbased_traceidratio",
            0.01,
        ),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, "traceidratio", 1.0),
        ({"OTEL_TRACES_SAMPLER": "ALWAYS_OFF", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, "always_off", 1.0),
    ],
)
def test_samplers_of_the_specification(environ: dict[str, str], sampler: str, rate: float) -> None:
    settings = Settings.read(environ)
    assert (settings.sampler, settings.sampler_rate) == (sampler, rate)


@pytest.mark.parametrize(
    ("variable", "value", "environ"),
    [
        ("OTEL_TRACES_SAMPLER", "sometimes", {}),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5", {"OTEL_TRACES_SAMPLER": "traceidratio"}),
        ("OTEL_TRACES_SAMPLER_ARG", "nan", {"OTEL_TRACES_SAMPLER": "traceidratio"}),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1", {}),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1_000", {}),
    ],
)
def test_what_is_not_understood_is_named_and_ignored(
    variable: str, value: str, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        settings = Settings.read({variable: value, **environ})
    assert f"{variable}={value!r}" in caplog.text
    assert settings.sampler_rate == 1.0
    assert settings.metric_interval == 60.0


def test_lists_and_flags() -> None:
    settings = Settings.read(
        {
            "OTEL_SDK_DISABLED": "TRUE",
            "OTEL_PROPAGATORS": "b3, tracecontext,b3",
            "NATSMESH_BAGGAGE_KEYS": "tenant, experiment",
            "NATSMESH_TRUST_TRACE_CONTEXT": "1",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }
    )
    assert settings.disabled
    assert settings.propagators == ("b3", "tracecontext")
    assert settings.baggage_keys == ("tenant", "experiment")
    assert settings.trust_trace_context
    assert settings.metric_interval == 0.5
    assert Settings.read({"OTEL_PROPAGATORS": "none"}).propagators == ()
