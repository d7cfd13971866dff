"""Schemas come from whoever is on the bus: whatever they are, /openapi.json is made in time and within bounds."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from gateway.config import Config
from gateway.openapi import operations
from tests.gateway.conftest import CannedGateway
from tests.gateway.contracts import compile_proto

HEAD = 'syntax = "proto3"; package odd.v1; import "google/api/annotations.proto";'
GET = '{ option (google.api.http) = {get: "/v1/do"}; }'


async def document(schema: bytes) -> dict[str, Any]:
    canned = CannedGateway(schema, "odd.v1.Odd", Config())
    begun = time.process_time()
    answer = await canned.client.get("/openapi.json?connect=all")
    assert answer.status == 200
    assert time.process_time() - begun < 3
    found: dict[str, Any] = json.loads(answer.body)
    return found


def with_comment(schema: bytes, comment: str) -> bytes:
    files = FileDescriptorSet.FromString(schema)
    files.file[-1].source_code_info.location.add(path=[6, 0, 2, 0], span=[0, 0, 1], leading_comments=comment)
    return files.SerializeToString()


@pytest.mark.parametrize("comment", ["(--", "\n", "`", "[", ". ", " .", "\t\n ", "(-- --)", "a", "buf:lint:ignore"])
async def test_comments_of_any_kind(comment: str) -> None:
    schema = compile_proto(f"{HEAD} message M {{}} service Odd {{ rpc Do(M) returns (M) {GET} }}")
    found = await document(with_comment(schema, comment * (3_000_000 // len(comment))))
    operation = found["paths"]["/v1/do"]["get"]
    assert len(operation.get("description", "")) <= 16_000
    assert len(operation.get("summary", "")) <= 200


async def test_what_is_no_unicode_is_shown_as_something_else() -> None:
    schema = compile_proto(f"{HEAD} message M {{}} service Odd {{ rpc Do(M) returns (M) {GET} }}")
    assert (await document(with_comment(schema, "\u2028</script>\x00\x1b")))["paths"]["/v1/do"]["get"]["summary"]


async def test_messages_with_many_ways_to_nothing() -> None:
    """Ten fields, each a message with ten fields, and so on, none of which a query could set."""
    messages = "".join(
        f"message M{depth} {{ {' '.join(f'M{depth + 1} f{number} = {number};' for number in range(1, 11))} }}"
        for depth in range(30)
    )
    found = await document(
        compile_proto(f"{HEAD} {messages} message M30 {{}} service Odd {{ rpc Do(M0) returns (M0) {GET} }}")
    )
    assert found["paths"]["/v1/do"]["get"].get("parameters", []) == []


async def test_messages_that_hold_themselves_every_way() -> None:
    message = (
        "message M { M a = 1; repeated M b = 2; map<string, M> c = 3; oneof d { M e = 4; N f = 5; } string g = 6; }"
    )
    other = "message N { M a = 1; N b = 2; string c = 3; }"
    rules = '{ option (google.api.http) = {get: "/v1/do" additional_bindings { post: "/v1/{g}" body: "*" }}; }'
    found = await document(compile_proto(f"{HEAD} {message} {other} service Odd {{ rpc Do(M) returns (M) {rules} }}"))
    assert [each["name"] for each in found["paths"]["/v1/do"]["get"]["parameters"]] == ["g", "f.c"]
    assert found["paths"]["/v1/{g}"]["post"]["requestBody"]["content"]["application/json"]["example"] == {
        "f": {"c": "c"}
    }


async def test_large_messages_are_not_described_again_for_each_method() -> None:
    fields = " ".join(f"string f{number} = {number};" for number in range(1, 3000))
    methods = " ".join(
        f'rpc Do{number}(M) returns (M) {{ option (google.api.http) = {{post: "/v1/{number}/{{f1}}" body: "*"}}; }}'
        for number in range(300)
    )
    found = await document(compile_proto(f"{HEAD} message M {{ {fields} }} service Odd {{ {methods} }}"))
    assert len(found["paths"]) == 600
    assert len(json.dumps(found)) < 3_000_000


async def test_parameters_are_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(operations, "MAX_PARAMETERS", 10)
    fields = " ".join(f"string f{number} = {number};" for number in range(1, 5))
    methods = " ".join(
        f'rpc Do{number}(M) returns (M) {{ option (google.api.http) = {{get: "/v1/{number}"}}; }}'
        for number in range(9)
    )
    found = await document(compile_proto(f"{HEAD} message M {{ {fields} }} service Odd {{ {methods} }}"))
    assert [path for path in found["paths"] if path.startswith("/v1")] == ["/v1/0", "/v1/1", "/v1/2"]
    assert "has too many parameters" in caplog.text
