"""Responses and errors of REST."""

import logging
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as GoogleAny
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from rpc import Refusal, StatusError
from tests.gateway.conftest import CannedGateway

# Each row: target, message that the service answers, content type, body, source.
ANSWERS: list[tuple[str, dict[str, Any], str, bytes, str]] = [
    (
        "/v1/books/2",
        {"name": "2", "pageCount": "3"},
        "application/json",
        b'{"name":"2","pageCount":"3"}',
        "ProtoJSON: int64",
    ),
    ("/v1/books/2", {}, "application/json", b"{}", "ProtoJSON: fields with default values are left out"),
    (
        "/v1/echo",
        {"string": "ä\u2028", "bytes": "/+8="},
        "application/json",
        '{"string":"ä\u2028","bytes":"/+8="}'.encode(),
        "UTF-8",
    ),
    (
        "/v1/echo",
        {"maybe": 0, "colour": "RED"},
        "application/json",
        b'{"colour":"RED","maybe":0}',
        "ProtoJSON: presence",
    ),
    (
        "/v1/search",
        {"best": {"name": "1"}, "total": 5},
        "application/json",
        b'{"name":"1"}',
        "http.proto: response_body",
    ),
    ("/v1/search", {"total": 5}, "application/json", b"{}", "an absent message is an empty one"),
    ("/v1/books/2/file", {"contentType": "image/png", "data": "AP8="}, "image/png", b"\x00\xff", "httpbody.proto"),
    ("/v1/books/2/file", {"data": "AP8="}, "application/octet-stream", b"\x00\xff", "RFC 9110: no type is known"),
    ("/v1/books/2/file", {}, "application/octet-stream", b"", "an empty HttpBody"),
    (
        "/v1/books/2/cover",
        {"image": {"contentType": "image/png", "data": "AA=="}},
        "image/png",
        b"\x00",
        "both together",
    ),
    ("/v1/books/2/cover", {}, "application/octet-stream", b"", "both together, absent"),
]


@pytest.mark.parametrize(("target", "message", "content_type", "body", "source"), ANSWERS)
async def test_answers(
    canned: CannedGateway, target: str, message: dict[str, Any], content_type: str, body: bytes, source: str
) -> None:
    canned.answer(message)
    answer = await canned.client.get(target)
    assert answer.status == 200, answer
    assert answer.header("content-type") == content_type
    assert answer.header("content-length") == str(len(body))
    assert answer.body == body


async def test_response_body_of_a_list(canned: CannedGateway) -> None:
    canned.answer({"tags": ["a", "b"]})
    answer = await canned.client.request("PUT", "/v1/books/2/tags", json=["a"])
    assert answer.json == ["a", "b"]
    canned.answer({})
    assert (await canned.client.request("PUT", "/v1/books/2/tags", json=[])).json == []


async def test_any_is_resolved_in_the_schema(canned: CannedGateway) -> None:
    author = {"@type": "type.googleapis.com/library.v1.Author", "familyName": "Lovelace"}
    canned.answer({"extra": author})
    assert (await canned.client.get("/v1/books/2")).json == {"extra": author}
    answer = await canned.client.post("/v1/shelves/1/books", json={"extra": author})
    assert answer.status == 200, answer
    assert canned.request()["book"] == {"extra": author}


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff",
        b"\x0a\x02\xff\xff",  # A string that is not UTF-8.
        b"\x32\x0d\x0a\x0bunknown/x.Y",  # An Any of a type that nobody knows.
    ],
)
async def test_a_response_that_does_not_fit_is_the_services_fault(
    canned: CannedGateway, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def respond(call: Any) -> None:
        call.response = data

    canned.respond = respond
    with caplog.at_level(logging.WARNING):
        answer = await canned.client.get("/v1/books/2")
    assert answer.status == 500
    assert answer.json["code"] == 13
    assert answer.json["message"].startswith("the response does not fit library.v1.Book")
    assert "library.v1.Library/GetBook" in caplog.text


@pytest.mark.parametrize("content_type", ["a", "a/b\r\nset-cookie: x", "text/html\n", "a/\u00e4"])
async def test_content_types_of_services_are_checked(canned: CannedGateway, content_type: str) -> None:
    canned.answer({"contentType": content_type, "data": ""})
    assert (await canned.client.get("/v1/books/2/file")).status == 500


# Source: facts, "Code to HTTP"; google/rpc/code.proto.
CODES = [
    (StatusCode.CANCELLED, 499),
    (StatusCode.UNKNOWN, 500),
    (StatusCode.INVALID_ARGUMENT, 400),
    (StatusCode.DEADLINE_EXCEEDED, 504),
    (StatusCode.NOT_FOUND, 404),
    (StatusCode.ALREADY_EXISTS, 409),
    (StatusCode.PERMISSION_DENIED, 403),
    (StatusCode.RESOURCE_EXHAUSTED, 429),
    (StatusCode.FAILED_PRECONDITION, 400),
    (StatusCode.ABORTED, 409),
    (StatusCode.OUT_OF_RANGE, 400),
    (StatusCode.UNIMPLEMENTED, 501),
    (StatusCode.INTERNAL, 500),
    (StatusCode.UNAVAILABLE, 503),
    (StatusCode.DATA_LOSS, 500),
    (StatusCode.UNAUTHENTICATED, 401),
]


@pytest.mark.parametrize(("code", "status"), CODES)
async def test_codes(canned: CannedGateway, code: StatusCode, status: int) -> None:
    canned.fail(StatusError(code, "why ä"))
    answer = await canned.client.get("/v1/books/2")
    assert answer.status == status
    assert answer.json == {"code": code.value[0], "message": "why ä"}


async def test_a_refusal_is_unavailable(canned: CannedGateway) -> None:
    canned.fail(Refusal("nobody serves it", "no-responders"))
    answer = await canned.client.get("/v1/books/2")
    assert (answer.status, answer.json["code"]) == (503, 14)


def rich_status(*details: Any) -> bytes:
    status = status_pb2.Status(code=9, message="not used")
    for detail in details:
        if isinstance(detail, GoogleAny):
            status.details.append(detail)
        else:
            status.details.add().Pack(detail)
    return status.SerializeToString()


async def test_rich_errors(canned: CannedGateway) -> None:
    details = rich_status(
        error_details_pb2.ErrorInfo(reason="FULL", domain="library", metadata={"a": "b"}),
        error_details_pb2.RetryInfo(),
        GoogleAny(type_url="type.googleapis.com/library.v1.Author", value=b"\x0a\x01x"),
        GoogleAny(type_url="type.googleapis.com/nobody.knows.This", value=b"\x01"),
        GoogleAny(type_url="type.googleapis.com/library.v1.Author", value=b"\xff"),
    )
    canned.fail(StatusError(StatusCode.FAILED_PRECONDITION, "full"), (("grpc-status-details-bin", details),))
    answer = await canned.client.get("/v1/books/2")
    assert answer.status == 400
    prefix = "type.googleapis.com/"
    assert answer.json == {
        "code": 9,
        "message": "full",
        "details": [
            {"@type": prefix + "google.rpc.ErrorInfo", "reason": "FULL", "domain": "library", "metadata": {"a": "b"}},
            {"@type": prefix + "google.rpc.RetryInfo"},
            {"@type": prefix + "library.v1.Author", "familyName": "x"},
            {"@type": prefix + "nobody.knows.This", "value": "AQ=="},
            {"@type": prefix + "library.v1.Author", "value": "/w=="},
        ],
    }


async def test_garbage_instead_of_rich_errors(canned: CannedGateway) -> None:
    canned.fail(StatusError(StatusCode.NOT_FOUND, "gone"), (("grpc-status-details-bin", b"\xff\xff"),))
    assert (await canned.client.get("/v1/books/2")).json == {"code": 5, "message": "gone"}


async def test_an_error_that_says_ok_is_none(canned: CannedGateway) -> None:
    canned.fail(StatusError(StatusCode.OK, ""))
    answer = await canned.client.get("/v1/books/2")
    assert (answer.status, answer.json) == (500, {"code": 2, "message": "unknown"})


@pytest.mark.parametrize("target", ["/v1/books/2", "/library.v1.Library/GetBook"])
async def test_a_bug_of_ours_tells_nothing_but_its_id(
    canned: CannedGateway, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    canned.fail(RuntimeError("secret"))
    if target.startswith("/v1"):
        answer = await canned.client.get(target)
    else:
        answer = await canned.client.post(target, json={})
    assert answer.status == 500
    request_id = answer.header("x-request-id")
    assert request_id
    assert "secret" not in answer.body.decode()
    assert request_id in answer.json["message"]
    (record,) = caplog.records
    assert request_id in record.getMessage()
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


async def test_unknown_paths(canned: CannedGateway) -> None:
    for target in (
        "/nope",
        "/",
        "/v1",
        "/v1/books",
        "/library.v1.Library/",
        "//v1/books/2",
    ):
        answer = await canned.client.get(target)
        assert answer.status == 404, target
        assert answer.json == {"code": 5, "message": f"nothing is served at {target}"}
        assert answer.header("x-request-id")


async def test_errors_on_unknown_paths_say_what_is_wrong(canned: CannedGateway) -> None:
    for target, why in (
        ("/library.v1.Library/Nope", "library.v1.Library has no method Nope"),
        ("/library.v2.Library/GetBook", "no service library.v2.Library has been seen on the mesh"),
        ("/v1/books/2/", "leave out the slash at the end"),
    ):
        answer = await canned.client.get(target)
        assert answer.status == 404
        assert answer.json["message"] == f"nothing is served at {target}: {why}"
    refused = await canned.client.request("DELETE", "/library.v1.Library/MoveBook")
    assert refused.json["message"] == "/library.v1.Library/MoveBook does not take DELETE: it takes OPTIONS, POST"
    got = await canned.client.get("/library.v1.Library/GetBook")
    assert got.status == 415
    assert "?connect=v1&encoding=json&message=" in got.json["message"]


async def test_an_unknown_path_is_not_reflected_at_length(canned: CannedGateway) -> None:
    answer = await canned.client.get("/" + "x" * 5000)
    assert answer.status == 404
    assert len(answer.body) < 300


# Each row: method, target, status, Allow, source.
METHODS: list[tuple[str, str, int, str | None, str]] = [
    ("POST", "/v1/books/2", 405, "GET, HEAD, OPTIONS, REPORT", "RFC 9110, 15.5.6"),
    ("DELETE", "/v1/shelves/1/books/2", 405, "GET, HEAD, OPTIONS, PATCH, PUT", "RFC 9110, 15.5.6"),
    ("GET", "/library.v1.Library/MoveBook", 405, "OPTIONS, POST", "Connect: POST only"),
    ("PUT", "/library.v1.Library/GetBook", 405, "GET, HEAD, OPTIONS, POST", "Connect: GET for NO_SIDE_EFFECTS"),
    ("POST", "/healthz", 405, "GET, HEAD, OPTIONS", "RFC 9110, 15.5.6"),
    ("OPTIONS", "/v1/books/2", 204, "GET, HEAD, OPTIONS, REPORT", "RFC 9110, 9.3.7"),
    ("OPTIONS", "/nope", 404, None, "RFC 9110, 9.3.7"),
    ("get", "/v1/books/2", 405, "GET, HEAD, OPTIONS, REPORT", "RFC 9110, 9.1: methods are case-sensitive"),
]


@pytest.mark.parametrize(("method", "target", "status", "allow", "source"), METHODS)
async def test_methods(
    canned: CannedGateway, method: str, target: str, status: int, allow: str | None, source: str
) -> None:
    answer = await canned.client.request(method, target)
    assert answer.status == status
    assert answer.header("allow") == allow
    assert canned.calls == []


async def test_head_is_get(canned: CannedGateway) -> None:
    answer = await canned.client.request("HEAD", "/v1/books/2")
    assert answer.status == 200
    assert canned.request() == {"name": "2"}
