"""Where spans and metrics go: the SDK's providers, processors and exporters, made from ``Settings``.

Bounded on all sides: the queue of spans drops what is too much (``OTEL_BSP_MAX_QUEUE_SIZE``, 2048 by default),
exports have timeouts, and ``close`` returns in time whatever the collector does.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)

from rpc.stats import totals
from rpc.telemetry import semconv
from rpc.telemetry.metrics import MetricExport, metrics_data
from rpc.telemetry.propagation import Propagator, TextMapPropagator, W3CPropagator
from rpc.telemetry.sampling import LinkedSampler, PresetIdGenerator
from rpc.telemetry.settings import Settings

_log = logging.getLogger(__name__)

_OTLP: Final = {
    # signal: (module below opentelemetry.exporter.otlp.proto.<protocol>, class)
    "traces": ("trace_exporter", "OTLPSpanExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
}


def resource(service_name: str, instance_id: str, version: str) -> Resource:
    """Return who we are. ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` take precedence."""
    ours = {
        semconv.SERVICE_NAME: service_name,
        semconv.SERVICE_INSTANCE_ID: instance_id,
        semconv.SERVICE_VERSION: version,
    }
    theirs = OTELResourceDetector().detect().attributes
    return Resource.create({key: value for key, value in ours.items() if value and key not in theirs})


def propagator(settings: Settings) -> Propagator:
    """Return what ``OTEL_PROPAGATORS`` asks for."""
    names = frozenset(settings.propagators)
    if names - {"tracecontext", "baggage"}:
        try:
            return TextMapPropagator(settings.baggage_keys)
        except ValueError as error:
            _log.warning("OTEL_PROPAGATORS: %s; using tracecontext and baggage", error)
            names = frozenset(("tracecontext", "baggage"))
    return W3CPropagator(
        trace_context="tracecontext" in names,
        baggage_keys=settings.baggage_keys if "baggage" in names else (),
    )


def sampler(settings: Settings) -> Sampler:
    """Return the SDK's sampler of that name; one that follows parents follows the links of messages too."""
    rate = settings.sampler_rate
    samplers: dict[str, Sampler] = {
        "always_on": ALWAYS_ON,
        "always_off": ALWAYS_OFF,
        "traceidratio": TraceIdRatioBased(rate),
        "parentbased_always_on": DEFAULT_ON,
        "parentbased_always_off": DEFAULT_OFF,
        "parentbased_traceidratio": ParentBasedTraceIdRatio(rate),
    }
    chosen = samplers[settings.sampler]
    return LinkedSampler(chosen) if settings.sampler.startswith("parentbased_") else chosen


def tracer_provider(settings: Settings, who: Resource) -> TracerProvider | None:
    """Return a provider that exports as ``settings`` say, None when no exporter could be made."""
    exporters = [exporter for name in settings.traces_exporters if (exporter := _span_exporter(name)) is not None]
    if not exporters:
        return None
    provider = TracerProvider(
        sampler=sampler(settings), resource=who, id_generator=PresetIdGenerator(), shutdown_on_exit=False
    )
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def metric_export(settings: Settings, who: Resource, version: str) -> MetricExport | None:
    """Start exporting what the process counts, None when no exporter could be made."""
    exporters = [exporter for name in settings.metrics_exporters if (exporter := _metric_exporter(name)) is not None]
    if not exporters:
        return None

    def collect() -> MetricsData:
        return metrics_data(totals(), who, version)

    return MetricExport(exporters, collect, interval=settings.metric_interval, timeout=settings.metric_timeout)


def close(provider: TracerProvider | None, metrics: MetricExport | None, timeout: float) -> None:
    """Send what is left and stop. Returns after about ``timeout`` seconds at the latest."""
    deadline = time.monotonic() + timeout
    if provider is not None:
        # The SDK's shutdown has no bound of its own worth relying on: a collector that hangs must not keep us.
        thread = threading.Thread(target=provider.shutdown, name="natsmesh-tracing-shutdown", daemon=True)
        thread.start()
        thread.join(timeout)
        if thread.is_alive():
            _log.warning("the last spans were not sent within %g s", timeout)
    if metrics is not None:
        metrics.close(max(0.1, deadline - time.monotonic()))


def _span_exporter(name: str) -> SpanExporter | None:
    exporter = _exporter("traces", name)
    return exporter if isinstance(exporter, SpanExporter) else None


def _metric_exporter(name: str) -> MetricExporter | None:
    if name == "prometheus":
        _log.warning("OTEL_METRICS_EXPORTER=prometheus: scrape the gateway's /metrics instead; ignored")
        return None
    exporter = _exporter("metrics", name)
    return exporter if isinstance(exporter, MetricExporter) else None


def _exporter(signal: str, name: str) -> Any:
    """Return the exporter that ``OTEL_<SIGNAL>_EXPORTER`` names, None (and a warning) when there is none."""
    if name == "otlp":
        return _otlp_exporter(signal)
    for entry in entry_points(group=f"opentelemetry_{signal}_exporter", name=name):
        return entry.load()()
    _log.warning("OTEL_%s_EXPORTER=%s: no such exporter is installed; ignored", signal.upper(), name)
    return None


def _otlp_exporter(signal: str) -> Any:
    protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    module, name = _OTLP[signal]
    package = "grpc" if protocol == "grpc" else "http"
    try:
        return getattr(importlib.import_module(f"opentelemetry.exporter.otlp.proto.{package}.{module}"), name)()
    except ModuleNotFoundError:
        _log.warning(
            "OTLP over %s needs the package opentelemetry-exporter-otlp-proto-%s; using http/protobuf",
            protocol,
            package,
        )
        return getattr(importlib.import_module(f"opentelemetry.exporter.otlp.proto.http.{module}"), name)()
