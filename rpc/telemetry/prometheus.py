"""``rpc.stats`` as Prometheus text, with the names that OpenTelemetry's metrics have there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from rpc.stats import BOUNDS, Kind, Stats
from rpc.telemetry import semconv
from rpc.telemetry.labels import DESCRIPTIONS, NAMES, attributes

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_RPC_LABELS: Final = (
    semconv.RPC_SYSTEM_NAME,
    semconv.RPC_METHOD,
    semconv.RPC_RESPONSE_STATUS_CODE,
    semconv.ERROR_TYPE,
)
_MESSAGING_LABELS: Final = (
    semconv.MESSAGING_SYSTEM,
    semconv.MESSAGING_DESTINATION_NAME,
    semconv.MESSAGING_CONSUMER_GROUP_NAME,
    semconv.MESSAGING_OPERATION_NAME,
    semconv.ERROR_TYPE,
)
_LABELS: Final[dict[Kind, tuple[str, ...]]] = {
    "server": _RPC_LABELS,
    "client": _RPC_LABELS,
    "http": (
        semconv.HTTP_REQUEST_METHOD,
        semconv.HTTP_ROUTE,
        semconv.HTTP_RESPONSE_STATUS_CODE,
        semconv.URL_SCHEME,
        semconv.ERROR_TYPE,
    ),
    "process": _MESSAGING_LABELS,
    "queue": _MESSAGING_LABELS,
}


class _StatsCollector(Collector):
    def __init__(self, stats: Sequence[Stats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[HistogramMetricFamily]:
        for numbers in self._stats:
            yield _family(numbers)


def _family(numbers: Stats) -> HistogramMetricFamily:
    names = _LABELS[numbers.kind]
    family = HistogramMetricFamily(
        NAMES[numbers.kind].replace(".", "_"),
        DESCRIPTIONS[numbers.kind],
        labels=[name.replace(".", "_") for name in names],
        unit="seconds",
    )
    for entry in numbers:
        for code, histogram in entry.by_code().items():
            values = attributes(numbers.kind, entry.labels, code)
            buckets: list[tuple[str, float]] = []
            running = 0
            for bound, count in zip((*BOUNDS, float("inf")), histogram.buckets.copy(), strict=True):
                running += count
                buckets.append(("+Inf" if bound == float("inf") else repr(bound), running))
            family.add_metric([str(values.get(name, "")) for name in names], buckets, histogram.total)
    return family


def prometheus_text(stats: Sequence[Stats]) -> bytes:
    """Return the text exposition format 0.0.4 (``CONTENT_TYPE``) of ``stats``, at most one of each kind."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StatsCollector(stats))
    return generate_latest(registry)
