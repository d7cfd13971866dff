"""Spans of the gateway. In a process of its own: a TracerProvider, once installed, stays."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("traced.py")


def spans(**environment: str) -> list[dict[str, Any]]:
    environment = {**{key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}, **environment}
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def of_route(found: list[dict[str, Any]], route: str, status: int) -> dict[str, Any]:
    (span,) = (
        span
        for span in found
        if span["attributes"].get("http.route", "") == route
        and span["attributes"].get("http.response.status_code") == status
    )
    return span


def test_one_trace_from_the_request_to_the_back_end() -> None:
    found = spans()
    request = of_route(found, "/v1/greetings/{name}", 200)
    assert (request["name"], request["kind"]) == ("GET /v1/greetings/{name}", "SERVER")
    (client,) = (span for span in found if span["parent"] == request["id"])
    assert (client["name"], client["kind"]) == ("greeter.v1.Greeter/SayHello", "CLIENT")
    (server,) = (span for span in found if span["parent"] == client["id"])
    assert (server["name"], server["kind"]) == ("greeter.v1.Greeter/SayHello", "SERVER")
    assert {span["trace"] for span in (request, client, server)} == {request["trace"]}

    # A stranger's trace is linked to, not continued.
    assert request["parent"] is None
    assert request["links"] == ["0af7651916cd43dd8448eb211c80319c"]

    # What the client did wrong is no error of the gateway's; that nobody serves the method is.
    assert of_route(found, "/greeter.v1.Greeter/SayHello", 400)["status"] == "UNSET"
    assert of_route(found, "", 404)["status"] == "UNSET"
    gone = of_route(found, "/greeter.v1.Greeter/SayHello", 503)
    assert gone["status"] == "ERROR"
    assert gone["attributes"]["error.type"] == "503"


def test_a_trusted_trace_is_continued() -> None:
    request = of_route(spans(NATSMESH_TRUST_TRACE_CONTEXT="true"), "/v1/greetings/{name}", 200)
    assert f"{request['trace']:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{request['parent']:016x}" == "b7ad6b7169203331"


def test_streams_are_part_of_the_trace() -> None:
    found = spans()
    requests = [span for span in found if span["attributes"].get("http.route") == "/v1/tell/{text}"]
    (connect,) = (span for span in found if span["attributes"].get("http.route") == "/streams.v1.Streams/Tell")
    assert len(requests) == 2
    for request, code in ((requests[0], None), (requests[1], "DATA_LOSS"), (connect, None)):
        # The response began with 200, whatever became of the stream: that is for the spans of the call to tell.
        assert request["attributes"]["http.response.status_code"] == 200
        (client,) = (span for span in found if span["parent"] == request["id"])
        assert (client["name"], client["kind"]) == ("streams.v1.Streams/Tell", "CLIENT")
        assert client["attributes"].get("error.type") == code
        (server,) = (span for span in found if span["parent"] == client["id"])
        assert server["kind"] == "SERVER"
