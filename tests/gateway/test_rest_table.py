"""The tables of rest_cases.py and rest_query_cases.py, row by row, by a gateway with a canned back-end."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from gateway.config import Config
from tests.gateway.conftest import CannedGateway
from tests.gateway.contracts import compile_proto
from tests.gateway.rest_cases import EXAMPLES, MAPPING, METHODS, ONEOFS, TEMPLATES, Expected
from tests.gateway.rest_query_cases import NAMES, SCALARS, WELL_KNOWN

SERVICE = "cases.v1.Service"
_RULE = re.compile(r"(\S+) (\S+)(?: body=(\S+))?(?: response_body=(\S+))?")


@cache
def messages() -> bytes:
    return compile_proto(Path(__file__).with_name("rest_cases.proto").read_text(), "rest_cases.proto")


@cache
def schema(rules: str) -> bytes:
    """The messages, and a service with a method for each rule."""
    files = FileDescriptorSet.FromString(messages())
    file = files.file.add(name="service.proto", package="cases.v1", syntax="proto3")
    file.dependency[:] = ["rest_cases.proto", "google/api/annotations.proto"]
    service = file.service.add(name="Service")
    extension: Any = annotations_pb2.http
    for name, text in zip(("One", "Two", "Three"), rules.split(" | "), strict=False):
        method = service.method.add(name=name, input_type=".cases.v1.Message", output_type=".cases.v1.Message")
        first, *others = (http_rule(each) for each in text.split(" + "))
        additional = first
        for other in others:  # Each further one lies in the one before: the second is one level too deep.
            additional.additional_bindings.append(other)
            additional = additional.additional_bindings[0]
        method.options.Extensions[extension].CopyFrom(first)
    return files.SerializeToString()


def http_rule(text: str) -> http_pb2.HttpRule:
    found = _RULE.fullmatch(text)
    assert found is not None, text
    kind, path, body, response_body = found.groups()
    rule = http_pb2.HttpRule(body=body or "", response_body=response_body or "")
    if kind in {"get", "put", "post", "delete", "patch"}:
        setattr(rule, kind, path)
    else:
        rule.custom.kind, rule.custom.path = kind, path
    return rule


async def check(rules: str, request: str, expected: Expected, **options: Any) -> None:
    canned = CannedGateway(schema(rules), SERVICE, Config(**options))
    method, target, *body = request.split(" ", 2)
    headers = {"content-type": "application/json"} if body else {}
    answer = await canned.client.request(method, target, "".join(body).encode(), headers=headers)
    match expected:
        case int() | (int(), str()):
            status, text = (expected, "") if isinstance(expected, int) else expected
            assert (answer.status, canned.calls) == (status, []), answer
            assert text in answer.json["message"]
        case _:
            name, message = expected if isinstance(expected, tuple) else ("One", expected)
            assert answer.status == 200, answer
            assert (canned.calls[-1].info.name, canned.request()) == (name, message)


@pytest.mark.parametrize(
    ("rules", "request_line", "expected", "source"), [*EXAMPLES, *MAPPING, *ONEOFS, *METHODS, *TEMPLATES]
)
async def test_paths_and_bodies(rules: str, request_line: str, expected: Expected, source: str) -> None:
    await check(rules, request_line, expected)


@pytest.mark.parametrize(("query", "expected", "source"), [*NAMES, *SCALARS, *WELL_KNOWN])
async def test_queries(query: str, expected: Expected, source: str) -> None:
    await check("get /v1/q", f"GET /v1/q?{query}", expected)


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("GET /v1/q?nope=1&name=a&sub.nope=2&name.x=3&=4", {"name": "a"}),
        ("GET /v1/q?nope=%FF", (400, "UTF-8")),
        ("GET /v1/q?int32=x", (400, "'int32'")),
        ("POST /v1/p/a?int32=1", {"name": "a"}),
        ('POST /v1/p/a {"nope": {"name": "b"}, "text": "c"}', {"name": "a", "text": "c"}),
    ],
)
async def test_unknown_names_by_option(request_line: str, expected: Expected) -> None:
    await check("get /v1/q + post /v1/p/{name} body=*", request_line, expected, ignore_unknown=True)


# Each row: rule, the response's JSON, the answer, source.
RESPONSES: list[tuple[str, dict[str, Any], Any, str]] = [
    ("get /v1/a", {"name": "x", "int32": 0}, {"name": "x"}, "http.proto: omitted, the entire response message is used"),
    (
        "get /v1/a response_body=sub",
        {"sub": {"text": "x"}},
        {"text": "x"},
        "http.proto: the name of the response field",
    ),
    ("get /v1/a response_body=sub", {}, {}, "an absent message is an empty one"),
    (
        "get /v1/a response_body=message_id",
        {"messageId": "x"},
        "x",
        "http.proto: the name of the response field: a string",
    ),
    ("get /v1/a response_body=int64", {"int64": "7"}, "7", "ProtoJSON: 64 bits are strings"),
    ("get /v1/a response_body=int32", {}, 0, "an absent value is its default"),
    ("get /v1/a response_body=strings", {"strings": ["x"]}, ["x"], "http.proto: a repeated field, as a JSON array"),
    ("get /v1/a response_body=strings", {}, [], "http.proto: a repeated field, as a JSON array: empty"),
    (
        "get /v1/a response_body=subs",
        {"subs": [{"text": "x"}]},
        [{"text": "x"}],
        "http.proto: a repeated field, of messages",
    ),
    (
        "get /v1/a response_body=map",
        {"map": {"k": "v"}},
        {"k": "v"},
        "http.proto: the name of the response field: a map",
    ),
    ("get /v1/a response_body=kind", {"kind": "FIRST"}, "FIRST", "ProtoJSON: an enum is its name"),
    ("get /v1/a response_body=timestamp", {"timestamp": "2024-02-29T12:00:00Z"}, "2024-02-29T12:00:00Z", "ProtoJSON"),
    ("get /v1/a response_body=int64_value", {"int64Value": "0"}, "0", "ProtoJSON: a wrapper is its value"),
]


@pytest.mark.parametrize(("rules", "response", "answered", "source"), RESPONSES)
async def test_responses(rules: str, response: dict[str, Any], answered: Any, source: str) -> None:
    canned = CannedGateway(schema(rules), SERVICE, Config())
    canned.answer(response)
    answer = await canned.client.get("/v1/a")
    assert (answer.status, answer.json) == (200, answered)
