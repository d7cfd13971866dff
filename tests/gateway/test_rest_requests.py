"""REST requests as calls: what path, query and body become. Each row names the rule that it is taken from."""

import logging
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.config import Config
from gateway.schema import load_schema
from tests.gateway.conftest import CannedGateway
from tests.gateway.contracts import library

JSON = {"content-type": "application/json"}

# Each row: method, target, JSON body or None, called method, request as JSON, source.
BOUND: list[tuple[str, str, Any, str, dict[str, Any], str]] = [
    ("GET", "/v1/shelves/1/books/2", None, "GetBook", {"name": "shelves/1/books/2"}, "AIP-131"),
    ("GET", "/v1/books/2", None, "GetBook", {"name": "2"}, "http.proto: additional_bindings"),
    ("REPORT", "/v1/books/2", None, "GetBook", {"name": "2"}, "http.proto: custom"),
    (
        "GET",
        "/v1/books/2?read_mask=title,authors",
        None,
        "GetBook",
        {"name": "2", "readMask": "title,authors"},
        "AIP-157",
    ),
    ("GET", "/v1/books/2?readMask=pageCount", None, "GetBook", {"name": "2", "readMask": "pageCount"}, "JSON spelling"),
    (
        "POST",
        "/v1/shelves/1/books?bookId=7&validate_only=true",
        {"title": "T", "pageCount": "3"},
        "CreateBook",
        {"parent": "shelves/1", "book": {"title": "T", "pageCount": "3"}, "bookId": "7", "validateOnly": True},
        "http.proto: body field, the rest in path and query",
    ),
    (
        "POST",
        "/v1/shelves/1/books",
        {"title": "T", "page_count": 3},
        "CreateBook",
        {"parent": "shelves/1", "book": {"title": "T", "pageCount": "3"}},
        "ProtoJSON: parsers accept the names of the .proto as well",
    ),
    (
        "PATCH",
        "/v1/shelves/1/books/2?updateMask=title",
        {"title": "T"},
        "UpdateBook",
        {"book": {"name": "shelves/1/books/2", "title": "T"}, "updateMask": "title"},
        "AIP-134: the path binds a field inside the body",
    ),
    (
        "PUT",
        "/v1/shelves/1/books/2",
        {"book": {"title": "T"}, "updateMask": "title"},
        "UpdateBook",
        {"book": {"name": "shelves/1/books/2", "title": "T"}, "updateMask": "title"},
        "http.proto: body '*'",
    ),
    (
        "POST",
        "/v1/shelves/1/books/2:move",
        {"otherShelf": "shelves/9"},
        "MoveBook",
        {"name": "shelves/1/books/2", "otherShelf": "shelves/9"},
        "AIP-136",
    ),
    (
        "PUT",
        "/v1/books/2/tags",
        ["a", "b"],
        "TagBook",
        {"name": "2", "tags": ["a", "b"]},
        "grpc-gateway: repeated body",
    ),
    ("PUT", "/v1/books/2/tags", [], "TagBook", {"name": "2"}, "grpc-gateway: repeated body"),
    ("GET", "/v1/search?query=a+b%20c%2B%26", None, "Search", {"query": "a b c+&"}, "URL standard: '+' is a space"),
    ("GET", "/v1/search?query=", None, "Search", {}, "an empty value is the empty string"),
    ("GET", "/v1/search?&&query=a&", None, "Search", {"query": "a"}, "empty pairs mean nothing"),
    ("GET", "/v1/search", None, "Search", {}, "http.proto: parameters are optional"),
    ("POST", "/v1/echo", {}, "Echo", {}, "http.proto: body '*'"),
    ("POST", "/v1/echo", {"left": "x"}, "Echo", {"left": "x"}, "ProtoJSON: oneof"),
    # No body may override what the path says.
    (
        "POST",
        "/v1/shelves/1/books/2:move",
        {"name": "shelves/evil/books/2", "otherShelf": "s"},
        "MoveBook",
        {"name": "shelves/1/books/2", "otherShelf": "s"},
        "facts: a body must never override a path variable",
    ),
    (
        "PATCH",
        "/v1/shelves/1/books/2",
        {"name": "shelves/evil/books/2"},
        "UpdateBook",
        {"book": {"name": "shelves/1/books/2"}},
        "the same for a field inside the body",
    ),
    (
        "PUT",
        "/v1/shelves/1/books/2",
        {"book": {"name": "shelves/evil/books/2"}},
        "UpdateBook",
        {"book": {"name": "shelves/1/books/2"}},
        "the same for body '*'",
    ),
]


@pytest.mark.parametrize(("method", "target", "body", "called", "expected", "source"), BOUND)
async def test_bound(
    canned: CannedGateway, method: str, target: str, body: Any, called: str, expected: dict[str, Any], source: str
) -> None:
    answer = await canned.client.request(method, target, json=body)
    assert answer.status == 200, answer
    assert canned.calls[-1].info.name == called
    assert canned.request() == expected


# Each row: query string, request as JSON; all of them are of GET /v1/echo. Source: ProtoJSON, without quotes.
PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    ("double=1.5", {"double": 1.5}),
    ("double=-1e3", {"double": -1000.0}),
    ("double=NaN", {"double": "NaN"}),
    ("double=-Infinity", {"double": "-Infinity"}),
    ("float=0.5", {"float": 0.5}),
    ("int32=-2147483648", {"int32": -2147483648}),
    ("int32=2147483647", {"int32": 2147483647}),
    ("int64=-9223372036854775808", {"int64": "-9223372036854775808"}),
    ("uint32=4294967295", {"uint32": 4294967295}),
    ("uint64=18446744073709551615", {"uint64": "18446744073709551615"}),
    ("sint32=-1", {"sint32": -1}),
    ("fixed64=7", {"fixed64": "7"}),
    ("bool=true", {"bool": True}),
    ("bool=false", {}),
    ("string=%C3%A4+%2B", {"string": "ä +"}),
    ("string=true", {"string": "true"}),
    ("bytes=_-8%3D", {"bytes": "/+8="}),
    ("bytes=/%2B8", {"bytes": "/+8="}),
    ("bytes=_-8", {"bytes": "/+8="}),
    ("colour=RED", {"colour": "RED"}),
    ("colour=2", {"colour": "GREEN"}),
    ("colour=77", {"colour": 77}),
    ("time=2024-02-29T12:00:00.5Z", {"time": "2024-02-29T12:00:00.500Z"}),
    ("time=2024-02-29T12:00:00%2B02:00", {"time": "2024-02-29T10:00:00Z"}),
    ("duration=1.5s", {"duration": "1.500s"}),
    ("fieldMask=a,bC.d", {"fieldMask": "a,bC.d"}),
    ("wrapped_int64=5", {"wrappedInt64": "5"}),
    ("wrappedInt64=0", {"wrappedInt64": "0"}),
    ("wrappedString=", {"wrappedString": ""}),
    ("wrappedBool=false", {"wrappedBool": False}),
    ("wrappedBytes=YQ", {"wrappedBytes": "YQ=="}),
    ("wrappedDouble=1", {"wrappedDouble": 1.0}),
    ("nested.text=a", {"nested": {"text": "a"}}),
    ("nested.deeper.text=a&nested.text=b", {"nested": {"text": "b", "deeper": {"text": "a"}}}),
    ("nested.numbers=1&nested.numbers=2", {"nested": {"numbers": [1, 2]}}),
    ("numbers=1&string=x&numbers=-2", {"numbers": [1, -2], "string": "x"}),
    ("strings=a,b&strings=", {"strings": ["a,b", ""]}),
    ("colours=RED&colours=2", {"colours": ["RED", "GREEN"]}),
    ("durations=1s&durations=2s", {"durations": ["1s", "2s"]}),
    ("maybe=0", {"maybe": 0}),
    ("left=a", {"left": "a"}),
    ("right=0", {"right": 0}),
]


@pytest.mark.parametrize(("query", "expected"), PARAMETERS)
async def test_query_parameters(canned: CannedGateway, query: str, expected: dict[str, Any]) -> None:
    answer = await canned.client.get(f"/v1/echo?{query}")
    assert answer.status == 200, answer
    assert canned.request() == expected


# Each row: query string, what the message says, field of the violation.
REFUSED_PARAMETERS: list[tuple[str, str, str]] = [
    ("nope=1", "unknown query parameter 'nope': library.v1.Everything has no field 'nope'", "nope"),
    ("nested.nope=1", "library.v1.Nested has no field 'nope'", "nested.nope"),
    ("string.x=1", "'string' has no fields of its own", "string.x"),
    ("nested=1", "name one of its fields", "nested"),
    ("nesteds=1", "name one of its fields", "nesteds"),
    ("map=1", "a map cannot be set from a URL", "map"),
    ("map.a=1", "'map' has no fields of its own", "map.a"),
    ("int32=1&int32=2", "query parameter 'int32' stands twice", "int32"),
    ("wrapped_int64=1&wrappedInt64=2", "stands twice", "wrappedInt64"),
    ("int32=x", "query parameter 'int32': expected an integer, got 'x'", "int32"),
    ("int32=", "expected an integer", "int32"),
    ("int32=1_0", "expected an integer", "int32"),
    ("int32=+1", "expected an integer", "int32"),
    ("int32=%201", "expected an integer", "int32"),
    ("int32=%D9%A1", "expected an integer", "int32"),
    ("int32=1.5", "expected an integer", "int32"),
    ("int32=2147483648", "outside the range", "int32"),
    ("uint32=-1", "outside the range", "uint32"),
    ("uint64=18446744073709551616", "outside the range", "uint64"),
    ("float=1e39", "outside the range", "float"),
    ("double=1e999", "expected a number", "double"),
    ("double=inf", "expected a number", "double"),
    ("double=1_0", "expected a number", "double"),
    ("bool=yes", "expected true or false", "bool"),
    ("bool=1", "expected true or false", "bool"),
    ("bytes=%25", "expected base64", "bytes"),
    ("bytes=a", "expected base64", "bytes"),
    ("colour=PINK", "expected a value of library.v1.Colour, got 'PINK'", "colour"),
    ("time=yesterday", "expected a google.protobuf.Timestamp", "time"),
    ("duration=5", "expected a google.protobuf.Duration", "duration"),
    ("string=%zz", "'%' must be followed by two hexadecimal digits", ""),
    ("string=%FF", "not UTF-8", ""),
    ("=1", "unknown query parameter ''", ""),
    (".=1", "has no field ''", "."),
    ("nested" + ".deeper" * 40 + ".text=1", "more than 32 fields", ""),
    ("&".join(["numbers=1"] * 1001), "more than 1000 query parameters", ""),
]


@pytest.mark.parametrize(("query", "message", "field"), REFUSED_PARAMETERS)
async def test_refused_query_parameters(canned: CannedGateway, query: str, message: str, field: str) -> None:
    answer = await canned.client.get(f"/v1/echo?{query}")
    assert answer.status == 400
    assert answer.json["code"] == 3
    assert message in answer.json["message"]
    if field:
        (detail,) = answer.json["details"]
        assert detail["@type"] == "type.googleapis.com/google.rpc.BadRequest"
        assert [each["field"] for each in detail["fieldViolations"]] == [field]
    assert canned.calls == []


# Each row: method, target, JSON body, what the message says, source.
CLASHES: list[tuple[str, str, Any, str, str]] = [
    ("GET", "/v1/books/2?name=3", None, "'name' is taken from the path or the body", "facts: or refuse the clash"),
    (
        "POST",
        "/v1/shelves/1/books?book.title=x",
        {},
        "'book' is taken from the path or the body",
        "http.proto: rule 2b",
    ),
    ("POST", "/v1/shelves/1/books?parent=x", {}, "'parent' is taken from the path or the body", "http.proto: rule 2a"),
    ("PATCH", "/v1/shelves/1/books/2?book.name=x", {}, "is taken from the path or the body", "http.proto: rule 2a"),
    ("POST", "/v1/echo?string=x", {}, "takes its parameters in the body", "facts: body '*' leaves no query parameters"),
]


@pytest.mark.parametrize(("method", "target", "body", "message", "source"), CLASHES)
async def test_no_parameter_overrides_path_or_body(
    canned: CannedGateway, method: str, target: str, body: Any, message: str, source: str
) -> None:
    answer = await canned.client.request(method, target, json=body)
    assert answer.status == 400
    assert message in answer.json["message"]
    assert canned.calls == []


async def test_path_variables_of_all_kinds(canned: CannedGateway) -> None:
    answer = await canned.client.get("/v1/path/-7/true/1.5/_-8/RED/2024-02-29T12:00:00Z/5/a%2Fb")
    assert answer.status == 200, answer
    assert canned.request() == {
        "int32": -7,
        "bool": True,
        "double": 1.5,
        "bytes": "/+8=",
        "colour": "RED",
        "time": "2024-02-29T12:00:00Z",
        "wrappedInt64": "5",
        "nested": {"text": "a/b"},
    }


async def test_a_bad_path_variable_is_named(canned: CannedGateway) -> None:
    answer = await canned.client.get("/v1/path/x/true/1.5/_-8/RED/2024-02-29T12:00:00Z/5/a")
    assert answer.status == 400
    assert answer.json["message"] == "path variable 'int32': expected an integer, got 'x'"
    answer = await canned.client.get("/v1/books/%FF")
    assert answer.json["message"] == "path variable 'name': the percent-escapes are not UTF-8"
    assert canned.calls == []


async def test_raw_bodies(canned: CannedGateway) -> None:
    answer = await canned.client.post("/v1/upload", b"\x00\xff", headers={"content-type": "image/x"})
    assert answer.status == 200, answer
    assert answer.json == {}
    assert canned.request() == {"contentType": "image/x", "data": "AP8="}

    answer = await canned.client.post(
        "/v1/books/2/attachments/pdf?note=hi", b"%PDF", headers={"content-type": "application/pdf"}
    )
    assert answer.status == 200, answer
    assert canned.request() == {
        "name": "2",
        "kind": "pdf",
        "note": "hi",
        "file": {"contentType": "application/pdf", "data": "JVBERg=="},
    }


async def test_a_method_without_body_does_not_read_one(canned: CannedGateway) -> None:
    answer = await canned.client.request("GET", "/v1/search?query=a", b"{not json", headers=JSON)
    assert answer.status == 200
    assert canned.request() == {"query": "a"}


async def test_nothing_is_an_empty_message(canned: CannedGateway) -> None:
    answer = await canned.client.post("/v1/echo")
    assert answer.status == 200
    assert canned.request() == {}


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"', "text/json", "application/x+json", ""],
)
async def test_content_types_of_json(canned: CannedGateway, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = await canned.client.post("/v1/echo", b'{"string": "a"}', headers=headers)
    assert answer.status == 200, answer
    assert canned.request() == {"string": "a"}


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=latin-1", "x"]
)
@pytest.mark.parametrize("target", ["/v1/echo", "/v1/shelves/1/books"])
async def test_other_content_types_are_refused(canned: CannedGateway, target: str, content_type: str) -> None:
    answer = await canned.client.post(target, b"{}", headers={"content-type": content_type})
    assert answer.status == 415
    assert "application/json" in answer.json["message"]
    assert canned.calls == []


async def test_unknown_fields_and_parameters_by_option() -> None:
    lenient = CannedGateway(library(), "library.v1.Library", Config(ignore_unknown=True))
    assert (await lenient.client.get("/v1/books/2?utm_source=x")).status == 200
    assert (await lenient.client.post("/v1/echo?utm_source=x", json={"nope": 1, "string": "a"})).status == 200
    assert lenient.request() == {"string": "a"}
    # A parameter that is bound elsewhere is not unknown.
    assert (await lenient.client.get("/v1/books/2?name=3")).status == 400


async def test_rules_that_cannot_be_served_are_told_and_left_out(
    canned: CannedGateway, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gateway"):
        canned.gateway._compile(load_schema(library(), "library.v1.Library"))
    reasons = [record.getMessage().partition("is not served: ")[2] for record in caplog.records]
    assert all("library.v1.Library/Broken" in record.getMessage() for record in caplog.records)
    expected = [
        "path variable 'nope': library.v1.GetBookRequest has no field 'nope'",
        "'**' must be the last segment",
        "body 'nope' is not a field",
        "body 'name.x' must be a field at the top level",
        "response_body 'nope' is not a field",
        "response_body must be a field",
        "is not an HTTP method in capitals",
        "path variable 'mask' is a repeated field",
        "an additional binding cannot have additional bindings",
        "names no path",
    ]
    assert len(reasons) == len(expected)
    for reason, part in zip(reasons, expected, strict=True):
        assert part in reason
    assert (await canned.client.get("/v1/works/x")).status == 200
    assert (await canned.client.get("/v1/broken/x")).status == 404
    assert (await canned.client.get("/v1/deeper")).status == 404


def test_the_gateway_is_an_asgi_application_by_its_type() -> None:
    assert callable(Gateway(Config()))
