"""The same numbers over OTLP and as Prometheus text."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.resources import Resource
from prometheus_client.parser import text_string_to_metric_families

from rpc.method import MethodInfo
from rpc.stats import BOUNDS, Stats, totals
from rpc.telemetry import prometheus_text
from rpc.telemetry.metrics import MetricExport, metrics_data
from rpc.telemetry.workers import WorkerStats
from tests.telemetry.otlp_receiver import OtlpReceiver

HELLO = MethodInfo("greeter.v1.Greeter", "SayHello")


@pytest.fixture
def numbers() -> list[Stats]:
    server, client, http = (Stats(kind, tracked=False) for kind in ("server", "client", "http"))
    for stats in (server, client):
        entry = stats.method(HELLO)
        entry.record(0, 0.003)
        entry.record(0, 0.3)
        entry.record(5, 0.02, "nobody")
        entry.record(14, 20.0, "gone")
    http.entry("POST", "/v1/greetings/{name}", "http").record(200, 0.004)
    http.entry("GET", "", "http").record(404, 0.001)
    http.entry("POST", "/v1/greetings/{name}", "http").record(503, 0.5)
    return [server, client, http]


def _export(receiver: OtlpReceiver, numbers: list[Stats], **options: Any) -> MetricExport:
    exporter = OTLPMetricExporter(endpoint=f"{receiver.endpoint}/v1/metrics")
    resource = Resource({"service.name": "test"})
    return MetricExport([exporter], lambda: metrics_data(numbers, resource, "1"), **{"timeout": 5.0, **options})


def test_otlp(receiver: OtlpReceiver, numbers: list[Stats]) -> None:
    _export(receiver, numbers, interval=60).close(5.0)
    points = receiver.points()
    by_code = {
        (p.metric, p.attributes.get("rpc.response.status_code", p.attributes.get("http.response.status_code"))): p
        for p in points
    }
    assert len(points) == len(by_code) == 3 + 3 + 3
    ok = by_code["rpc.server.call.duration", "OK"]
    assert (ok.unit, ok.cumulative, ok.bounds, ok.count) == ("s", True, BOUNDS, 2)
    assert ok.sum == pytest.approx(0.303)
    assert (ok.buckets[0], ok.buckets[BOUNDS.index(0.5)], sum(ok.buckets)) == (1, 1, 2)
    assert ok.resource["service.name"] == "test"
    assert ok.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "greeter.v1.Greeter/SayHello",
        "rpc.response.status_code": "OK",
    }
    assert "error.type" not in by_code["rpc.server.call.duration", "NOT_FOUND"].attributes
    assert by_code["rpc.client.call.duration", "NOT_FOUND"].attributes["error.type"] == "NOT_FOUND"
    assert by_code["rpc.server.call.duration", "UNAVAILABLE"].attributes["error.type"] == "UNAVAILABLE"
    assert by_code["rpc.server.call.duration", "UNAVAILABLE"].buckets[-1] == 1
    assert by_code["http.server.request.duration", 200].attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/greetings/{name}",
        "http.response.status_code": 200,
        "url.scheme": "http",
    }
    assert "http.route" not in by_code["http.server.request.duration", 404].attributes
    assert by_code["http.server.request.duration", 503].attributes["error.type"] == "503"


def test_otlp_again_and_again(receiver: OtlpReceiver, numbers: list[Stats]) -> None:
    export = _export(receiver, numbers, interval=0.05)
    try:
        receiver.wait_for_points(lambda points: len(points) >= 18)
        numbers[0].method(HELLO).record(0, 0.001)
        receiver.wait_for_points(lambda points: any(point.count == 3 for point in points))
    finally:
        export.close(5.0)
    assert not [thread for thread in threading.enumerate() if thread.name == "natsmesh-metrics"]


def test_a_collector_that_is_away_delays_nobody(numbers: list[Stats], caplog: pytest.LogCaptureFixture) -> None:
    exporter = OTLPMetricExporter(endpoint="http://127.0.0.1:9/v1/metrics")
    export = MetricExport([exporter], lambda: metrics_data(numbers, Resource({}), "1"), interval=60, timeout=5)
    started = time.monotonic()
    export.close(0.5)
    assert time.monotonic() - started < 2


def test_prometheus(numbers: list[Stats]) -> None:
    text = prometheus_text(*numbers)
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    assert families.keys() == {
        "rpc_server_call_duration_seconds",
        "rpc_client_call_duration_seconds",
        "http_server_request_duration_seconds",
    }
    assert all(family.type == "histogram" for family in families.values())
    labels = {
        "rpc_system_name": "grpc",
        "rpc_method": "greeter.v1.Greeter/SayHello",
        "rpc_response_status_code": "OK",
        "error_type": "",
    }
    samples = [s for s in families["rpc_server_call_duration_seconds"].samples if s.labels.items() >= labels.items()]
    buckets = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
    assert (buckets["0.005"], buckets["0.25"], buckets["0.5"], buckets["+Inf"]) == (1, 1, 2, 2)
    assert {s.name: s.value for s in samples if "le" not in s.labels} == {
        "rpc_server_call_duration_seconds_count": 2,
        "rpc_server_call_duration_seconds_sum": pytest.approx(0.303),
    }
    assert b'http_route="/v1/greetings/{name}"' in text


def test_prometheus_of_messages() -> None:
    process, queue = Stats("process", tracked=False), Stats("queue", tracked=False)
    for stats in (process, queue):
        stats.entry("jobs.shop.v1.Shop.Order", "Order").record(0, 0.1)
    process.entry("jobs.shop.v1.Shop.Order", "Order").record(14, 0.2, "not yet")
    families = {
        family.name: family for family in text_string_to_metric_families(prometheus_text(process, queue).decode())
    }
    assert families.keys() == {"messaging_process_duration_seconds", "natsmesh_queue_duration_seconds"}
    samples = families["messaging_process_duration_seconds"].samples
    counts = {s.labels["error_type"]: s.value for s in samples if s.name.endswith("_count")}
    assert counts == {"": 1, "UNAVAILABLE": 1}
    assert (
        samples[0].labels.items()
        >= {
            "messaging_system": "nats",
            "messaging_destination_name": "jobs.shop.v1.Shop.Order",
            "messaging_consumer_group_name": "Order",
            "messaging_operation_name": "process",
        }.items()
    )


def test_prometheus_of_nothing() -> None:
    assert prometheus_text(Stats("server", tracked=False)).startswith(b"# HELP rpc_server_call_duration_seconds")


def test_several_of_a_kind_are_one_family(numbers: list[Stats]) -> None:
    text = prometheus_text(*numbers, *numbers).decode()
    assert text.count("# TYPE rpc_server_call_duration_seconds histogram") == 1


async def test_a_scrape_of_one_worker_shows_all(tmp_path: Path) -> None:
    info = MethodInfo("test.v1.Workers", "Share")
    ours = Stats("server")
    ours.method(info).record(0, 0.1)
    one, other = WorkerStats(tmp_path), WorkerStats(tmp_path)
    other.publish()  # the same process plays both, so every number is there twice
    one.publish()
    (tmp_path / "broken.json").write_text('[{"kind": ')
    (tmp_path / "alien.json").write_text('{"kind": 1}')
    (server,) = [numbers for numbers in one.gather() if numbers.kind == "server"]
    assert server.method(info).requests == 2
    ours.method(info).record(0, 0.1)
    (server,) = [numbers for numbers in one.gather() if numbers.kind == "server"]
    assert server.method(info).requests == 3, "our own numbers are read live"


async def test_a_worker_publishes_until_it_is_stopped_and_once_more_then(tmp_path: Path) -> None:
    info = MethodInfo("test.v1.Workers", "Last")
    stats = Stats("server")
    worker, reader = WorkerStats(tmp_path), WorkerStats(tmp_path)
    task = asyncio.ensure_future(worker.run(interval=0.01))
    deadline = asyncio.get_running_loop().time() + 10
    while not list(tmp_path.glob("*.json")):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    stats.method(info).record(0, 0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    live = sum(numbers.method(info).requests for numbers in totals() if numbers.kind == "server")
    (server,) = [numbers for numbers in reader.gather() if numbers.kind == "server"]
    assert server.method(info).requests == live + 1


async def test_a_directory_that_is_gone_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    worker = WorkerStats(tmp_path / "gone")
    worker._try_publish()
    assert "were not written" in caplog.text
    worker.gather()
