"""The Connect protocol: the lean path, and what falls through to connectrpc. Source: connectrpc.com/docs/protocol."""

import base64
import gzip
import json
from urllib.parse import quote

import pytest
from google.protobuf.any_pb2 import Any as GoogleAny
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from gateway.grpc_error import grpc_status
from rpc import StatusError
from tests.gateway.conftest import CannedGateway

GET_BOOK = "/library.v1.Library/GetBook"
PROTO = {"content-type": "application/proto"}
JSON = {"content-type": "application/json"}


async def test_json(canned: CannedGateway) -> None:
    canned.answer({"title": "T", "pageCount": "3"})
    answer = await canned.client.post(GET_BOOK, json={"name": "2", "readMask": "title"})
    assert answer.status == 200
    assert answer.json == {"title": "T", "pageCount": "3"}
    assert canned.request() == {"name": "2", "readMask": "title"}
    assert canned.calls[0].info.path == GET_BOOK


async def test_binary_bodies_are_not_looked_into(canned: CannedGateway) -> None:
    def respond(call: object) -> None:
        canned.calls[-1].response = b"\xff answer"

    canned.respond = respond
    answer = await canned.client.post(GET_BOOK, b"\xff request", headers=PROTO)
    assert (answer.status, answer.header("content-type"), answer.body) == (200, "application/proto", b"\xff answer")
    assert canned.calls[0].request == b"\xff request"


async def test_empty_bodies(canned: CannedGateway) -> None:
    for headers in (PROTO, JSON):
        assert (await canned.client.post(GET_BOOK, headers=headers)).status == 200
        assert canned.calls[-1].request == b""


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", 'APPLICATION/JSON;  Charset="UTF-8"', "application/proto "],
)
async def test_content_types(canned: CannedGateway, content_type: str) -> None:
    body = b"{}" if "json" in content_type.lower() else b""
    assert (await canned.client.post(GET_BOOK, body, headers={"content-type": content_type})).status == 200


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json; charset=latin-1", "application/x-proto"])
async def test_other_content_types(canned: CannedGateway, content_type: str) -> None:
    answer = await canned.client.post(GET_BOOK, b"{}", headers={"content-type": content_type} if content_type else {})
    assert answer.status == 415
    assert answer.header("accept-post") == "application/json, application/proto"
    assert canned.calls == []


async def test_the_protocol_version_is_1_or_not_said(canned: CannedGateway) -> None:
    headers = {**JSON, "connect-protocol-version": "1"}
    assert (await canned.client.post(GET_BOOK, b"{}", headers=headers)).status == 200
    answer = await canned.client.post(GET_BOOK, b"{}", headers={**headers, "connect-protocol-version": "2"})
    assert answer.status == 400
    assert answer.json["code"] == "invalid_argument"


# Source: Connect, "Error Codes".
CODES = [
    (StatusCode.CANCELLED, 499, "canceled"),
    (StatusCode.UNKNOWN, 500, "unknown"),
    (StatusCode.INVALID_ARGUMENT, 400, "invalid_argument"),
    (StatusCode.DEADLINE_EXCEEDED, 504, "deadline_exceeded"),
    (StatusCode.NOT_FOUND, 404, "not_found"),
    (StatusCode.ALREADY_EXISTS, 409, "already_exists"),
    (StatusCode.PERMISSION_DENIED, 403, "permission_denied"),
    (StatusCode.RESOURCE_EXHAUSTED, 429, "resource_exhausted"),
    (StatusCode.FAILED_PRECONDITION, 400, "failed_precondition"),
    (StatusCode.ABORTED, 409, "aborted"),
    (StatusCode.OUT_OF_RANGE, 400, "out_of_range"),
    (StatusCode.UNIMPLEMENTED, 501, "unimplemented"),
    (StatusCode.INTERNAL, 500, "internal"),
    (StatusCode.UNAVAILABLE, 503, "unavailable"),
    (StatusCode.DATA_LOSS, 500, "data_loss"),
    (StatusCode.UNAUTHENTICATED, 401, "unauthenticated"),
]


@pytest.mark.parametrize(("code", "status", "name"), CODES)
@pytest.mark.parametrize("falls_through", [False, True])
async def test_errors(canned: CannedGateway, code: StatusCode, status: int, name: str, falls_through: bool) -> None:
    canned.fail(StatusError(code, "why ä"))
    if falls_through:
        answer = await canned.client.get(f"{GET_BOOK}?encoding=json&message=%7B%7D")
    else:
        answer = await canned.client.post(GET_BOOK, json={})
    assert answer.status == status
    assert answer.json == {"code": name, "message": "why ä"}


@pytest.mark.parametrize("falls_through", [False, True])
async def test_rich_errors(canned: CannedGateway, falls_through: bool) -> None:
    info = error_details_pb2.ErrorInfo(reason="FULL")
    status = status_pb2.Status(details=[GoogleAny(type_url="type.googleapis.com/nobody.knows.This", value=b"\x01")])
    status.details.add().Pack(info)
    canned.fail(StatusError(StatusCode.NOT_FOUND, "gone"), (("grpc-status-details-bin", status.SerializeToString()),))
    if falls_through:
        answer = await canned.client.get(f"{GET_BOOK}?encoding=json&message=%7B%7D")
    else:
        answer = await canned.client.post(GET_BOOK, json={})
    first, second = answer.json["details"]
    assert first == {"type": "nobody.knows.This", "value": "AQ"}
    assert second["type"] == "google.rpc.ErrorInfo"
    assert base64.b64decode(second["value"] + "===") == info.SerializeToString()
    if not falls_through:
        assert second["debug"] == {"reason": "FULL"}


async def test_metadata_both_ways(canned: CannedGateway) -> None:
    def respond(call: object) -> None:
        canned.calls[-1].initial_metadata = (("x-lead", "1"), ("x-lead", "2"), ("x-bytes-bin", b"\xff"))
        canned.calls[-1].trailing_metadata = (("x-trail", "3"),)

    canned.respond = respond
    expected = [("x-lead", "1"), ("x-lead", "2"), ("x-bytes-bin", "/w"), ("trailer-x-trail", "3")]
    headers = {"x-tenant": "t", "x-some-bin": "/w", "authorization": "Bearer t"}
    for answer in (
        await canned.client.post(GET_BOOK, json={}, headers=dict(headers)),
        await canned.client.get(f"{GET_BOOK}?encoding=proto&message=", headers=headers),
    ):
        assert [pair for pair in answer.headers if pair[0].startswith(("x-lead", "x-bytes", "trailer-"))] == expected
        metadata = (("x-tenant", "t"), ("x-some-bin", b"\xff"), ("authorization", "Bearer t"))
        assert canned.calls[-1].metadata == metadata


async def test_get(canned: CannedGateway) -> None:
    canned.answer({"title": "T"})
    message = quote(json.dumps({"name": "2"}))
    answer = await canned.client.get(f"{GET_BOOK}?connect=v1&encoding=json&message={message}")
    assert answer.status == 200
    assert answer.json == {"title": "T"}
    assert answer.header("x-request-id")
    assert canned.request() == {"name": "2"}
    binary = base64.urlsafe_b64encode(canned.messages.write("library.v1.GetBookRequest", {"name": "3"})).decode()
    answer = await canned.client.get(f"{GET_BOOK}?encoding=proto&base64=1&message={binary}")
    assert answer.header("content-type") == "application/proto"
    assert canned.request() == {"name": "3"}
    answer = await canned.client.get(f"{GET_BOOK}?encoding=json&message=%7B")
    assert answer.status == 400
    assert "not valid JSON" in answer.json["message"]


async def test_compressed_requests(canned: CannedGateway) -> None:
    headers = {**JSON, "content-encoding": "gzip"}
    answer = await canned.client.post(GET_BOOK, gzip.compress(b'{"name": "2"}'), headers=headers)
    assert answer.status == 200
    assert canned.request() == {"name": "2"}
    answer = await canned.client.post(GET_BOOK, b"not gzip", headers=headers)
    assert answer.status == 400


async def test_a_decompression_bomb_is_refused(canned: CannedGateway) -> None:
    bomb = gzip.compress(b" " * (canned.gateway.config.max_body + 1))
    answer = await canned.client.post(GET_BOOK, bomb, headers={**JSON, "content-encoding": "gzip"})
    assert answer.status == 413
    assert answer.json["code"] == "resource_exhausted"
    assert canned.calls == []


async def test_grpc_web(canned: CannedGateway) -> None:
    canned.answer({"title": "T"})
    message = canned.messages.write("library.v1.GetBookRequest", {"name": "2"})
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    answer = await canned.client.post(GET_BOOK, body, headers={"content-type": "application/grpc-web+proto"})
    assert answer.status == 200
    assert answer.header("content-type") == "application/grpc-web+proto"
    length = int.from_bytes(answer.body[1:5], "big")
    assert canned.messages.read("library.v1.Book", answer.body[5 : 5 + length]) == {"title": "T"}
    assert b"grpc-status: 0" in answer.body[5 + length :]
    assert canned.request() == {"name": "2"}


async def test_grpc_without_trailers_says_what_is_needed(canned: CannedGateway) -> None:
    answer = await canned.client.post(GET_BOOK, b"", headers={"content-type": "application/grpc"})
    assert answer.status == 415
    assert "HTTP/2" in answer.json["message"]


async def test_streaming_methods_are_asked_in_envelopes(canned: CannedGateway) -> None:
    answer = await canned.client.post("/library.v1.Library/Watch", json={})
    assert answer.status == 415
    assert answer.header("accept-post") == "application/connect+json, application/connect+proto"
    assert b"application/connect+json" in answer.body


GRPC_KINDS = {"application/grpc": "application/grpc", "application/grpc-web+proto": "application/grpc-web"}


@pytest.mark.parametrize(("content_type", "kind"), GRPC_KINDS.items())
async def test_grpc_clients_learn_in_their_own_way_that_no_call_was_made(
    canned: CannedGateway, content_type: str, kind: str
) -> None:
    headers = {"content-type": content_type, "te": "trailers"}
    large = {**headers, "x-large": "x" * 20_000}
    malformed = {**headers, "x-some-bin": "?"}
    for target, more, method, code in (
        ("/library.v1.Library/Nope", headers, "POST", 12),
        ("/no/such/path", headers, "POST", 12),
        (GET_BOOK, headers, "DELETE", 12),
        (GET_BOOK, large, "POST", 8),
        (GET_BOOK, malformed, "POST", 3),
    ):
        answer = await canned.client.request(method, target, headers=more)
        assert (answer.status, answer.header("content-type"), answer.body) == (200, kind, b"")
        assert answer.header("grpc-status") == str(code)
        assert answer.header("grpc-message")
        assert answer.header("x-request-id")
        # Where there are trailers, the status is there: gRPC's own clients do not look for it in a head with a body.
        scope = {"extensions": {"http.response.trailers": {}}}
        answer = await canned.client.request(method, target, headers=more, scope=scope)
        in_trailers = kind == "application/grpc"
        assert (answer.header("grpc-status") is None, bool(answer.trailers)) == (in_trailers, in_trailers)
        assert ("grpc-status", str(code)) in answer.headers + answer.trailers
    assert canned.calls == []


async def test_a_failure_of_ours_is_internal_for_grpc_clients(
    canned: CannedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_headers: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(canned.gateway._unary, "headers", type("Broken", (), {"read": staticmethod(fail)}))
    answer = await canned.client.post(GET_BOOK, headers={"content-type": "application/grpc"})
    assert answer.header("grpc-status") == "13"
    assert "secret" not in str(answer)


async def test_grpc_messages_are_percent_encoded() -> None:
    for message, encoded in (("plain (text)!", b"plain (text)!"), ("50 % ä\n", b"50 %25 %C3%A4%0A")):
        assert (b"grpc-message", encoded) in grpc_status(StatusCode.ABORTED, message, ())


async def test_unknown_procedures(canned: CannedGateway) -> None:
    headers = {**JSON, "connect-protocol-version": "1"}
    answer = await canned.client.post("/library.v1.Library/Nope", b"{}", headers=headers)
    assert answer.status == 404
    assert answer.json["code"] == "unimplemented"


async def test_query_strings_that_are_not_ascii_are_refused(canned: CannedGateway) -> None:
    answer = await canned.client.get(GET_BOOK.encode() + b"?encoding=json&message=%7B%7D&x=\xb1")
    assert answer.status == 400
    assert answer.json["code"] == "invalid_argument"
    answer = await canned.client.get(f"{GET_BOOK}?encoding=json&message=%FF")
    assert answer.status == 400


async def test_headers_that_are_not_utf8_do_no_harm(canned: CannedGateway) -> None:
    answer = await canned.client.get(f"{GET_BOOK}?encoding=json&message=%7B%7D", headers={"x-odd": "\xff"})
    assert answer.status == 200


async def test_a_response_that_does_not_fit(canned: CannedGateway) -> None:
    def respond(call: object) -> None:
        canned.calls[-1].response = b"\xff"

    canned.respond = respond
    for answer in (
        await canned.client.post(GET_BOOK, json={}),
        await canned.client.get(f"{GET_BOOK}?encoding=json&message=%7B%7D"),
    ):
        assert (answer.status, answer.json["code"]) == (500, "internal")
