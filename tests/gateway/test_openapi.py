"""/openapi.json: OpenAPI 3.1, made live of what is served and of what its .proto says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from gateway.config import Config
from gateway.filters.auth_options import AuthOptions, JwtOptions
from gateway.openapi.options import DocsOptions
from rpc.discovery.schema import schema_of
from tests.gateway import orders
from tests.gateway.asgi import Client
from tests.gateway.conftest import CannedGateway
from tests.gateway.contracts import compile_proto
from tests.gateway.worlds import World

SERVICE = orders.SERVICE
CHECK = f"/{SERVICE}/Check"
METHODS = ("GetOrder", "ListOrders", "CreateOrder", "CancelOrder", "Watch", "Picture", "Attach", "Upload", "Check")


class Document:
    """A document, and what it says of values."""

    def __init__(self, text: dict[str, Any]) -> None:
        self.text = text
        resource = Resource.from_contents(text, default_specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource("doc:", resource)

    def fits(self, value: Any, schema: dict[str, Any]) -> bool:
        absolute = json.loads(json.dumps(schema).replace('"#/', '"doc:#/'))
        validator = Draft202012Validator(absolute, registry=self._registry)
        return bool(validator.is_valid(value))

    def schema(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.text["components"]["schemas"][name]
        return found

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for path, item in self.text["paths"].items():
            for method, operation in item.items():
                yield path, method, operation

    def operation(self, name: str) -> dict[str, Any]:
        return next(each for _, _, each in self.operations() if each["operationId"] == name)


async def fetch(client: Client, query: str = "") -> Document:
    answer = await client.get(f"/openapi.json{query}")
    assert answer.status == 200, answer
    OpenAPIV31SpecValidator(answer.json).validate()
    return Document(answer.json)


@pytest.fixture
async def client(world: World) -> Client:
    server = await orders.serve(await world.connection(), world.prefix)
    client = await world.ready_gateway()
    assert server.instance
    return client


@pytest.fixture
async def document(client: Client) -> Document:
    return await fetch(client, "?connect=all")


async def test_each_method_has_its_place(client: Client) -> None:
    document = await fetch(client)
    paths = document.text["paths"]
    assert {(path, method): operation["operationId"] for path, method, operation in document.operations()} == {
        ("/v1/customers/{customersId}/orders/{ordersId}", "get"): f"{SERVICE}.GetOrder",
        ("/v1/orders/{name}", "get"): f"{SERVICE}.GetOrder.2",
        ("/v1/customers/{customersId}/orders", "get"): f"{SERVICE}.ListOrders",
        ("/v1/customers/{customersId}/orders", "post"): f"{SERVICE}.CreateOrder",
        ("/v1/customers/{customersId}/orders/{ordersId}:cancel", "post"): f"{SERVICE}.CancelOrder",
        ("/v1/watch/{name}", "get"): f"{SERVICE}.Watch",
        ("/v1/pictures/{name}", "get"): f"{SERVICE}.Picture",
        ("/v1/attachments/{name}", "put"): f"{SERVICE}.Attach",
        ("/v1/uploads/{name}", "post"): f"{SERVICE}.Upload",
        ("/v1/check", "post"): f"{SERVICE}.Check",
        ("/v1/check", "get"): f"{SERVICE}.Check.2",
        (f"/{SERVICE}/Count", "post"): f"{SERVICE}.Count",
    }  # fmt: skip
    everything = (await fetch(client, "?connect=all")).text["paths"]
    assert everything.keys() - paths.keys() == {f"/{SERVICE}/{name}" for name in (*METHODS, "Sum", "Chat")}
    assert everything[CHECK]["post"]["operationId"] == f"{SERVICE}.Check.Connect"
    assert everything[f"/{SERVICE}/Sum"]["post"]["operationId"] == f"{SERVICE}.Sum"


async def test_what_the_proto_says_is_said(document: Document) -> None:
    [tag] = document.text["tags"]
    assert tag == {
        "name": SERVICE,
        "description": "Orders keeps what customers have ordered.\n\nAn order is never deleted: a cancelled one stays.",
    }
    get = document.operation(f"{SERVICE}.GetOrder")
    assert get["summary"] == "GetOrder returns one order"
    assert get["description"] == "GetOrder returns one order. Fails with `NOT_FOUND` if there is none."
    assert "deprecated" not in get
    cancel = document.operation(f"{SERVICE}.CancelOrder")
    assert cancel["deprecated"] is True
    assert cancel["description"] == "CancelOrder calls an order off.", "hints to linters are not for readers"
    order = document.schema("orders.v1.Order")
    assert order["description"] == "An order of one customer."
    properties = order["properties"]
    assert properties["label"]["deprecated"] is True
    assert properties["totals"]["description"] == "Sums in cents, by currency."
    assert (properties["name"]["readOnly"], properties["name"]["description"]) == (True, "Given by the service.")
    state = document.schema("orders.v1.State")
    assert state["enum"] == ["STATE_UNSPECIFIED", "OPEN", "SENT"]
    assert state["description"] == "How far an order is.\n\n- `OPEN`: Taken, not yet packed.\n- `SENT`: On its way."


async def test_required_holds_for_requests_only(document: Document) -> None:
    assert document.schema("orders.v1.CreateOrderRequest")["required"] == ["order"]
    assert "required" not in document.schema("orders.v1.Order"), "an answer leaves out what is empty"
    cancel = document.operation(f"{SERVICE}.CancelOrder")["requestBody"]["content"]["application/json"]["schema"]
    assert cancel["required"] == ["reason"]
    assert cancel["properties"].keys() == {"reason"}, "the name stands in the path"


async def test_parameters(document: Document) -> None:
    get = document.operation(f"{SERVICE}.GetOrder")["parameters"]
    assert [(each["name"], each["in"], each["required"]) for each in get] == [
        ("customersId", "path", True),
        ("ordersId", "path", True),
    ]
    assert "A segment of `name`" in get[0]["description"]
    listing = {each["name"]: each for each in document.operation(f"{SERVICE}.ListOrders")["parameters"]}
    assert listing.keys() == {"customersId", "pageSize", "pageToken", "state", "labels", "archived"}
    assert listing["pageSize"]["description"] == "At most so many, 3 if it is left out."
    assert listing["pageSize"]["schema"]["type"] == "integer"
    assert listing["state"]["schema"] == {"$ref": "#/components/schemas/orders.v1.State"}
    assert listing["labels"]["schema"] == {"type": "array", "items": {"type": "string"}}
    assert [name for name, each in listing.items() if "example" in each] == ["customersId", "pageSize", "state"]
    attach = document.operation(f"{SERVICE}.Attach")["parameters"]
    assert [each["name"] for each in attach] == ["name"]
    assert attach[0]["x-natsmesh-segments"] is True
    checked = {each["name"] for each in document.operation(f"{SERVICE}.Check.2")["parameters"]}
    assert {"double", "bytes", "duration", "mask", "wrapped", "states"} <= checked
    assert not checked & {"struct", "value", "list", "byNumber", "null"}, "there is no way to write them in a URL"


async def test_bodies_that_are_bytes_and_streams(document: Document) -> None:
    raw = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    picture = document.operation(f"{SERVICE}.Picture")["responses"]["200"]["content"]
    assert picture == {"*/*": {"schema": raw}}
    attach = document.operation(f"{SERVICE}.Attach")
    assert attach["requestBody"]["content"] == {"application/octet-stream": {"schema": raw}, "*/*": {"schema": raw}}
    count = attach["responses"]["200"]["content"]["application/json"]["schema"]
    assert (count["type"], count["format"]) == ("string", "int64"), "response_body"
    watch = document.operation(f"{SERVICE}.Watch")["responses"]["200"]["content"]
    assert watch["application/x-ndjson"]["schema"]["items"] == {"$ref": "#/components/schemas/orders.v1.OrderEvent"}
    assert "text/event-stream" in watch
    assert document.operation(f"{SERVICE}.Chat")["requestBody"]["content"].keys() == {"application/connect+json"}


async def test_errors_are_described_as_they_come(client: Client, document: Document) -> None:
    missing = await client.get("/v1/customers/1/orders/0")
    assert missing.status == 404
    assert document.fits(missing.json, {"$ref": "#/components/schemas/google.rpc.Status"})
    wrong = await client.post(CHECK, json={"int32": "x"})
    assert wrong.status == 400
    assert document.fits(wrong.json, {"$ref": "#/components/schemas/connect.Error"})
    responses = document.text["components"]["responses"]
    for name, error in (("Error", "google.rpc.Status"), ("ConnectError", "connect.Error")):
        media = responses[name]["content"]["application/json"]
        assert media["schema"] == {"$ref": f"#/components/schemas/{error}"}
        assert document.fits(media["example"], media["schema"])


async def test_examples_fit_their_schemas_and_are_taken(client: Client, document: Document) -> None:
    tried = 0
    for path, method, operation in document.operations():
        target, body, headers = path, b"", {}
        for parameter in operation.get("parameters", []):
            if "example" in parameter:
                assert document.fits(parameter["example"], parameter["schema"]), parameter
                text = json.dumps(parameter["example"]).strip('"')
                if parameter["in"] == "path":
                    target = target.replace(f"{{{parameter['name']}}}", quote(text, safe=""))
                else:
                    target += f"{'&' if '?' in target else '?'}{parameter['name']}={quote(text)}"
        for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
            headers["content-type"] = media_type
            if "example" in media:
                assert document.fits(media["example"], media["schema"]), media
                body = json.dumps(media["example"]).encode()
        if operation["x-natsmesh"]["kind"] == "unary" and headers.get("content-type") != "*/*":
            answer = await client.request(method.upper(), target, body, headers=headers)
            assert answer.status == 200, (target, body, answer)
            content = operation["responses"]["200"]["content"]
            if "application/json" in content:
                assert document.fits(answer.json, content["application/json"]["schema"]), answer
                assert document.fits(content["application/json"]["example"], content["application/json"]["schema"])
            tried += 1
    assert tried == 16


async def test_an_upload_is_one_request(document: Document) -> None:
    upload = document.operation(f"{SERVICE}.Upload")
    assert upload["requestBody"]["content"].keys() == {"application/octet-stream", "*/*"}
    assert upload["x-natsmesh"] == {"method": f"{SERVICE}/Upload", "protocol": "rest", "kind": "client"}
    with pytest.raises(StopIteration):
        document.operation(f"{SERVICE}.Sum.2")


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("double", [1.5, 0, "NaN", "-Infinity"], ["1.5x", "nan"]),
        ("float", [1.5, "Infinity"], [1e39]),
        ("int32", [0, -(2**31), 2**31 - 1], [2**31, 1.5]),
        ("uint32", [0, 2**32 - 1], [-1, 2**32]),
        ("uint64", ["0", str(2**64 - 1)], ["-1", "01", "1.0"]),
        ("sfixed64", [str(-(2**63)), str(2**63 - 1)], ["x", ""]),
        ("bool", [True], ["true", 1]),
        ("bytes", ["", "aGVsbG8=", "+/8="], ["a", "%"]),
        ("duration", ["1s", "-1.5s", "315576000.000000001s"], ["1", "1m", "1.s", 1]),
        ("mask", ["", "a", "a.b,cD"], ["a_b", ","]),
        ("struct", [{}, {"a": [1, None]}], [[], 1]),
        ("value", [{}, [], "x", 1, True], []),
        ("list", [[], [1, "x", {}]], [{}, "x"]),
        ("wrapped", ["1"], ["x"]),
        ("byNumber", [{"-1": {"count": 1}}], [{"x": {}}, {"1": 1}]),
        ("byBool", [{"true": "OPEN"}], [{"yes": "OPEN"}, {"true": "NO"}]),
        ("null", [None], [0]),
        ("states", [["OPEN"], []], ["OPEN", ["NO"]]),
    ],
)
async def test_values_fit_if_they_are_taken(field: str, right: list[Any], wrong: list[Any]) -> None:
    canned = CannedGateway(schema_of(orders.DESCRIPTOR), SERVICE, Config())
    document = await fetch(canned.client)
    schema = {"$ref": "#/components/schemas/orders.v1.Values"}
    for value in right:
        assert document.fits({field: value}, schema), value
        assert (await canned.client.post("/v1/check", json={field: value})).status == 200, value
    for value in wrong:
        assert not document.fits({field: value}, schema), value


async def test_members_of_a_oneof_exclude_each_other(document: Document) -> None:
    schema = {"$ref": "#/components/schemas/orders.v1.Order"}
    assert document.fits({"address": "here"}, schema)
    assert not document.fits({"address": "here", "pickUp": True}, schema)
    assert not document.fits({"addres": "here"}, schema), "unknown fields are refused by REST"
    assert document.fits({"items": [{"parts": [{"parts": [{"count": 1}]}]}]}, schema), "messages may hold themselves"


# ----------------------------------------------------------------------------------------------------------- the mesh


def contract(service: str, money: str, options: str = "") -> bytes:
    return compile_proto(
        f"""
        syntax = "proto3";
        package {service}.v1;
        import "google/api/annotations.proto";
        import "common.proto";
        service Service {{
          rpc Pay(common.v1.Bill) returns (common.v1.Money) {{ {options} }}
        }}
        """,
        f"{service}.proto",
        {
            "common.proto": f'syntax = "proto3"; package common.v1; message Bill {{ Money sum = 1; Note note = 2; }}'
            f"message Note {{ string text = 1; }} message Money {{ {money} }}"
        },
    )


async def test_two_versions_of_a_type_stay_apart(world: World) -> None:
    await world.backend("one.v1.Service", contract("one", "int64 cents = 1;"))
    await world.backend("two.v1.Service", contract("two", "int64 cents = 1;"))
    await world.backend("old.v1.Service", contract("old", "int32 euros = 1;"))
    document = await fetch(await world.ready_gateway())
    sums = {
        service: document.operation(f"{service}.v1.Service.Pay")["requestBody"]["content"]["application/json"]["schema"]
        for service in ("one", "two", "old")
    }
    assert sums["one"] == {"$ref": "#/components/schemas/common.v1.Bill-one.v1.Service"}
    assert sums["two"] == {"$ref": "#/components/schemas/common.v1.Bill-two.v1.Service"}
    assert sums["old"] == {"$ref": "#/components/schemas/common.v1.Bill"}
    for service, right, wrong in (("one", {"cents": "1"}, {"euros": 1}), ("old", {"euros": 1}, {"cents": "1"})):
        assert document.fits({"sum": right, "note": {"text": "x"}}, sums[service])
        assert not document.fits({"sum": wrong}, sums[service])
    assert [name for name in document.text["components"]["schemas"] if "Note" in name] == ["common.v1.Note"]


async def test_paths_that_differ_in_names_only_share_an_item(world: World) -> None:
    get, put = (
        'option (google.api.http) = {get: "/v1/bills/{note.text}"};',
        ('option (google.api.http) = {put: "/v1/bills/{sum.cents}" body: "note"};'),
    )
    await world.backend("one.v1.Service", contract("one", "int64 cents = 1;", get))
    await world.backend("two.v1.Service", contract("two", "int64 cents = 1;", put))
    document = await fetch(await world.ready_gateway())
    item = document.text["paths"]["/v1/bills/{note.text}"]
    assert item["get"]["parameters"][0]["schema"] == {"type": "string", "minLength": 1}
    other = item["put"]["parameters"][0]
    assert (other["name"], other["schema"]["format"]) == ("note.text", "int64")


async def test_it_follows_the_mesh_and_knows_when_nothing_has_changed(world: World) -> None:
    client = await world.ready_gateway()
    first = await client.get("/openapi.json")
    assert first.json["paths"] == {}
    tag = first.header("etag")
    assert tag is not None
    for known in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
        again = await client.get("/openapi.json", headers={"if-none-match": known})
        assert (again.status, again.body) == (304, b""), known
    await world.backend("one.v1.Service", contract("one", "int64 cents = 1;"))
    async with asyncio.timeout(5):
        while (answer := await client.get("/openapi.json", headers={"if-none-match": tag})).status == 304:
            await asyncio.sleep(0.01)
    assert answer.json["paths"].keys() == {"/one.v1.Service/Pay"}
    await world.backend("two.v1.Service", contract("two", "int64 cents = 1;"))
    async with asyncio.timeout(5):
        while not (await client.get("/openapi.json")).json["paths"].keys() >= {"/two.v1.Service/Pay"}:
            await asyncio.sleep(0.01)
    alone = await fetch(client, "?service=two.v1.Service")
    assert alone.text["paths"].keys() == {"/two.v1.Service/Pay"}
    for query in ("?service=three.v1.Service", "?service=%ff"):
        assert (await client.get(f"/openapi.json{query}")).status == 404
    assert (await client.get(f"/openapi.json?{'&'.join('x=1' for _ in range(99))}")).status == 200


async def test_what_it_says_of_itself(world: World) -> None:
    options = DocsOptions(title="Shop", version="2.1", description="All of the *shop*.")
    client = await world.ready_gateway(docs=options, ignore_unknown=True)
    await orders.serve(await world.connection(), world.prefix)
    async with asyncio.timeout(5):
        while not (await client.get("/openapi.json")).json["paths"]:
            await asyncio.sleep(0.01)
    document = await fetch(client)
    assert document.text["info"] == {"title": "Shop", "version": "2.1", "description": "All of the *shop*."}
    assert document.text["servers"] == [{"url": "/"}]
    assert document.fits({"unheard": 1}, document.schema("orders.v1.Item")), "unknown fields are passed over"
    mounted = await client.get("/openapi.json", scope={"root_path": "/api"})
    assert mounted.json["servers"] == [{"url": "/api"}]


async def test_it_can_be_left_out(world: World) -> None:
    client = await world.ready_gateway(docs=DocsOptions(serve=False))
    for path in ("/openapi.json", "/docs", "/docs/main.js"):
        assert (await client.get(path)).status == 404


async def test_a_large_mesh_does_not_hold_up_calls(world: World) -> None:
    """The document of 1,000 methods is made on a thread, once, whoever asks."""
    fields = " ".join(f"string field_{number} = {number};" for number in range(1, 30))
    methods = " ".join(f"rpc Do{number}(M) returns (M);" for number in range(1000))
    large = f'syntax = "proto3"; package large.v1; message M {{ {fields} }} service Large {{ {methods} }}'
    await world.backend("large.v1.Large", compile_proto(large))
    client = await world.ready_gateway()
    answers = asyncio.gather(*(client.get("/openapi.json") for _ in range(5)))
    turns = 0
    while not answers.done():
        await asyncio.sleep(0)
        turns += 1
    assert {answer.status for answer in await answers} == {200}
    assert len((await answers)[0].json["paths"]) == 1000
    assert turns > 100, "the event loop went on meanwhile"


async def test_what_callers_have_to_show(world: World, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("")
    await orders.serve(await world.connection(), world.prefix)
    jwt = JwtOptions(issuer="https://issuer.example", audience=("shop",), jwks_url="https://issuer.example/keys")
    auth = AuthOptions(api_keys=keys, jwt=jwt, public=(f"{SERVICE}/GetOrder", "/openapi.json", "/v1/check"))
    document = await fetch(await world.ready_gateway(auth=auth), "?connect=all")
    assert document.text["security"] == [{"apiKey": []}, {"bearer": []}]
    assert document.text["components"]["securitySchemes"] == {
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    }
    public = {each["operationId"] for _, _, each in document.operations() if each.get("security") == []}
    assert public == {
        f"{SERVICE}.{name}" for name in ("GetOrder", "GetOrder.2", "GetOrder.Connect", "Check", "Check.2")
    }
