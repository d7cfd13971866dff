"""``rpc.stats`` as OpenTelemetry metrics, exported every so often from a thread of its own.

Calls are counted by ``rpc.stats`` and not by the SDK's instruments, which would cost several microseconds a call; the
SDK's data points are built from those numbers when it is time to export. They are always cumulative.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from rpc.stats import BOUNDS, Stats
from rpc.telemetry import semconv
from rpc.telemetry.labels import DESCRIPTIONS, NAMES, attributes

_log = logging.getLogger(__name__)

_UNKNOWN: Final[Any] = None
"""The least and the greatest duration are not counted; OTLP knows them as optional, the SDK's types do not."""


def metrics_data(stats: Sequence[Stats], resource: Resource, version: str) -> MetricsData:
    """Return what ``stats`` have counted so far, one metric for each kind."""
    now = time.time_ns()
    metrics = [
        Metric(
            name=NAMES[numbers.kind],
            description=DESCRIPTIONS[numbers.kind],
            unit="s",
            data=Histogram(list(_points(numbers, now)), AggregationTemporality.CUMULATIVE),
        )
        for numbers in stats
    ]
    scope = InstrumentationScope(semconv.SCOPE, version, semconv.SCHEMA_URL)
    return MetricsData(
        [
            ResourceMetrics(
                resource,
                [ScopeMetrics(scope, [metric for metric in metrics if metric.data.data_points], semconv.SCHEMA_URL)],
                resource.schema_url,
            ),
        ],
    )


def _points(numbers: Stats, now: int) -> Iterator[HistogramDataPoint]:
    started = int(numbers.started * 1e9)
    for entry in numbers:
        for code, histogram in entry.by_code().items():
            buckets = histogram.buckets.copy()
            yield HistogramDataPoint(
                attributes=attributes(numbers.kind, entry.labels, code),
                start_time_unix_nano=started,
                time_unix_nano=now,
                count=sum(buckets),
                sum=histogram.total,
                bucket_counts=buckets,
                explicit_bounds=BOUNDS,
                min=_UNKNOWN,
                max=_UNKNOWN,
            )


class MetricExport:
    """Exports at an interval until it is closed, and once more then."""

    def __init__(
        self,
        exporters: Sequence[MetricExporter],
        collect: Callable[[], MetricsData],
        *,
        interval: float,
        timeout: float,
    ) -> None:
        """``interval`` and ``timeout`` (of one export) are seconds; ``collect`` is called on the export's thread."""
        self._exporters = exporters
        self._collect = collect
        self._interval = interval
        self._timeout = timeout
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="natsmesh-metrics", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            self._export()
        self._export()

    def _export(self) -> None:
        try:
            data = self._collect()
            for exporter in self._exporters:
                exporter.export(data, timeout_millis=self._timeout * 1000)
        except Exception:  # noqa: BLE001 - whatever an exporter raises, the next export is tried
            _log.exception("metrics were not exported")

    def close(self, timeout: float) -> None:
        """Export a last time and stop. Returns after ``timeout`` seconds at the latest."""
        self._closing.set()
        self._thread.join(timeout)
        for exporter in self._exporters:
            exporter.shutdown(timeout_millis=0)
