"""What the environment says: the standard ``OTEL_*`` variables, and a few of our own where there is no standard.

Read without OpenTelemetry, so that a process without tracing never loads it. As the specification asks, a value that is
not understood is warned about and ignored: a typing error in a variable must not keep a service from starting.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_log = logging.getLogger(__name__)

DEFAULT_SAMPLER: Final = "parentbased_always_on"
DEFAULT_METRIC_INTERVAL: Final = 60.0
DEFAULT_METRIC_TIMEOUT: Final = 30.0

_RATIO_SAMPLERS: Final = ("traceidratio", "parentbased_traceidratio")
_SAMPLERS: Final = (
    "always_on",
    "always_off",
    "parentbased_always_on",
    "parentbased_always_off",
    *_RATIO_SAMPLERS,
)
_TRUE: Final = frozenset(("1", "true", "yes", "on"))
_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment, understood. Times are seconds."""

    disabled: bool
    """``OTEL_SDK_DISABLED``: nothing at all, not even with an application's own TracerProvider."""
    traces_exporters: tuple[str, ...]
    """Empty when spans are not exported by us."""
    metrics_exporters: tuple[str, ...]
    """Empty when metrics are not exported by us."""
    sampler: str
    sampler_rate: float
    propagators: tuple[str, ...]
    baggage_keys: tuple[str, ...]
    """``NATSMESH_BAGGAGE_KEYS``: the baggage entries that may travel; by default none."""
    trust_trace_context: bool
    """``NATSMESH_TRUST_TRACE_CONTEXT``: whether the gateway continues the traces of its HTTP clients."""
    metric_interval: float
    metric_timeout: float

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Settings:
        """Read the environment."""
        sampler, rate = _sampler(environ)
        return cls(
            disabled=_flag(environ, "OTEL_SDK_DISABLED"),
            traces_exporters=_exporters(environ, "TRACES"),
            metrics_exporters=_exporters(environ, "METRICS"),
            sampler=sampler,
            sampler_rate=rate,
            propagators=_names(environ, "OTEL_PROPAGATORS", ("tracecontext", "baggage")),
            baggage_keys=_list(environ.get("NATSMESH_BAGGAGE_KEYS", "")),
            trust_trace_context=_flag(environ, "NATSMESH_TRUST_TRACE_CONTEXT"),
            metric_interval=_milliseconds(environ, "OTEL_METRIC_EXPORT_INTERVAL", DEFAULT_METRIC_INTERVAL),
            metric_timeout=_milliseconds(environ, "OTEL_METRIC_EXPORT_TIMEOUT", DEFAULT_METRIC_TIMEOUT),
        )


def _list(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))


def _names(environ: Mapping[str, str], variable: str, default: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.lower() for name in _list(environ.get(variable, "")))
    if "none" in names:
        return ()
    return names or default


def _exporters(environ: Mapping[str, str], signal: str) -> tuple[str, ...]:
    """Exporting is on when an exporter is named, or an OTLP endpoint is: nobody sets either without meaning it."""
    named = environ.get(_ENDPOINT) or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return _names(environ, f"OTEL_{signal}_EXPORTER", ("otlp",) if named else ())


def _flag(environ: Mapping[str, str], variable: str) -> bool:
    return environ.get(variable, "").strip().lower() in _TRUE


def _milliseconds(environ: Mapping[str, str], variable: str, default: float) -> float:
    text = environ.get(variable, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        _log.warning("%s=%r is not a positive number of milliseconds; using %g", variable, text, default * 1000)
        return default
    return int(text) / 1000


def _sampler(environ: Mapping[str, str]) -> tuple[str, float]:
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or DEFAULT_SAMPLER
    if name not in _SAMPLERS:
        _log.warning("OTEL_TRACES_SAMPLER=%r is not one of %s; using %s", name, ", ".join(_SAMPLERS), DEFAULT_SAMPLER)
        return DEFAULT_SAMPLER, 1.0
    if name not in _RATIO_SAMPLERS:
        return name, 1.0
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    try:
        rate = float(text) if text else 1.0
        if not 0.0 <= rate <= 1.0:
            raise ValueError("out of range")
    except ValueError:
        _log.warning("OTEL_TRACES_SAMPLER_ARG=%r is not a number from 0 to 1; using 1.0", text)
        rate = 1.0
    return name, rate
