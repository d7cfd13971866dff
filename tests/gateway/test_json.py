"""JSON that is wrong: 400, and what and where. JSON that is hostile: 400, and nothing else happens."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.json_codec import MAX_DEPTH, check_depth
from tests.gateway.conftest import CannedGateway

JSON = {"content-type": "application/json"}

# Each row: body, message or the end of it.
SYNTAX: list[tuple[bytes, str]] = [
    (b"{", "EOF while parsing an object (line 1, column 2)"),
    (b'{"string": "a"', "(line 1, column 15)"),
    (b'{\n  "string": a}', "expected value (line 2, column 13)"),
    (b'{"string": "a"} x', "trailing characters (line 1, column 17)"),
    (b"{\"string\": 'a'}", "(line 1, column 12)"),
    (b"\xff", "(line 1, column 1)"),
    (b'{"string": "\xff"}', "(line 1, column 14)"),
    (b'{"string": "\\ud800"}', "(line 1, column 19)"),
    (b'{"double": NaN}', "(line 1, column 12)"),
    (b"\xef\xbb\xbf{}", "(line 1, column 1)"),
    ('{"string": "a"}'.encode("utf-16"), "(line 1, column 1)"),
    (b'{"string": "\x01"}', "(line 1, column 13)"),
]


@pytest.mark.parametrize(("body", "message"), SYNTAX)
@pytest.mark.parametrize("target", ["/v1/echo", "/library.v1.Library/Echo"])
async def test_syntax_errors_name_line_and_column(
    canned: CannedGateway, target: str, body: bytes, message: str
) -> None:
    answer = await canned.client.post(target, body, headers=JSON)
    assert answer.status == 400
    assert answer.json["message"].startswith("the body is not valid JSON: ")
    assert answer.json["message"].endswith(message), answer.json
    assert canned.calls == []


# Each row: body, field, reason.
TYPES: list[tuple[Any, str, str]] = [
    ([], "", "the body: expected an object, got an array"),
    (None, "", "the body: expected an object, got null"),
    ("x", "", "the body: expected an object, got a string"),
    ({"nope": 1}, "nope", "library.v1.Everything has no such field"),
    ({"string": 5}, "string", "expected string, got a number"),
    ({"int32": "x"}, "int32", "invalid integer value: 'x'"),
    ({"int32": 1.5}, "int32", "expected integer, got non-integer float: 1.5"),
    ({"int32": 99999999999}, "int32", "value 99999999999 out of range for int32"),
    ({"int32": True}, "int32", "unexpected json, got a boolean"),
    ({"bool": "true"}, "bool", "unexpected json, got a string"),
    ({"bytes": "%%%"}, "bytes", "invalid base64 data"),
    ({"colour": "PINK"}, "colour", "cannot decode library.v1.Colour from JSON: PINK"),
    ({"time": "yesterday"}, "time", ""),
    ({"duration": 5}, "duration", ""),
    ({"nested": 5}, "nested", "expected an object, got a number"),
    ({"nested": {"deeper": {"text": 5}}}, "nested.deeper.text", "expected string, got a number"),
    ({"nested": {"nope": 5}}, "nested.nope", "library.v1.Nested has no such field"),
    ({"numbers": 5}, "numbers", "expected list, got a number"),
    ({"numbers": [1, 2, "x"]}, "numbers[2]", "invalid integer value: 'x'"),
    ({"numbers": [1, None]}, "numbers[1]", "unexpected null value"),
    ({"nesteds": [{}, {"numbers": [1, {}]}]}, "nesteds[1].numbers[1]", "unexpected json, got an object"),
    ({"map": {"a": "x"}}, 'map["a"]', "invalid integer value: 'x'"),
    ({"nestedMap": {"k": {"text": 1}}}, 'nestedMap["k"].text', "expected string, got a number"),
    ({"wrappedInt64": "x"}, "wrappedInt64", ""),
    ({"struct": 5}, "struct", ""),
]


@pytest.mark.parametrize(("body", "field", "reason"), TYPES)
async def test_type_errors_name_the_field(canned: CannedGateway, body: Any, field: str, reason: str) -> None:
    answer = await canned.client.post("/v1/echo", json.dumps(body).encode(), headers=JSON)
    assert answer.status == 400
    message: str = answer.json["message"]
    if field:
        assert message.startswith(f"{field}: ")
        assert answer.json["details"][0]["fieldViolations"][0]["field"] == field
    assert reason in message
    assert "class '" not in message
    assert canned.calls == []


async def test_the_place_is_relative_to_the_body(canned: CannedGateway) -> None:
    answer = await canned.client.post("/v1/shelves/1/books", json={"authors": [{}, {"givenName": 5}]})
    assert answer.json["message"] == "authors[1].givenName: expected string, got a number"
    answer = await canned.client.request("PUT", "/v1/books/2/tags", json=["a", 5])
    assert answer.json["message"] == "tags[1]: expected string, got a number"
    answer = await canned.client.request("PUT", "/v1/books/2/tags", b'["a"', headers=JSON)
    assert "line 1" in answer.json["message"]
    answer = await canned.client.request("PUT", "/v1/books/2/tags", b'["a"], "name": "evil"', headers=JSON)
    assert answer.status == 400
    answer = await canned.client.request("PUT", "/v1/books/2/tags", b"[NaN]", headers=JSON)
    assert answer.status == 400


async def test_errors_in_large_documents_name_the_field(canned: CannedGateway) -> None:
    body = {"strings": ["x" * 100] * 1000, "nested": {"text": 5}}
    answer = await canned.client.post("/v1/echo", json=body)
    assert answer.status == 400
    assert answer.json["message"] == "library.v1.Nested.text: expected string, got a number"


async def test_connect_passes_over_unknown_fields(canned: CannedGateway) -> None:
    answer = await canned.client.post("/library.v1.Library/Echo", json={"nope": 1, "string": "a"})
    assert answer.status == 200
    assert canned.request() == {"string": "a"}


async def test_messages_reflect_little(canned: CannedGateway) -> None:
    for body in ({"int32": "x" * 5000}, {"x" * 5000: 1}, {"map": {"y" * 5000: "x"}}):
        answer = await canned.client.post("/v1/echo", json=body)
        assert answer.status == 400
        assert len(answer.json["message"]) < 500


DEEP: list[bytes] = [
    b"[" * 30_000,
    b"[" * 30_000 + b"]" * 30_000,
    b'{"a":' * 30_000,
    b'[{"a":' * 30_000,
    b'{"value":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    b'{"nope":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    b'{"string": "' + b'\\"' * 100 + b'", "nope":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    b'{"nested":' * 65 + b"{}" + b"}" * 65,
    b"[[]," * 30_000,
]


@pytest.mark.parametrize("body", DEEP)
@pytest.mark.parametrize("target", ["/v1/echo", "/library.v1.Library/Echo"])
async def test_deep_nesting_is_refused(canned: CannedGateway, target: str, body: bytes) -> None:
    answer = await canned.client.post(target, body, headers=JSON)
    assert answer.status == 400
    assert answer.json["message"] == "the JSON body is nested deeper than 64 levels"


async def test_deep_nesting_in_connect_get(canned: CannedGateway) -> None:
    message = "%7B%22name%22:" + "%5B" * 2000
    answer = await canned.client.get(f"/library.v1.Library/GetBook?connect=v1&encoding=json&message={message}")
    assert answer.status == 400


async def test_brackets_that_are_no_nesting(canned: CannedGateway) -> None:
    body = {"string": "[" * 500 + '"' + "{" * 500, "nesteds": [{}] * 500}
    answer = await canned.client.post("/v1/echo", json=body)
    assert answer.status == 200, answer
    deepest: dict[str, Any] = {}
    for _ in range(30):
        deepest = {"deeper": deepest}
    assert (await canned.client.post("/v1/echo", json={"nested": deepest})).status == 200


values = st.recursive(
    st.one_of(st.none(), st.text('[]{}"\\a', max_size=5), st.integers()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text('[]{}"\\a', max_size=3), inner, max_size=3)
    ),
    max_leaves=30,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(each) for each in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(each) for each in value), default=0)
    return 0


@given(values, st.integers(0, 2 * MAX_DEPTH))
def test_the_depth_is_exact(value: Any, more: int) -> None:
    for _ in range(more):
        value = [value]
    document = json.dumps(value).encode()
    if _depth(value) > MAX_DEPTH:
        with pytest.raises(BadRequest):
            check_depth(document)
    else:
        check_depth(document)


@given(st.binary(max_size=200))
def test_any_bytes_have_a_depth_or_are_refused(document: bytes) -> None:
    check_depth(document)
