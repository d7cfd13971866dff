"""Traces, metrics and logs. See docs/observability.md.

Nothing here imports OpenTelemetry before tracing or metrics are switched on: a process that does neither pays neither
the memory nor the time. Everything below this package that does is loaded by the functions here.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from rpc.stats import Stats, combine, totals
from rpc.telemetry.logs import JsonFormatter, TextFormatter, TraceContextFilter, configure_logging
from rpc.telemetry.settings import Settings
from rpc.telemetry.workers import WorkerStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import TracerProvider

    from rpc.call import Interceptor
    from rpc.method import MethodInfo
    from rpc.status import StatusError
    from rpc.telemetry.http import HttpSpan, HttpTracer
    from rpc.telemetry.messaging import Producer
    from rpc.telemetry.metrics import MetricExport
    from rpc.telemetry.tracing import Tracing

__all__ = [
    "PROMETHEUS_CONTENT_TYPE",
    "HttpSpan",
    "HttpTracer",
    "JsonFormatter",
    "TextFormatter",
    "TraceContextFilter",
    "WorkerStats",
    "attempt_failed",
    "client_interceptor",
    "configure",
    "configure_logging",
    "consumer_interceptor",
    "http_tracer",
    "producer",
    "prometheus_text",
    "server_interceptor",
    "shutdown",
]

_log = logging.getLogger(__name__)

PROMETHEUS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of ``prometheus_text``."""


class _State:
    """What is running in this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.configured = False
        self.version = ""
        self.provider: TracerProvider | None = None
        self.metrics: MetricExport | None = None
        self.tracing: Tracing | None = None


_state = _State()


def configure(service_name: str, *, instance_id: str = "", version: str = "") -> None:
    """Start exporting as the ``OTEL_*`` variables say; without any of them nothing is started.

    The three arguments become ``service.name``, ``service.instance.id`` and ``service.version`` unless the
    environment names them. Call it once, before the first ``Server`` or ``Channel`` is made. A TracerProvider that
    the application has installed before is used as it is, and no other is made.
    """
    settings = Settings.read(os.environ)
    with _state.lock:
        if _state.configured:
            _log.warning("telemetry is configured already; the second call is ignored")
            return
        _state.configured = True
        _state.version = version
        if settings.disabled or not (settings.traces_exporters or settings.metrics_exporters):
            return
        from rpc.telemetry import export  # noqa: PLC0415 - loads OpenTelemetry

        who = export.resource(service_name, instance_id, version)
        if settings.traces_exporters and _installed_provider() is None:
            _state.provider = export.tracer_provider(settings, who)
            if _state.provider is not None:
                from opentelemetry import trace  # noqa: PLC0415

                trace.set_tracer_provider(_state.provider)
        if settings.metrics_exporters:
            _state.metrics = export.metric_export(settings, who, version)
        atexit.register(shutdown)


def shutdown(timeout: float = 5.0) -> None:
    """Send what has not been sent yet, and stop. Returns after about ``timeout`` seconds at the latest; idempotent.

    It blocks: call it when the event loop has nothing else to do, or in a thread.
    """
    with _state.lock:
        provider, metrics = _state.provider, _state.metrics
        _state.provider = _state.metrics = None
    if provider is not None or metrics is not None:
        atexit.unregister(shutdown)
        from rpc.telemetry import export  # noqa: PLC0415 - is loaded

        export.close(provider, metrics, timeout)


def client_interceptor() -> Interceptor | None:
    """Return the interceptor that traces outgoing calls, None when tracing is off.

    It belongs outside of all policies that may send a call more than once.
    """
    tracing = _tracing()
    if tracing is None:
        return None
    from rpc.telemetry import tracing as spans  # noqa: PLC0415 - loads OpenTelemetry

    return spans.client_interceptor(tracing)


def server_interceptor(is_known: Callable[[MethodInfo], bool] | None = None) -> Interceptor | None:
    """Return the interceptor that traces arriving calls, None when tracing is off.

    ``is_known`` tells the methods of this server from names that callers made up, which must not become span names.
    An exception that is answered with ``StatusError`` is recorded if that was raised ``from`` it.
    """
    tracing = _tracing()
    if tracing is None:
        return None
    from rpc.telemetry import tracing as spans  # noqa: PLC0415 - loads OpenTelemetry

    return spans.server_interceptor(tracing, is_known)


def consumer_interceptor(info: MethodInfo) -> Interceptor | None:
    """Return the interceptor that traces what is delivered to a job or a subscribed method, None when tracing is off.

    The calls that it takes are ``rpc.durable.context.DeliveredCall``.
    """
    tracing = _tracing()
    if tracing is None:
        return None
    from rpc.telemetry import messaging  # noqa: PLC0415 - loads OpenTelemetry

    return messaging.consumer_interceptor(tracing, info)


def producer() -> Producer | None:
    """Return what makes the spans of jobs and events that are published, None when tracing is off."""
    tracing = _tracing()
    if tracing is None:
        return None
    from rpc.telemetry import messaging  # noqa: PLC0415 - loads OpenTelemetry

    return messaging.Producer(tracing)


def http_tracer(*, trust_trace_context: bool | None = None) -> HttpTracer | None:
    """Return what starts the spans of HTTP requests, None when tracing is off. See ``rpc.telemetry.http``.

    ``trust_trace_context`` continues the traces of HTTP clients; the default is ``NATSMESH_TRUST_TRACE_CONTEXT``, or
    not.
    """
    tracing = _tracing()
    if tracing is None:
        return None
    from rpc.telemetry.http import HttpTracer  # noqa: PLC0415 - loads OpenTelemetry

    if trust_trace_context is None:
        trust_trace_context = Settings.read(os.environ).trust_trace_context
    return HttpTracer(tracing, trust_trace_context=trust_trace_context)


def attempt_failed(error: StatusError, attempt: int, delay: float) -> None:
    """Note on the current CLIENT span that sending number ``attempt`` failed and is repeated after ``delay`` seconds.

    For the policy that sends again. Costs nothing when tracing is off.
    """
    if _state.tracing is not None:
        from rpc.telemetry import tracing as spans  # noqa: PLC0415 - is loaded

        spans.attempt_failed(error, attempt, delay)


def prometheus_text(*stats: Stats) -> bytes:
    """Return ``stats`` (by default all that this process counts) as Prometheus text, ``PROMETHEUS_CONTENT_TYPE``."""
    from rpc.telemetry import prometheus  # noqa: PLC0415 - loads prometheus_client

    return prometheus.prometheus_text(combine(stats) if stats else totals())


def __getattr__(name: str) -> Any:
    if name in {"HttpSpan", "HttpTracer"}:
        from rpc.telemetry import http  # noqa: PLC0415 - loads OpenTelemetry

        return getattr(http, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _installed_provider() -> Any:
    """Return the TracerProvider that the application has installed, None when it has not."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider


def _tracing() -> Tracing | None:
    """Return what all interceptors share, None when nobody would see a span."""
    with _state.lock:
        if _state.tracing is not None:
            return _state.tracing
        settings = Settings.read(os.environ)
        provider = _state.provider or _installed_provider()
        if provider is None or settings.disabled:
            return None
        from rpc.telemetry import export  # noqa: PLC0415 - loads OpenTelemetry
        from rpc.telemetry.sampling import HeadSampler  # noqa: PLC0415
        from rpc.telemetry.tracing import Tracing  # noqa: PLC0415

        # The sampler of somebody else's provider is somebody else's: only the provider itself may decide.
        head = HeadSampler(settings.sampler, settings.sampler_rate) if provider is _state.provider else None
        _state.tracing = Tracing(provider, export.propagator(settings), head, _state.version)
        return _state.tracing
