"""What switches telemetry on, each case in a process of its own: there is one configuration a process."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from tests.telemetry.otlp_receiver import OtlpReceiver

CALL = """
import asyncio
from rpc.call import Call, compose
from rpc.method import MethodInfo

async def answer(call: Call):
    pass

def call_once():
    layers = [layer for layer in (telemetry.client_interceptor(), telemetry.server_interceptor()) if layer]
    asyncio.run(compose(layers, answer)(Call(MethodInfo("greeter.v1.Greeter", "SayHello"))))
"""


def run(script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "NATSMESH_"))}
    result = subprocess.run(
        [sys.executable, "-c", f"import sys, time\nfrom rpc import telemetry\n{CALL}\n{textwrap.dedent(script)}"],
        env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path), **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result


OFF = """
telemetry.configure("test")
assert telemetry.client_interceptor() is None
assert telemetry.server_interceptor() is None
assert telemetry.http_tracer() is None
from rpc import StatusCode, StatusError
telemetry.attempt_failed(StatusError(StatusCode.UNAVAILABLE), 1, 0.0)
call_once()
telemetry.shutdown()
"""


def test_off_is_the_default_and_loads_nothing() -> None:
    run(OFF + "assert not [name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus_client'))]")


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:9/v1/metrics"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_TRACES_EXPORTER": "of-a-friend"},
    ],
)
def test_switched_off(environ: dict[str, str]) -> None:
    run(OFF, **environ)


def test_an_endpoint_switches_everything_on(receiver: OtlpReceiver) -> None:
    run(
        """
        telemetry.configure("test.v1.Test", instance_id="i-1", version="1.2.3")
        from rpc.stats import Stats
        numbers = Stats("server")
        numbers.method(MethodInfo("a.B", "C")).record(0, 0.1)
        call_once()
        telemetry.shutdown()
        telemetry.shutdown()
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
    )
    assert sorted(span.kind for span in receiver.spans()) == ["CLIENT", "SERVER"]
    assert [(point.metric, point.count) for point in receiver.points()] == [("rpc.server.call.duration", 1)]
    for item in [*receiver.spans(), *receiver.points()]:
        assert item.resource["service.name"] == "test.v1.Test"
        assert item.resource["service.instance.id"] == "i-1"
        assert item.resource["service.version"] == "1.2.3"


def test_the_environment_names_the_service(receiver: OtlpReceiver) -> None:
    run(
        # No shutdown: the end of the process does that.
        "telemetry.configure('test.v1.Test', instance_id='i-1'); call_once()",
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_METRICS_EXPORTER="none",
        OTEL_SERVICE_NAME="orders",
        OTEL_RESOURCE_ATTRIBUTES="service.instance.id=pod-7,deployment.environment.name=test",
    )
    resource = receiver.spans()[0].resource
    assert resource["service.name"] == "orders"
    assert resource["service.instance.id"] == "pod-7"
    assert resource["deployment.environment.name"] == "test"


@pytest.mark.parametrize(
    ("sampler", "least", "most"), [("always_off", 0, 0), ("parentbased_traceidratio", 20, 180), ("always_on", 400, 400)]
)
def test_samplers(receiver: OtlpReceiver, sampler: str, least: int, most: int) -> None:
    run(
        "telemetry.configure('test')\nfor _ in range(200): call_once()\n",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{receiver.endpoint}/v1/traces",
        OTEL_TRACES_SAMPLER=sampler,
        OTEL_TRACES_SAMPLER_ARG="0.25",
        OTEL_BSP_MAX_QUEUE_SIZE="4096",
    )
    assert least <= len(receiver.spans()) <= most


@pytest.mark.parametrize("configure", ["", "telemetry.configure('test')"])
def test_the_applications_own_provider_is_used(receiver: OtlpReceiver, configure: str) -> None:
    run(
        f"""
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        {configure}
        assert telemetry.http_tracer() is not None
        call_once()
        assert sorted(span.kind.name for span in exporter.get_finished_spans()) == ["CLIENT", "SERVER"]
        assert trace.get_tracer_provider() is provider
        telemetry.shutdown()
        """,
        **({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.endpoint}/v1/traces"} if configure else {}),
    )
    assert not receiver.spans(), "spans go where the application said"


def test_other_propagators(receiver: OtlpReceiver) -> None:
    result = run(
        "telemetry.configure('test'); call_once()",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{receiver.endpoint}/v1/traces",
        OTEL_PROPAGATORS="tracecontext,of-a-friend",
    )
    assert "of-a-friend" in result.stderr
    client, server = sorted(receiver.spans(), key=lambda span: span.kind)
    assert server.trace_id == client.trace_id


def test_the_console(receiver: OtlpReceiver) -> None:
    result = run("telemetry.configure('test'); call_once()", OTEL_TRACES_EXPORTER="console")
    assert "greeter.v1.Greeter/SayHello" in result.stdout


def test_a_second_configuration_is_refused_loudly() -> None:
    result = run("telemetry.configure('a'); telemetry.configure('b')")
    assert "configured already" in result.stderr


def test_a_collector_that_is_away_delays_the_end_by_the_bound_only() -> None:
    started = time.monotonic()
    run(
        """
        telemetry.configure("test")
        call_once()
        begun = time.monotonic()
        telemetry.shutdown(timeout=1.0)
        assert time.monotonic() - begun < 2.5
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
    )
    assert time.monotonic() - started < 15


def test_http_trust_comes_from_the_environment(receiver: OtlpReceiver) -> None:
    run(
        """
        telemetry.configure("test")
        traceparent = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
        scope = {"type": "http", "path": "/", "headers": [(b"traceparent", traceparent)]}
        telemetry.http_tracer().start("GET", "/", scope).end(200)
        telemetry.http_tracer(trust_trace_context=False).start("PUT", "/", scope).end(200)
        """,
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{receiver.endpoint}/v1/traces",
        NATSMESH_TRUST_TRACE_CONTEXT="true",
    )
    traces = {span.name: span.trace_id for span in receiver.spans()}
    assert traces["GET /"] == "a" * 32
    assert traces["PUT /"] != "a" * 32
