"""One trace over three processes, HTTP > gateway > concierge > greeter: the real commands, broker and collector."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpc.embedded import Broker
from tests.telemetry.otlp_receiver import OtlpReceiver
from tests.telemetry.processes import Mesh, traced, tree

CLIENT_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CONCIERGE, GREETER, GATEWAY = "concierge.v1.Concierge", "greeter.v1.Greeter", "natsmesh-gateway"

pytestmark = pytest.mark.timeout(120)


def welcome(port: int, guests: list[str], **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/welcomes",
        json.dumps({"guests": guests}).encode(),
        {"content-type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def serves(port: int) -> bool:
    return welcome(port, [])[0] == 200


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with OtlpReceiver() as receiver, Broker(port=0) as broker:
        mesh = Mesh(receiver, broker, tmp_path_factory.mktemp("logs"))
        try:
            mesh.start("greeter", "serve", "tests.telemetry.traced_greeter:TracedGreeter")
            mesh.start("concierge", "serve", "services.concierge:Concierge")
            yield mesh
        finally:
            mesh.stop()


@pytest.fixture(scope="module")
def port(mesh: Mesh) -> int:
    port = mesh.start_gateway("gateway", serves)
    mesh.until(lambda: welcome(port, ["warm-up"])[0] == 200, "the greeter is found")
    return port


def test_one_request_is_one_trace_over_three_processes(mesh: Mesh, port: int) -> None:
    traceparent = f"00-{CLIENT_TRACE}-00f067aa0ba902b7-01"
    status, body = welcome(port, ["Ann", "Bob"], traceparent=traceparent, **{"user-agent": "story-1"})
    assert (status, json.loads(body)) == (200, {"greetings": ["Hello, Ann!", "Hello, Bob!"]})
    spans = traced(mesh.receiver, "story-1", 9)
    greeted = [
        (3, CONCIERGE, "CLIENT", "greeter.v1.Greeter/SayHello"),
        (4, GREETER, "SERVER", "greeter.v1.Greeter/SayHello"),
        (5, GREETER, "INTERNAL", "choose words"),
    ]
    assert tree(spans) == [
        (0, GATEWAY, "SERVER", "POST /v1/welcomes"),
        (1, GATEWAY, "CLIENT", "concierge.v1.Concierge/Welcome"),
        (2, CONCIERGE, "SERVER", "concierge.v1.Concierge/Welcome"),
        *greeted,
        *greeted,
    ]
    assert len({span.resource["service.instance.id"] for span in spans}) == 3

    root = next(span for span in spans if not span.parent_id)
    assert root.trace_id != CLIENT_TRACE
    assert root.links == (CLIENT_TRACE,)
    assert root.attributes["http.route"] == "/v1/welcomes"
    assert root.attributes["http.request.method"] == "POST"
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["url.path"] == "/v1/welcomes"
    assert root.attributes["server.port"] == port
    for span in spans:
        assert span.status == "UNSET"
        assert not span.events
        assert span.seconds > 0
        if span.name.startswith(("concierge.", "greeter.")):
            assert span.scope == "natsmesh"
            assert span.attributes == {
                "rpc.system.name": "grpc",
                "rpc.method": span.name,
                "rpc.response.status_code": "OK",
                "server.address": span.name.partition("/")[0],
            }

    greetings = [line for line in mesh.log("greeter") if line["message"] in {"greeting Ann", "greeting Bob"}]
    servers = {span.span_id for span in spans if (span.service, span.kind) == (GREETER, "SERVER")}
    assert {line["trace_id"] for line in greetings} == {root.trace_id}
    assert {line["span_id"] for line in greetings} == servers


def test_an_error_is_told_where_it_happened(mesh: Mesh, port: int) -> None:
    status, body = welcome(port, ["Zero"], **{"user-agent": "story-2"})
    assert status == 500
    assert "ZeroDivision" not in body
    spans = traced(mesh.receiver, "story-2", 6)
    by_place = {(span.service, span.kind): span for span in spans}
    assert {place: span.status for place, span in by_place.items()} == {
        (GATEWAY, "SERVER"): "ERROR",
        (GATEWAY, "CLIENT"): "ERROR",
        (CONCIERGE, "SERVER"): "ERROR",
        (CONCIERGE, "CLIENT"): "ERROR",
        (GREETER, "SERVER"): "ERROR",
        (GREETER, "INTERNAL"): "ERROR",
    }
    assert by_place[GATEWAY, "SERVER"].attributes["error.type"] == "500"
    for place in ((GATEWAY, "CLIENT"), (CONCIERGE, "SERVER"), (CONCIERGE, "CLIENT"), (GREETER, "SERVER")):
        assert by_place[place].attributes["rpc.response.status_code"] == "UNKNOWN"
        assert by_place[place].attributes["error.type"] == "UNKNOWN"
    (event,) = by_place[GREETER, "SERVER"].events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ZeroDivisionError"
    assert "1 // 0" in event.attributes["exception.stacktrace"]
    for place in ((GATEWAY, "SERVER"), (GATEWAY, "CLIENT"), (CONCIERGE, "CLIENT")):
        assert not by_place[place].events
    (logged,) = [line for line in mesh.log("greeter") if "ZeroDivisionError" in line.get("exception", "")]
    assert logged["trace_id"] == by_place[GREETER, "SERVER"].trace_id


def test_a_callers_mistake_is_no_error_of_the_server(mesh: Mesh, port: int) -> None:
    status, _ = welcome(port, ["x"] * 101, **{"user-agent": "story-3"})
    assert status == 400
    spans = traced(mesh.receiver, "story-3", 3)
    assert {(span.service, span.kind): span.status for span in spans} == {
        (GATEWAY, "SERVER"): "UNSET",
        (GATEWAY, "CLIENT"): "ERROR",
        (CONCIERGE, "SERVER"): "UNSET",
    }
    assert {span.attributes.get("rpc.response.status_code") for span in spans} == {None, "INVALID_ARGUMENT"}


def test_what_the_gateway_does_not_sample_nobody_samples(mesh: Mesh, port: int) -> None:
    unsampled = mesh.start_gateway(
        "gateway-unsampled", serves, OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0"
    )
    assert welcome(unsampled, ["Silent"])[0] == 200
    assert welcome(port, ["Loud"], **{"user-agent": "story-4"})[0] == 200
    loud = traced(mesh.receiver, "story-4", 6)
    (silent,) = [line for line in mesh.log("greeter") if line["message"] == "greeting Silent"]
    assert silent["trace_flags"] == "02"
    traces = {span.trace_id for span in mesh.receiver.spans()}
    assert loud[0].trace_id in traces
    assert silent["trace_id"] not in traces


def test_the_same_numbers_over_otlp_and_for_prometheus(mesh: Mesh, port: int) -> None:
    welcome(port, ["Metric"])

    def exported(metric: str, service: str) -> int:
        points = [p for p in mesh.receiver.points() if (p.metric, p.resource["service.name"]) == (metric, service)]
        return max((point.count for point in points), default=0)

    mesh.until(
        lambda: (
            exported("http.server.request.duration", GATEWAY) > 0
            and exported("rpc.client.call.duration", GATEWAY) > 0
            and exported("rpc.server.call.duration", CONCIERGE) > 0
            and exported("rpc.client.call.duration", CONCIERGE) > 0
            and exported("rpc.server.call.duration", GREETER) > 0
        ),
        "metrics of all three processes",
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        text = response.read().decode()
    assert 'rpc_client_call_duration_seconds_count{error_type="",rpc_method="concierge.v1.Concierge/Welcome"' in text
    assert 'http_route="/v1/welcomes"' in text


def test_what_is_left_is_sent_at_the_end(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver, Broker(port=0) as broker:
        mesh = Mesh(receiver, broker, tmp_path)
        late = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_METRIC_EXPORT_INTERVAL": "600000"}
        try:
            mesh.start("greeter", "serve", "tests.telemetry.traced_greeter:TracedGreeter", **late)
            mesh.start("concierge", "serve", "services.concierge:Concierge", **late)
            port = mesh.start_gateway("gateway", serves, **late)
            mesh.until(lambda: welcome(port, ["Last"], **{"user-agent": "story-5"})[0] == 200, "the greeter is found")
            assert not receiver.spans()
        finally:
            mesh.stop()
        root = next(span for span in receiver.spans() if span.attributes.get("http.response.status_code") == 200)
        assert root.service == GATEWAY
        names = {(span.service, span.kind) for span in receiver.spans()}
        assert names >= {(GATEWAY, "SERVER"), (GATEWAY, "CLIENT"), (CONCIERGE, "SERVER"), (GREETER, "SERVER")}
        assert {point.resource["service.name"] for point in receiver.points()} == {GATEWAY, CONCIERGE, GREETER}
