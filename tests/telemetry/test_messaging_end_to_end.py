"""A job and an event over HTTP, gateway and four processes: the real commands, broker and collector."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from rpc.embedded import Broker
from tests.events.stage import STAGE
from tests.generated import compile_contract
from tests.telemetry.otlp_receiver import OtlpReceiver, Span
from tests.telemetry.processes import Mesh, traced, tree

GATEWAY = "natsmesh-gateway"
ORDER, MAIL, STORE = "stage.v1.Shop/Order", "stage.v1.Mail/OnPlaced", "stage.v1.Store/StorePlaced"
JOBS, EVENTS = "jobs.stage.v1.Shop.Order", "events.stage.v1.Placed"

pytestmark = pytest.mark.timeout(120)


def order(port: int, name: str, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/orders",
        json.dumps({"id": name}).encode(),
        {"content-type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    code = compile_contract(STAGE, tmp_path_factory.mktemp("stage"))
    with OtlpReceiver() as receiver, Broker(port=0) as broker:
        mesh = Mesh(receiver, broker, tmp_path_factory.mktemp("logs"), code)
        try:
            mesh.start("greeter", "serve", "services.greeter:Greeter")
            for name in ("Shop", "Mail", "Store"):
                mesh.start(name.lower(), "serve", f"tests.telemetry.traced_shop:{name}")
            yield mesh
        finally:
            mesh.stop()


@pytest.fixture(scope="module")
def port(mesh: Mesh) -> int:
    port = mesh.start_gateway("gateway", lambda port: order(port, "warm-up")[0] == 200)
    mesh.receiver.wait_for_spans(
        lambda spans: (
            {span.attributes.get("rpc.method") for span in spans if span.kind == "CONSUMER"} >= {ORDER, MAIL, STORE}
        )
    )
    return port


def consumers(spans: list[Span], method: str, trace_id: str) -> list[Span]:
    """Return the CONSUMER spans of a method that are linked to a trace, first attempts first."""
    found = [
        span
        for span in spans
        if span.kind == "CONSUMER" and span.attributes["rpc.method"] == method and trace_id in span.links
    ]
    return sorted(found, key=lambda span: span.attributes["natsmesh.attempt"])


def test_from_a_request_to_the_last_subscriber(mesh: Mesh, port: int) -> None:
    status, operation = order(port, "one", **{"user-agent": "story-1"})
    assert status == 200
    job_id = operation["name"].rpartition("/")[2]

    spans = traced(mesh.receiver, "story-1", 3)
    assert tree(spans) == [
        (0, GATEWAY, "SERVER", "POST /v1/orders"),
        (1, GATEWAY, "CLIENT", ORDER),
        (2, GATEWAY, "PRODUCER", f"send {JOBS}"),
    ]
    (producer,) = [span for span in spans if span.kind == "PRODUCER"]
    assert producer.attributes == {
        "messaging.system": "nats",
        "messaging.destination.name": JOBS,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.message.id": job_id,
        "rpc.method": ORDER,
    }

    # Each attempt is a trace of its own.
    everything = mesh.receiver.wait_for_spans(lambda spans: len(consumers(spans, ORDER, producer.trace_id)) == 2)
    first, second = consumers(everything, ORDER, producer.trace_id)
    assert len({first.trace_id, second.trace_id, producer.trace_id}) == 3
    for number, span in enumerate((first, second), 1):
        assert span.name == f"process {JOBS}"
        assert span.service == "stage.v1.Shop"
        assert not span.parent_id
        assert span.attributes["natsmesh.attempt"] == number
        assert span.attributes["messaging.message.id"] == job_id
        assert span.attributes["messaging.consumer.group.name"] == "Order"
        assert span.attributes["messaging.operation.type"] == "process"
        assert 0 <= span.attributes["natsmesh.queue.duration"] < 10
    assert second.attributes["natsmesh.queue.duration"] > first.attributes["natsmesh.queue.duration"]
    assert (first.status, first.description, first.attributes["error.type"]) == ("ERROR", "not yet", "UNAVAILABLE")
    assert (second.status, second.attributes["rpc.response.status_code"]) == ("UNSET", "OK")
    assert "error.type" not in second.attributes

    # What the handler publishes and calls belongs to its own trace.
    mailed = lambda spans: consumers(spans, MAIL, second.trace_id)  # noqa: E731
    stored = lambda spans: consumers(spans, STORE, second.trace_id)  # noqa: E731
    everything = mesh.receiver.wait_for_spans(lambda spans: len(mailed(spans)) == len(stored(spans)) == 1)
    (mail,), (store,) = mailed(everything), stored(everything)
    assert tree([span for span in everything if span.trace_id == second.trace_id]) == [
        (0, "stage.v1.Shop", "CONSUMER", f"process {JOBS}"),
        (1, "stage.v1.Shop", "PRODUCER", f"send {EVENTS}"),
    ]
    everything = mesh.receiver.wait_for_spans(lambda spans: sum(span.trace_id == mail.trace_id for span in spans) == 3)
    assert tree([span for span in everything if span.trace_id == mail.trace_id]) == [
        (0, "stage.v1.Mail", "CONSUMER", f"process {EVENTS}"),
        (1, "stage.v1.Mail", "CLIENT", "greeter.v1.Greeter/SayHello"),
        (2, "greeter.v1.Greeter", "SERVER", "greeter.v1.Greeter/SayHello"),
    ]
    assert mail.attributes["messaging.message.id"] == "placed-one"
    assert mail.attributes["messaging.consumer.group.name"] == "stage_v1_Mail-OnPlaced"
    assert "messaging.batch.message_count" not in mail.attributes
    assert store.attributes["messaging.batch.message_count"] == 1
    assert "messaging.message.id" not in store.attributes

    # The logs of the handlers know the traces.
    logged = {line["message"]: line for name in ("shop", "mail") for line in mesh.log(name) if "one" in line["message"]}
    assert logged["order one, attempt 1"]["trace_id"] == first.trace_id
    assert logged["order one, attempt 2"]["span_id"] == second.span_id
    assert logged["mail for one"]["trace_id"] == mail.trace_id


def test_a_batch_has_a_link_to_each_producer(mesh: Mesh, port: int) -> None:
    names = [f"many-{number}" for number in range(5)]
    for name in names:
        assert order(port, name)[0] == 200

    def sent(spans: list[Span]) -> dict[str, str]:
        return {
            span.attributes["messaging.message.id"].removeprefix("placed-"): span.trace_id
            for span in spans
            if span.name == f"send {EVENTS}"
        }

    def batches(spans: list[Span]) -> list[Span]:
        wanted = {trace for name, trace in sent(spans).items() if name in names}
        return [
            span
            for span in spans
            if span.name == f"process {EVENTS}" and wanted & set(span.links) and span.attributes["rpc.method"] == STORE
        ]

    spans = mesh.receiver.wait_for_spans(
        lambda spans: sum(span.attributes["messaging.batch.message_count"] for span in batches(spans)) == len(names)
    )
    assert any(len(span.links) > 1 for span in batches(spans))
    by_trace = {trace: name for name, trace in sent(spans).items()}
    for span in batches(spans):
        assert len(span.links) == span.attributes["messaging.batch.message_count"]
    assert sorted(by_trace[trace] for span in batches(spans) for trace in span.links) == names


def test_an_exception_stands_in_the_consumers_span(mesh: Mesh, port: int) -> None:
    assert order(port, "zero-1")[0] == 200
    failed = lambda spans: [  # noqa: E731
        span for span in spans if span.attributes.get("messaging.message.id") == "placed-zero-1" and span.events
    ]
    spans = failed(mesh.receiver.wait_for_spans(lambda spans: len(failed(spans)) == 3))
    assert {span.attributes["natsmesh.attempt"] for span in spans} == {1, 2, 3}
    for span in spans:
        assert span.attributes["error.type"] == "UNKNOWN"
        assert span.events[0].attributes["exception.type"] == "ZeroDivisionError"


def test_what_the_gateway_does_not_sample_no_worker_samples(mesh: Mesh, port: int) -> None:
    silent = mesh.start_gateway(
        "gateway-silent",
        lambda port: order(port, "silent")[0] == 200,
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0",
    )
    assert order(silent, "silent-too")[0] == 200
    assert order(port, "loud")[0] == 200
    heard = lambda spans: [  # noqa: E731
        span.attributes["messaging.message.id"] for span in spans if span.attributes.get("rpc.method") == MAIL
    ]
    mesh.receiver.wait_for_spans(lambda spans: "placed-loud" in heard(spans))
    mesh.until(lambda: any(line["message"] == "mail for silent-too" for line in mesh.log("mail")), "the silent mail")
    assert not [name for name in heard(mesh.receiver.spans()) if "silent" in name]
    lines = [line for name in ("shop", "mail") for line in mesh.log(name) if "silent-too" in line["message"]]
    assert len(lines) == 3
    assert {line["trace_flags"] for line in lines} == {"02"}
    assert len({line["trace_id"] for line in lines}) == 1, "the logs of all that comes of a request have one id"


def test_a_worker_that_samples_little_follows_those_who_sample(mesh: Mesh, port: int) -> None:
    rare = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    mesh.start("audit", "serve", "tests.telemetry.traced_shop:Audit", **rare)
    assert order(port, "rare")[0] == 200
    audited = lambda spans: [  # noqa: E731
        span for span in spans if span.attributes.get("rpc.method") == "stage.v1.Audit/OnPlaced"
    ]
    mesh.receiver.wait_for_spans(
        lambda spans: any(span.attributes["messaging.message.id"] == "placed-rare" for span in audited(spans))
    )


def test_numbers_of_jobs_and_events(mesh: Mesh, port: int) -> None:
    def counts(metric: str) -> dict[tuple[str, str], int]:
        points = [point for point in mesh.receiver.points() if point.metric == metric]
        key = "rpc.method" if metric.startswith("rpc.") else "messaging.destination.name"
        return {(point.attributes[key], point.attributes.get("error.type", "")): point.count for point in points}

    mesh.until(lambda: counts("natsmesh.queue.duration").get((EVENTS, ""), 0) > 0, "queue of events")
    mesh.until(lambda: counts("messaging.process.duration").get((JOBS, "UNAVAILABLE"), 0) > 0, "attempts that failed")
    assert counts("messaging.process.duration")[JOBS, ""] > 0
    assert counts("natsmesh.queue.duration")[JOBS, ""] > 0
    assert counts("rpc.server.call.duration")[ORDER, ""] > 0
    assert counts("rpc.server.call.duration")[ORDER, "UNAVAILABLE"] > 0
    assert counts("rpc.server.call.duration")[MAIL, ""] > 0
    (point, *_) = [point for point in mesh.receiver.points() if point.metric == "messaging.process.duration"]
    assert point.unit == "s"
    assert point.attributes["messaging.consumer.group.name"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    assert f'rpc_client_call_duration_seconds_count{{error_type="",rpc_method="{ORDER}"' in text
